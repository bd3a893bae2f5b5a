// Package layer turns one layer archive of an image into a directory tree that
// overlayfs can use as a lower directory, and turns such a tree back into the
// very same archive. The entry points are [Apply], [Inherit], [Assemble] and [Verify];
// [Decompress], [Ahead] and [Digester] are the stages of the pipeline before Apply.
//
// # What it owns
//
// The content of one layer directory. It keeps nothing in memory between two calls.
//
// # Invariants
//
//   - Nothing is ever created, changed or read outside DIR, whatever names, links
//     and orders the archive holds: every parent directory is resolved by openat2
//     with RESOLVE_IN_ROOT, or by a walk that never follows a link in the kernel,
//     and every operation is relative to that directory with NOFOLLOW.
//   - Journal and tree give back the archive byte for byte ([Assemble]), so that a
//     layer can be verified against its diffID and exported with it, although its
//     blob was not kept.
//   - Memory does not grow with the archive, except for the modification times of its
//     directories and the names of the files that it replaced (at most 4 MiB each).
//   - The work on a layer is linear in the number of its entries. A directory that occurs
//     only as a part of other entries' paths counts as an entry. The kernel resolves most
//     paths in one call. Where it can't, because of a symbolic link or a missing
//     directory, each element of the path that is resolved by itself counts as a step, and
//     an archive may take 64 steps per entry. The number of lookups that [Inherit] makes
//     in the layers below is bounded too. All work ends with its context.
//   - No path in the tree has more than 255 elements or 3500 bytes (PATH_MAX is 4096 and
//     includes the path of the store). No name and no link target is longer than PATH_MAX.
//     Every tool can therefore reach, walk and remove what was unpacked.
//   - Nothing is flushed to disk here: package image flushes all layers of an image at
//     once.
//
// # Locks
//
// None: one goroutine works on one DIR.
//
// # Files
//
//	DIR/fs/      the tree; whiteouts are 0/0 character devices, opaque directories
//	             carry the xattr trusted.overlay.opaque=y; a directory that has no
//	             counterpart in the layers below has no whiteouts
//	DIR/journal  everything of the tar stream but the content of files (headers,
//	             padding, the tail), zstd-compressed, with references to files in fs/
//	DIR/shadow/  content that the archive wrote and later replaced; mostly absent
//	DIR/implied  list of the directories that occur in paths only and have no entry of
//	             their own; [Inherit] copies their attributes from the layers below
//	             and removes the list
//	DIR/whiteouts  list of the whiteouts; [Inherit] removes those that hide nothing,
//	             and the list
//
// # Why not X
//
//   - mount the layers below and unpack into the merged view: then the layers of an image
//     could not be unpacked in parallel. Only the attributes of directories without an
//     entry are needed from below; [Inherit] copies them at the end.
//   - os.Root: it opens every element of a path on every call, while package layer keeps
//     the directory of the last entry open. It has no mknod and no xattr.
//   - chroot in another process: that takes a process per layer.
//   - a tar reader of our own: archive/tar is fuzzed by the Go team. The position of the
//     data of a sparse file is found by the buffers that archive/tar reads into, which its
//     documentation does not promise: recorder.go says what happens if that changes.
//   - vbatts/tar-split, which also keeps what is needed to make an archive again: it
//     refuses archives that contain a path twice, which docker build makes, and according
//     to its documentation does not restore sparse files. It writes a JSON object per
//     entry, and all content passes through its own reader. Here content goes from the
//     tar reader's buffer to the disk.
//   - keep the compressed blob: it would take the disk space twice.
//   - compress/gzip: the package of klauspost/compress decompresses the layers of the
//     benchmarks 1.2 to 1.5 times as fast (144 against 116 and 154 against 104 MB/s), and
//     a pull spends most of its time on decompression.
package layer
