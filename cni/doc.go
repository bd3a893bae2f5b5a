// Package cni attaches pods to the node's network through CNI plugins.
//
// # What it owns
//
// [Network] is one CNI configuration: the first .conflist, .conf or .json file
// of the configuration directory in lexical order (the rule that the kubelet had), or the
// default network given in memory when the directory has none. It runs the plugins
// (libcni is imported only here), says why the network is not ready, and records the
// configuration with which each pod was attached. It does not set up the loopback
// interface: the pod's pause process does.
//
// # Invariants
//
//   - The configuration and the arguments of an attachment are recorded before the first
//     plugin runs, and the record is removed after DEL has succeeded. DEL therefore gets
//     what ADD was given, even if the daemon was killed in the middle of ADD or the
//     operator has replaced the configuration since.
//   - When an ADD fails, DEL runs before the error is returned.
//   - Before DEL, all processes that an ADD left running are killed, also those that a
//     killed daemon left. A plugin gets its input only after its process group was
//     recorded, so the group can be found. A process that left the group is found by
//     the CNI_ variables in its environment.
//   - A result without an address is a failed ADD.
//   - A pod can be removed while a plugin is missing ([Network.Forgo]). Its record and its
//     network namespace stay, and DEL runs when the plugin is there again.
//   - [Network.GC] first detaches pods that are no more, then asks the plugins to free the
//     rest by their own verb GC. It runs at the same time as other calls. An ADD cancels
//     the plugins' GC, which starts again afterwards: it would free the addresses that the
//     ADD allocates.
//   - DEL does not use the deadline of the request: when a client gives up, its address
//     must still be freed. It has a bound of its own, see [Options.DelTimeout].
//   - Only the first configuration file counts. If it is invalid the network is not
//     ready: the next file would put pods on another network than the operator meant.
//   - Nothing is polled. Changes of the configuration are noticed by inotify(7); a plugin's
//     STATUS is asked when [Network.Ready] is called, see statusTTL.
//
// # Locks
//
// Network.mu guards the loaded configuration and is held for assignments only.
// Network.statusMu makes concurrent callers of Ready share one run of the
// STATUS plugins; it is taken while mu is not held. turns.mu and debts.mu guard the
// fields of their structs and are held for assignments only. Attachments need no lock:
// each pod has files of its own, and package sandbox runs one verb of a pod at a time.
//
// # Files
//
//	CACHE/pods/POD                conflist and arguments of the attachment, before ADD
//	CACHE/results/NET-POD-eth0    libcni's own cache: the result, for DEL and CHECK
//	CACHE/attempts/POD            the plugin of an ADD that runs or has failed
//	CACHE/netns/POD               pinned network namespace of a pod that is owed a DEL
//
// None of them is flushed to disk. They are needed after the daemon was killed. After
// a power loss the namespaces are gone as well, and DEL with the present configuration
// frees the address.
//
// # Why not go-cni or ocicni
//
// Both add a loader to libcni that polls the directory or runs one ADD at a time, and
// neither keeps the configuration from ADD until DEL, which is what is needed here.
//
// # Why not libcni's way to execute plugins
//
// When the deadline passes, libcni kills the plugin only, and then waits without a
// bound for the plugin's IPAM child, which holds the output pipe. Package cni starts each
// plugin in a process group of its own and kills the group.
//
// # Why not portmap for a pod without host ports
//
// The CNI specification runs every plugin of the list. The reference portmap passes
// its input through when it is given no mappings, and starting a process for
// that took 8 of the 45 ms of an ADD on the default network. The list without
// it is also what DEL gets.
package cni
