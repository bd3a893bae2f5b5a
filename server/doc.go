// Package server makes a daemon of the other packages. It is the only one that
// sees them all.
//
// # What it owns
//
// The order in which things are opened, taken over from an earlier daemon and
// closed; the socket and the locks that keep two daemons apart; signals and
// systemd's notifications; the adapters by which package sandbox uses packages
// image and cni without knowing them; the built-in default network.
//
// # Start
//
//	lock root and state            two daemons on one root would undo each other
//	images, network, host, shims   shims: those that live are reconnected
//	listen                         calls wait from here on, none is refused
//	sandbox.Recover                records read, facts compared, layers held
//	image sweep, network GC, seeds begun, since it is known now what nobody needs; nothing
//	                               waits for them: a plugin may hang, a layer be huge
//	ready                          calls proceed, systemd is told READY
//
// # End
//
// SIGTERM or SIGINT: no new change is begun, those in flight get drain_timeout and,
// cut short, a few seconds to undo what they began; then the socket closes.
// Containers live on in their shims; a shim that holds none is asked to leave.
// SIGUSR1 logs every goroutine's stack.
//
// # Invariants
//
//   - One daemon per root and per state directory, by flock, which a killed
//     daemon can't leave behind. It is waited for, since what that daemon had
//     just forked shares it for a moment; who has it then is named.
//   - The socket is replaced only when nobody answers at it, and is never open to
//     others than root's group, not even while it is made.
//   - What was opened is closed in reverse order, also when the start fails half way.
//
// # Locks and files
//
// No mutex of its own. ROOT/berthd.lock and STATE/berthd.lock hold the PID of the
// owner; the socket is the one of the configuration.
//
// # Why not socket activation
//
// The kubelet retries by itself, and a daemon that is started by its first call
// would leave the pods of the last boot unattended until then.
package server
