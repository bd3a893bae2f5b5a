// Package cni attaches pods to the node's network through CNI plugins.
//
// # What it owns
//
// [Network] is one CNI configuration: the first .conflist, .conf or .json file
// of the configuration directory in lexical order, as the kubelet's own rule
// was, or the default network given in memory when the directory has none. It
// runs the plugins (libcni is imported only here), says why the network is not
// ready, and remembers what each pod was attached with. The loopback interface
// is not its business: the pod's pause process brings it up.
//
// # Invariants
//
//   - Record first, destroy last: before the first plugin runs, the
//     configuration and arguments of the attachment are written down, and they
//     go after DEL has succeeded. A daemon killed in the middle of ADD, or an
//     operator who replaced the configuration meanwhile, still gets a DEL with
//     what ADD was given.
//   - An ADD that fails is followed by a DEL before the caller hears of it.
//   - Before DEL all that an ADD left running is ended, also what a killed daemon left:
//     a plugin gets its input only when it is on record, so that its process group can
//     be found; what left the group is known by the variables of the protocol.
//   - A result without an address is a failed ADD.
//   - A pod may go while a plugin is missing ([Network.Forgo]). Its record stays, and
//     its namespace, and it is detached when the plugin is back.
//   - GC runs beside the node's work. An ADD ends the plugins' GC, which begins anew:
//     they would free what the ADD allocates.
//   - DEL never runs on the request's deadline: a client that gives up must not
//     leave an address allocated. It has a bound of its own, see delTimeout.
//   - The first file decides. A bad first file makes the network not ready;
//     falling through to the next one would put pods on another network than
//     the operator meant.
//   - Nothing is polled. inotify tells of configuration changes; a plugin's
//     STATUS is asked when someone asks [Network.Ready], see statusTTL.
//
// # Locks
//
// Network.mu guards the loaded configuration and is held for assignments only.
// Network.statusMu makes concurrent callers of Ready share one run of the
// STATUS plugins; it is taken without mu held. turns.mu and debts.mu guard what
// their types say and are held for assignments only. Attachments need no lock: pods
// have separate files, and one pod's verbs are serialised by the sandbox.
//
// # Files
//
//	CACHE/pods/POD                intent: conflist and arguments of the attachment
//	CACHE/results/NET-POD-eth0    libcni's own cache: the result, for DEL and CHECK
//	CACHE/attempts/POD            the plugin of an ADD that runs or has failed
//	CACHE/netns/POD               pinned network namespace of a pod that is owed a DEL
//
// None is fsynced. They serve a daemon that was killed; after a power loss
// the namespaces are gone as well, and DEL with the present configuration frees
// the address.
//
// # Why not go-cni or ocicni
//
// Both wrap libcni in a loader of their own that polls or serialises ADDs and
// forgets the configuration between ADD and DEL, which is the part needed here.
//
// # Why plugins are run by our own exec
//
// libcni's kills only the plugin when the deadline passes, and then waits for
// its IPAM child, which holds the pipe, without bound. Ours kills the group.
//
// # Why portmap is not run for a pod without host ports
//
// The specification runs every plugin of the list. The reference portmap passes
// its input through when it is given no mappings, and starting a process for
// that took 8 of the 45 ms of an ADD on the default network. The list without
// it is also what DEL gets.
package cni
