// Package registry speaks the distribution protocol: from an image's name to the
// bytes of its manifests and blobs, over all the hosts that may serve them.
//
// # Owns
//
// References ([Parse]), the certs.d directories with their hosts.toml (read anew for
// every pull, so a change needs no restart), credentials, retries and resumption.
// It keeps no files.
//
// # Invariants
//
//   - A credential is sent to one host only, and to the token server that host
//     names: what a client gives goes to the image's own registry, or to the host
//     its server_address names; what hosts.toml gives goes to the host of its table.
//     Headers and credentials are put on a request below the redirects, for exactly
//     that host, so a redirect takes none along.
//   - A connection is never downgraded from https to http, except for a registry on
//     the loopback that doesn't speak TLS.
//   - A failed request names every host that was tried and why each failed.
//   - Nothing waits for ever: dialing, response headers and every read of a body are
//     bounded.
//
// # Locks
//
// Client.mu guards its caches of transports and tokens; it is never held across I/O.
//
// # Why not ...
//
//   - go-containerregistry's remote package: it knows one host per registry, asks
//     /v2/ before anything else, has no ranges and thus can't resume, turns to
//     plain HTTP for any private address, and refuses token servers on private
//     addresses, which registries inside a company have. The tests use its registry.
//   - containerd's remotes: they bring containerd's content store along.
package registry
