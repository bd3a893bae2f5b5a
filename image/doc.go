// Package image is the image store: it pulls images, keeps their layers unpacked,
// mounts them, and gives them up again.
//
// # Owns
//
//	ROOT/images/HEX.json   one record per image, named by its ID: manifest,
//	                       configuration, tags, digests, layers; written durably
//	ROOT/images/.lock      held while the store is open
//	ROOT/layers/CHAINID/   one unpacked layer (see package image/layer)
//	ROOT/layers/.tmp-*     layers being unpacked or deleted; dropped by Sweep
//	ROOT/layers/.empty/    lower directories with nothing in them
//
// Image.ID is the digest of the configuration, for OCI artifacts that of the
// manifest; it is the one identifier the CRI sees. Size is what the image's layers
// take of the disk, allocated bytes as du counts them, plus its manifest and
// configuration: what the kubelet gets back by deleting an image that shares
// nothing.
//
// # Invariants
//
//   - Whatever is listed is whole: a record is written after all its layers were
//     flushed (one syncfs for the image) and renamed to their names. A crash before
//     that leaves unreferenced trees, which Sweep deletes.
//   - A layer directory under its own name is complete and never changes.
//   - A layer is deleted when no image, no [Store.Hold] and no pull in progress
//     refers to it, at once, and not before the first Sweep: until then the holds of
//     a daemon that was restarted may not all be known.
//   - Every byte from a registry passes a digest before it counts: blobs their
//     descriptor's, uncompressed layers the configuration's diffID.
//   - One download of a layer from a registry, and one pull of a name with the same
//     credentials, serve all who want it; it is cancelled when the last of them gave
//     up. Pulls that would have a layer from different registries don't wait for each
//     other: the first that has it ends the other's download.
//   - No registry and no pull holds up another's: see [Options].MaxParallel and, for
//     registries that send too slowly, package image/registry.
//   - Readers (Get, List) take no lock: they see an immutable index.
//
// # Locks
//
// Store.commit serializes what changes records and layer names; it is held across
// small writes, never across a download or a syncfs. Store.mu guards the maps and is
// never held across I/O. Order: commit, then mu, then the slots' own.
//
// # Why not ...
//
//   - keep compressed blobs: the disk would hold everything twice. The journal beside
//     each tree gives the original archive back, for export and for verification.
//   - a database: one file per image is one atomic write per image, can be read with
//     jq, and a damaged one costs one image.
//   - fsync per file: each is a commit of the journal; one syncfs orders all files of
//     the image before its record. A pull costs one syncfs and three fsyncs.
//   - containerd's snapshots or containers/storage: each layer would have to be
//     mounted or locked through their stores, with their daemons' formats.
//   - go-containerregistry's remote: see package image/registry, which uses the rest
//     of that library.
package image
