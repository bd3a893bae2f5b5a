// Package tinyinit is the init that containers of a pod with the annotation
// berth/init: "true" have as their first process. Called with -e it is also how a
// program gets environment variables that are not UTF-8, see [berth/oci.NeedsBytes].
//
// It owns: init.c (a static program of about 2 KiB without libc, built by
// hack/build-static.sh and embedded here), and the file that it is bound into
// containers from.
//
// Invariants: init starts the command, hands on every signal but SIGCHLD, SIGTTIN
// and SIGTTOU, reaps every orphan of the container, and ends when the command ends
// with its code, or 128 and the number of its signal. A command that can't be
// executed is code 127 or 126 and a line on stderr, as of a shell: the container
// has started by then.
//
// Locks: none. Files on disk: ROOT/init-HASH, mode 0555. Its name is a function of
// its content, so that a daemon of another version never changes the file that
// running containers have bound; there is one for each version ever used.
//
// Why not below /run: distributions mount that noexec. Why not a package of the
// distribution (tini, dumb-init, catatonit): a program of the node's own would be
// one more thing to install for a feature of 150 lines. Why not by default: PID 1
// is what an image says, and the kubelet's users have shareProcessNamespace.
package tinyinit
