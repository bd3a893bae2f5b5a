// Package registry speaks the distribution protocol: from an image's name to the
// bytes of its manifests and blobs, over all the hosts that may serve them.
//
// # What it owns
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
// # Why not containerd's core/remotes/docker
//
// It is a fetcher that gives a plain ReadCloser, and needs no content store. It was tried
// (v2.4.2, go1.26, amd64, stripped) in a program that pulls a manifest and three times a
// layer of 256 MiB over the loopback, and linked into the daemon:
//
//	                            this package       containerd's
//	size of the program         7.4 MB             9.8 MB (net/http alone: 5.8 MB)
//	packages, modules           224, 11            316, 28
//	berthd                      19.5 MB            20.7 MB (added; this package stays for names)
//	largest resident memory     9 MB               10 MB; with 3 parts of 8 MiB: 107-118 MB
//	requests for a tag          GET                HEAD, then GET
//
// The measurements of time were the same within their spread. Of the five things that
// must not be lost, three can be kept by round-trippers below it: Retry-After (it retries
// 429 at once, so the round-tripper would wait), credentials per host and their helpers
// (all but a bearer token given as it is), and no plain HTTP that was not asked for. Two
// can't:
//
//   - The error is the first host's alone; what the others said is lost above the
//     round-tripper, as are bytes of the wrong digest, for which no other host is asked.
//   - Whether a layer comes in parts is decided before its first byte, from the
//     configuration. Deciding by the rate that is measured would mean to fetch the parts
//     below it: the code of this package again.
//
// And the URLs of foreign layers are fetched with http.DefaultClient, past every
// round-tripper: a manifest could have this machine connect to any address.
//
// # Why not go-containerregistry's remote
//
// Of that library the packages name (references) and types (media types) are used.
// Where name is laxer or stricter than wanted, this package says so beside the call: it
// lets pass hosts and repositories that are neither directory names nor paths of URLs.
// Its package remote knows one host per registry where hosts.toml names several, each
// with its own certificates, headers, credentials and capabilities; it asks /v2/ before
// anything else, a round trip per pull; it turns to plain HTTP for any private address; it
// has no ranges, and so can neither resume a blob nor fetch it in parts; it does not wait
// as long as Retry-After says.
//
// Its package remote/transport could read challenges and exchange tokens, but is made for
// a client that asks /v2/ first and for one registry at one address: it had to be shown
// an invented answer and a false name. The two protocols are 100 lines here.
//
// # Why not ...
//
//   - authn's keychains: the default one reads the home directory's docker
//     configuration, which is nobody's of a daemon; the one for helpers takes a helper
//     that fails for one that has nothing.
package registry
