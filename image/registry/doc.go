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
//   - A registry has one name, in whatever way a user writes it. [Parse] brings names into
//     a canonical form, which trust policies, hosts.toml directories, credentials and
//     records compare; a [Pattern] is brought into the same form. Two names that only DNS
//     resolves to the same machine are two registries.
//   - A credential is sent to one host, and to the token server that this host names.
//     The credential of a pull request is for the image's registry, or for the host in its
//     server_address; a credential in hosts.toml is for the host of its table. Headers and
//     credentials are added to each request by itself, and only if it goes to exactly that
//     host and port, so that a redirected request carries none.
//   - https is never replaced by http, except for a registry on the loopback that doesn't
//     speak TLS.
//   - A registry can name other hosts: by redirects, as token servers, in the URLs of
//     foreign layers. Berth connects to such a host only if its address is public, or of
//     the same kind as the registry's own address (loopback, link-local, private), or in
//     private_redirects of hosts.toml. The address is checked when it is dialled, and
//     connections to such hosts are kept in a pool of their own. A proxy resolves names by
//     itself, so behind a proxy only literal addresses can be checked.
//   - The error of a failed request names every host that was tried and the reason of each
//     failure, in up to 600 printable characters each. It does not contain the answers of
//     hosts that a registry named, nor of a token server with another host name: they
//     could be answers of internal services.
//   - An answer with status 200 can still be a failure: a web page in place of a manifest,
//     bytes of another digest or length, an incomplete body. Then the next host is asked,
//     or the last host once more. The error is [ErrUnavailable] only when a registry
//     can't be reached or answers 429 or 5xx.
//   - A token that the registry refuses before it has expired is replaced, once per
//     request.
//   - Every wait is bounded: for a connection, for response headers (at most 256 KiB),
//     for each read of a body. A body must bring 1 KiB/s on average over each minute of
//     waiting, otherwise the connection counts as broken. A download that is resumed must
//     have made the same progress since it was resumed the last time.
//
// # Locks
//
// Client.mu guards its caches of transports and tokens; it is never held across I/O.
//
// # Why not containerd's core/remotes/docker
//
// It fetches blobs as a plain io.ReadCloser and needs no content store. It was tried
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
// The times were the same within their spread. Berth needs five features. Three of them
// can be provided by an http.RoundTripper below containerd's client: Retry-After (the
// client retries 429 at once, so the round-tripper would wait), credentials and credential
// helpers per host (except for a bearer token of the user), and no plain HTTP unless it
// was configured. Two can't:
//
//   - The errors of all hosts. The client returns the error of the first host. It also asks
//     no other host after bytes of the wrong digest.
//   - Parallel parts only for slow downloads. The client decides by its configuration,
//     before the first byte, whether a layer is fetched in parts. To decide by the measured
//     rate, the parts would have to be fetched below the client, by the code that this
//     package has.
//
// The client also fetches the URLs of foreign layers with http.DefaultClient, without the
// round-tripper: a manifest could make this machine connect to any address.
//
// # Why not go-containerregistry's remote
//
// The packages name (references) and types (media types) of that library are used.
// Package name accepts hosts and repositories that are neither names of directories nor
// paths of URLs, and refuses some that are valid; comments at the calls say how that is
// corrected.
//
// Its package remote has one host per registry, while hosts.toml lists several, each with
// certificates, headers, credentials and capabilities of its own. It asks for /v2/ before
// anything else, which is a round trip per pull. It uses plain HTTP for any private
// address. It makes no range requests, so it can neither resume a blob nor fetch it in
// parts. It does not wait for the time in Retry-After.
//
// Its package remote/transport can read challenges and request tokens, but expects a
// client that asks for /v2/ first and one address per registry. It could be used only with
// a made-up answer to /v2/ and a made-up registry name. The two protocols are 100 lines
// in this package.
//
// # Why not the keychains of go-containerregistry's authn
//
// The default keychain reads docker's configuration in the home directory, and a daemon
// has none. The keychain for credential helpers does not tell a helper that failed from a
// helper that has no credentials.
package registry
