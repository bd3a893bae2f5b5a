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
//   - Memory does not grow with the archive, except for the times of its directories
//     and the names of files it replaced (4 MiB each).
//   - The work on a layer is linear in its entries, among which the directories count
//     that its paths only imply: an element of a path that the kernel can't resolve in
//     one call, because of links or of what is missing, counts as a step, of which an
//     archive has 64 per entry. What [Inherit] looks up below is bounded for a layer.
//     All of it ends with its context.
//   - No path has more than 255 elements, nor more than 3500 bytes (PATH_MAX is 4096,
//     with the path of the store before it), nor any name or link target more than
//     PATH_MAX: every tool can reach, walk and remove what is unpacked.
//   - Nothing is flushed to disk here: the image store commits all layers of an
//     image at once.
//
// # Locks
//
// None: one goroutine works on one DIR.
//
// # Files
//
//	DIR/fs/      the tree; whiteouts are 0/0 character devices, opaque directories
//	             carry the xattr trusted.overlay.opaque=y; a whiteout in a directory
//	             that is merged with none below is not there
//	DIR/journal  everything of the tar stream that is no file content (headers,
//	             padding, the tail), zstd-compressed, with pointers into fs/
//	DIR/shadow/  content the archive itself wrote and later replaced; mostly absent
//	DIR/implied  directories the archive does not describe, until [Inherit] gave them
//	             the attributes they have below
//	DIR/whiteouts  whiteouts that were made, until [Inherit] removed those that hide
//	             nothing
//
// # Why not ...
//
//   - mount the parents and unpack into the merged view: then layers could not be
//     unpacked side by side. What a layer needs from below (the attributes of
//     directories it only implies) is copied at the end by [Inherit].
//   - os.Root: it opens every path component on every call, where a cached parent
//     directory costs none, and has no mknod and no xattr.
//   - chroot in another process: it costs a process per layer.
//   - a tar reader of our own: archive/tar is fuzzed by the Go team. Where the data
//     of a sparse file lies is read off the buffers it passes down, which relies on
//     more than it promises: see recorder.go for what happens if that changes.
//   - vbatts/tar-split, which keeps what is needed to give an archive back too: it
//     refuses archives that name a path twice, which docker build makes, and by its own
//     description does not give sparse files back. It writes a JSON object per entry, and
//     has the whole file pass through its own reader, where here a file's data goes from
//     the tar reader's buffer to the disk.
//   - keep the blob: it would take the disk space twice.
//   - compress/gzip: klauspost's inflates the layers of our benchmarks 1.2 to 1.5
//     times as fast (144 to 116 and 154 to 104 MB/s), and inflating is what a pull
//     spends most of its time on.
package layer
