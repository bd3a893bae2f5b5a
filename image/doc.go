// Package image is the image store: it pulls images, keeps their layers unpacked,
// mounts them, and removes them.
//
// # What it owns
//
// The images of one root directory, their unpacked layers, and the pulls and loads in
// progress. The entry point is [Open].
//
// Image.ID is the digest of the image's configuration; for an OCI artifact it is the
// digest of the manifest. The CRI knows images by it. Size is the disk space of the
// image's layers (allocated bytes, as du counts them), its manifest and its
// configuration. Deleting an image that shares no layer with another frees as much.
//
// [Store] consists of these parts; each can be constructed and tested by itself:
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
// # Invariants
//
//   - An image that is listed is complete. Its record is written only after all its
//     layers were flushed to disk (one syncfs(2) for the image) and renamed to their
//     final names. A crash before that leaves trees without a record, which Sweep deletes.
//   - A layer directory under its final name is complete and never changes.
//   - An image goes by its record alone. One that is damaged, or that lacks a layer, is put
//     aside when the store is opened. One that can't be read for another reason, such as a
//     faulty disk, keeps the store from being opened, and nothing is changed.
//   - A layer is deleted as soon as no image, no [Store.Hold] and no pull in progress
//     refers to it. Before the first Sweep nothing is deleted: after a restart of the
//     daemon not all holds may be known until then.
//   - A layer that [Store.Check] found damaged and dropped is in no image and in no new mount
//     from then on. Containers that are mounted on it keep its files, over restarts, until
//     the last of them has released its hold.
//   - Every byte from a registry is verified before it is used: blobs by the digest of
//     their descriptor, uncompressed layers by the diffID in the configuration.
//   - Pulls that need the same layer from the same registry share one download, and pulls
//     of the same name with the same credentials are one pull. It is cancelled when its
//     last client has given up. Pulls that need the same layer from different registries
//     don't wait for each other: the first to complete it cancels the other's download.
//   - No registry and no pull delays the pulls from other registries: see [Options] and,
//     for registries that send too slowly, package image/registry.
//   - Get and List take no lock: they read an immutable index.
//   - Work that an image can make slow (unpacking, completing, measuring or removing a
//     layer) is done while no lock is held, and takes no slot of the bounded number of
//     downloads unless it is a download. It ends with its client or with the store.
//     Sweep can run at the same time as other calls.
//
// Limits. Whatever an image or an archive contains, bringing it into the store or refusing
// it takes less than 100 MiB of memory. An image in the store takes some KiB.
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
// What exceeds a limit is refused with an error that names the limit, and leaves nothing
// in the store.
//
// # Locks
//
// Each part has its own. A comment says which functions are called with mu locked; it is
// the mu of their part.
//
//	catalogue.mu        guards the records and names. Held while records are written and,
//	                    in put and removeAllWith, during calls of the pool. Readers use
//	                    an immutable index and take no lock
//	staging.publishing  lets one pull at a time turn its stages into layers, and guards
//	                    stage.renamed. Held during the renames and the fsync(2) of
//	                    their directory
//	staging.mu          guards the stages and their fields; never held during I/O
//	layerPool.renames   guards the names in ROOT/layers; held during rename(2) only
//	layerPool.mu        guards layers, references and holds; never held during I/O
//	pulls.mu            guards the pulls; never held during I/O
//
// They are taken in this order. pulls.mu and the mutexes of the slots are innermost. None
// is held during a download, a syncfs, the hashing of a layer or a walk through a layer.
// The channel stage.inheriting lets one pull at a time complete a layer. A pull waits for
// it with its context and holds no lock meanwhile.
//
// # Files
//
//	ROOT/images/HEX.json   one record per image, named by its ID: manifest,
//	                       configuration, tags, digests, layers; written durably.
//	                       Manifest and configuration are not kept in memory
//	ROOT/images/.lock      held while the store is open
//	ROOT/layers/CHAINID/   one unpacked layer (see package image/layer)
//	ROOT/layers/.tmp-*     layers being unpacked or deleted; deleted by Sweep
//	ROOT/layers/.dropped-CHAINID-*
//	                       damaged layers that containers are mounted on
//	ROOT/layers/.empty/    empty lower directories
//
// # Why not X
//
//   - keep the compressed blobs: everything would be on disk twice. The original archive
//     can be made again from each tree and its journal, for export and for verification.
//   - a database: with one file per image, each image takes one atomic write, can be read
//     with jq, and a damaged file costs one image.
//   - an fsync per file: each is a commit of the filesystem's journal. One syncfs brings
//     all files of the image to disk before its record. A pull takes one syncfs and three
//     fsyncs.
//   - containerd's snapshotters or containers/storage: each layer would have to be mounted
//     or locked through their stores, in the formats of their daemons.
//   - go-containerregistry's package remote: see package image/registry, which uses other
//     packages of that library.
package image
