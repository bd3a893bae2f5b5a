// Package image is the image store: it pulls images, keeps their layers unpacked,
// mounts them, and gives them up again.
//
// # What it owns
//
// The images of one root directory, their unpacked layers, and the pulls and loads in
// progress. The entry point is [Open].
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
//   - No registry and no pull holds up another's: see [Options] and, for
//     registries that send too slowly, package image/registry.
//   - Readers (Get, List) take no lock: they see an immutable index.
//   - What an image can make slow (unpacking, completing, measuring, removing a layer)
//     is done outside of every lock and of the bounded pool of downloads where it is no
//     download, and ends with its client or the store. Sweep can run aside.
//
// # Limits
//
// Whatever an image or an archive holds, taking it in or refusing it costs less than
// 100 MiB of memory, and some KiB while it is in the store:
//
//	document (index, manifest, configuration)  4 MiB, 50,000 JSON values
//	command, environment, volumes of an image  256 KiB together
//	name of the image's user                   256 bytes
//	annotations of a manifest                  16 KiB together
//	layers of an image                         500
//	one layer                                  see [layer.Limits] and package layer
//	archive to be loaded                       64 GiB uncompressed,
//	                                           100,000 entries, names of 1 KiB and 8 MiB
//	                                           together, 1000 images, 100 names of each
//
// What is beyond one is refused with an error that names it, and leaves nothing.
//
// # Parts
//
// [Store] only puts these together; each can be made and tested by itself:
//
//	catalogue   ROOT/images: records, and which image has which name
//	layerPool   ROOT/layers: complete layers, references to them, their deletion
//	staging     layers in the making, with the slots that bound them
//	pulls       pulls in progress, shared by those who ask for the same (Store.Pull)
//	puller      the work of a pull: what the name means now, the trust policy
//	loader      archives: what docker save writes, OCI layouts
//	examiner    manifests and configurations, checked
//	importer    an examined image, from its layers to its record
//
// # Locks
//
// Each part has its own. A function that says so is called with its part's mu locked.
//
//	catalogue.mu        whoever changes records or names; held across the writes of
//	                    records and, in put and removeAllWith, calls into the pool.
//	                    Readers take an immutable index and no lock
//	staging.publishing  stages become layers one after the other; held across renames
//	                    and the fsync of their directory, and guards stage.renamed
//	staging.mu          the stages and what they say of themselves; never across I/O
//	layerPool.renames   changes of names in ROOT/layers; held across renames only
//	layerPool.mu        layers, references and holds; never across I/O
//	pulls.mu            the pulls; never across I/O
//
// They are taken in this order; pulls.mu and the slots' own are innermost. None is held
// across a download, a syncfs, the hashing of a layer or a walk through one.
// A stage's inheriting channel lets one pull at a time complete a layer; it is waited for
// with a context, holding nothing.
//
// # Files
//
//	ROOT/images/HEX.json   one record per image, named by its ID: manifest,
//	                       configuration, tags, digests, layers; written durably.
//	                       Manifest and configuration are only here, not in memory
//	ROOT/images/.lock      held while the store is open
//	ROOT/layers/CHAINID/   one unpacked layer (see package image/layer)
//	ROOT/layers/.tmp-*     layers being unpacked or deleted; dropped by Sweep
//	ROOT/layers/.empty/    lower directories with nothing in them
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
