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
// # What go-containerregistry does, and what it can't
//
// Its packages name (references), types (media types), authn (credentials) and
// transport (challenges, token exchange, error bodies) are used; docker's
// credential-helpers package runs the helpers. Where they are laxer or stricter than
// wanted, this package says so beside the call: name lets pass hosts and
// repositories that are neither directory names nor paths of URLs, transport refuses
// token servers on private addresses, which registries inside a company have.
//
// Its package remote, which would fetch, is not used. It knows one host per registry
// where hosts.toml names several, each with its own certificates, headers,
// credentials and capabilities; it asks /v2/ before anything else, a round trip per
// pull; it turns to plain HTTP for any private address; it has no ranges, and so can
// neither resume a blob nor fetch it in parts; it does not wait as long as
// Retry-After says. transport.New, the client it is made of, is tied to one host by
// the same.
//
// # Why not ...
//
//   - authn's keychains: the default one reads the home directory's docker
//     configuration, which is nobody's of a daemon; the one for helpers takes a helper
//     that fails for one that has nothing.
//   - containerd's remotes: they bring containerd's content store along.
package registry
