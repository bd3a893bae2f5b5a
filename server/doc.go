// Package server makes a daemon of the other packages. It is the only package that
// imports all of them.
//
// # What it owns
//
// The order in which things are opened, taken over from an earlier daemon and
// closed; the socket and the locks that keep two daemons apart; signals and
// systemd's notifications; the adapters by which package sandbox uses packages
// image and cni without importing them; the built-in default network.
//
// What is where: node.go opens and closes the parts, server.go runs them, adapters.go joins
// packages that do not import each other, observe.go feeds the metrics (traces are in the calls' contexts), listen.go and
// containerd.go make the sockets, certificate.go has the streams' certificate, reload.go and
// signals.go obey signals, watchdog.go and notify.go talk to systemd.
//
// A start takes these steps, in this order:
//
//	lock root and state            two daemons on one root would undo each other's work
//	images, network, host, shims   a shim that is alive is connected to again; runtimes
//	                               (package runtimes) are asked what they can do meanwhile
//	listen                         calls are accepted, and wait until the daemon is ready;
//	                               also at containerd's path, where cAdvisor looks only once
//	sandbox.Recover                read records, compare them with the kernel, hold layers
//	image sweep, network GC, seeds these are begun now that it is known what is in use;
//	                               the start does not wait for them, because a plugin may
//	                               hang and a layer may be large
//	ready                          calls proceed, systemd is told READY
//
// On SIGTERM or SIGINT no new change is begun. Changes in progress get drain of timeouts;
// after that they are cancelled and get a few seconds to undo what they began. Then the
// socket is closed. Containers keep running in their shims; a shim without pods is asked
// to exit. On SIGHUP the configuration is reloaded; on SIGUSR1 the daemon logs the stacks
// of all goroutines.
//
// Where systemd's unit has a watchdog, the daemon pings it while it answers calls of its
// own; one that hangs is killed with SIGABRT, which logs the stacks, and started again.
//
// # Invariants
//
//   - There is one daemon per root and per state directory. A flock(2) sees to it, which
//     the kernel drops when the daemon is killed. A child that the killed daemon had just
//     forked may hold the lock a moment longer, so a starting daemon waits a little, and
//     then fails with the name of the process that holds it.
//   - An existing socket is replaced only when nothing answers at it. A socket is never
//     accessible to others than root and its group, not even while it is made.
//   - The path of containerd's socket is lent: it is served while no containerd answers
//     there, and left at once to one that starts later. It is taken only by a link, which
//     replaces nothing, after a socket that nobody answers at was moved aside by its inode;
//     it is never taken back, and at the end only berth's own inode is removed.
//   - What was opened is closed in reverse order, also when the start fails in between.
//
// The package's tests hold the whole tree to its rules: house_test.go the imports and the
// form of each doc.go, readme_test.go what README.md names and its size (150 lines of 120
// columns), threatmodel_test.go the tests that THREATMODEL.md names.
//
// # Locks
//
// certificate.mu is held by the one handshake that looks whether the certificate's files
// have changed; the others do not wait for it. The flock of each directory is held until all
// else is closed, and the next daemon waits for the end of the process as well.
//
// # Files
//
//	ROOT/berthd.lock, STATE/berthd.lock   locked while a daemon runs; the owner's PID
//	listen (configuration)                the socket of the CRI
//	STATE/streams.crt                     the streams' certificate, if stream_tls is self-signed
//	containerd_socket (configuration)     the path lent; a killed daemon leaves it to the next
//
// # Why not socket activation
//
// The kubelet retries by itself. A daemon that is started by its first call would
// leave the pods of the last boot unattended until that call.
package server
