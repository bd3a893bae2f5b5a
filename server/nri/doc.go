// Package nri serves the plugins of the node, programs of its operator that are told of
// pods and containers and may change or refuse them: the Node Resource Interface, by
// github.com/containerd/nri.
//
// # What it owns
//
// [Plugins] implements [sandbox.Plugins], which says what is told when: relay.go makes the
// requests and does what plugins answer or ask for on their own, describe.go describes pods
// and containers, spec.go and generator.go change a container's spec, guard.go stands
// between the library and the sockets, plugins.go opens and closes all that.
//
// Plugins connect to a socket, or are started from a directory. The library asks each in
// the order of its index, merges what they want and refuses what two of them claim. What
// release 0.12.5 loses is made good here: evictions (guard.go), removed variables and
// devices (spec.go), which plugin an error is of (plugins.go); but not a limit of processes
// in the answer to an update or a stop. Classes of block I/O are refused, as the files that
// say what they stand for are of the peers.
//
// # Invariants
//
//   - A plugin is trusted like root, but can't hold up the node. For each request it has
//     the request timeout; then it is cut off, the request goes on without it and the log
//     names it. (A plugin may ask in its failure policy to be kept, or that the request
//     fails.) One that does not read its socket is cut off as well, and so is one that
//     sends calls and reads no answers. At most 16 calls of plugins are worked on or wait.
//   - An error of a plugin fails the call that it was asked about, and names the plugin.
//   - What a plugin asks for other containers is tried for half of the request timeout; a
//     failure is logged, and told to a plugin that asked on its own.
//   - A plugin that connects gets the list of what runs before any notice. Meanwhile verbs
//     wait at [Plugins.Hold]; it waits for verbs under way, at most ten seconds for each.
//   - While no plugin is there nothing is described: all notices of a pod and its container
//     together take 27 µs and 52 allocations (BenchmarkNoPlugins), where a pod takes 45 ms.
//
// # Locks
//
// The library has one lock, held while plugins answer, so that requests come one at a time.
// This package takes none while it calls the library; counters.mu and evictions.mu are for
// assignments. Verbs wait for the library with the slots of their own pod and container
// held, never with a lock that other pods need.
//
// # Files
//
//	nri_socket (configuration)   where plugins connect, for root only
//
// # Why not X
//
// Why not plugins as WebAssembly, which the library can run: it costs each daemon the
// compiler in its memory, and no plugin that is in use needs it. berthd is built with the
// tag nri_no_wasm.
//
// Why not runtime-tools for generator.go: its last release does not compile with
// runtime-spec 1.3.
package nri
