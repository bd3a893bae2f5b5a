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
//   - A registry has one name, however it is written: a [Reference] is in the form that
//     trust policies, hosts.toml directories, credentials and records compare, and
//     [Pattern]s are read into it. Names that only the resolver knows to mean one
//     machine are different registries.
//   - A credential is sent to one host only, and to the token server that host
//     names: what a client gives goes to the image's own registry, or to the host
//     its server_address names; what hosts.toml gives goes to the host of its table.
//     Headers and credentials are put on a request below the redirects, for exactly
//     that host and port, so a redirect takes none along.
//   - A connection is never downgraded from https to http, except for a registry on
//     the loopback that doesn't speak TLS.
//   - Hosts that a registry names (redirects, token servers, the URLs of foreign layers)
//     are connected to only at addresses that are public, or of the kind the registry's
//     own answer came from (loopback, link-local, private), or listed under
//     private_redirects in its hosts.toml. The address is judged when it is dialled, and
//     connections to such hosts are not shared with others. Behind a proxy, which
//     resolves names itself, only addresses written out are judged.
//   - A failed request names every host that was tried and why each failed, in up to 600
//     printable characters each. Of hosts that a registry names, and of a token server
//     with another host name, what they answered is not told.
//   - A success is not believed: a page in place of a manifest, bytes of another digest
//     or length, and answers that end short make the next host be asked; the last one
//     is asked once more. Only registries that can't be reached, or say 429 or 5xx, are
//     told as unavailable.
//   - A token that the registry refuses before its end is renewed, once per request.
//   - Nothing waits for ever: dialing, response headers (256 KiB) and every read of a
//     body are bounded. A body must bring 1 KiB/s on average over each minute that is
//     spent waiting for it, or the connection counts as broken; so does a blob's that
//     breaks off with less than that since the last time.
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
// token servers by what is written in their URLs, where names are let pass.
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
