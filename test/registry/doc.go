// Package registry serves images to tests: a real registry on loopback with
// images made here, so that no test needs the network's registries.
//
// # What it owns
//
// [Registry] is go-containerregistry's in-memory registry on 127.0.0.1 at a
// free port. A runtime reaches it under the images' own names
// (registry.k8s.io/…, docker.io/…) by a directory of hosts.toml files, see
// [Registry.WriteHosts]. [Critest] gives every image that critest v1.36.0 asks
// for, [Busybox] and friends are the same as single images.
//
// # Invariants
//
//   - What is in an image comes from Debian's packages, fetched by apt-get
//     download and unpacked beside, never installed, or is built from this
//     repository. Packages are kept in bin/test-cache of the repository
//     ($BERTH_TEST_CACHE where set), so the second run needs no network.
//   - Layers are the same bytes for the same files: times, owners and order are
//     fixed here.
//
// # Why not busybox-static
//
// critest masks /bin/ls and expects the shell to fail at running it. The shell
// of busybox-static prefers its own ls to the one in PATH and does not notice.
//
// # Why not every digest that critest asks for
//
// One spec pulls an image by a digest whose bytes can't be made here. Package
// test/critest replaces that digest in critest by the digest of an image made here.
package registry
