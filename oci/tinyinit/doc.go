// Package tinyinit provides the init process of containers whose pod has the annotation
// berth/init: "true". Called with -e the same program passes environment variables that are
// not UTF-8, see [berth/oci.NeedsBytes].
//
// # What it owns
//
// init.c, a static program of about 2 KiB without libc, which hack/build-static.sh builds
// and this package embeds; and the file that is bind-mounted into containers.
//
// # Invariants
//
//   - init starts the command and forwards every signal except SIGCHLD, SIGTTIN and SIGTTOU.
//   - It reaps every orphan of the container.
//   - It ends when the command ends, with its exit code, or with 128 and the number of its
//     signal.
//   - If the command can't be executed it exits with 127 or 126 and a line on stderr, as a
//     shell does: the container has started by then, so the start can't fail any more.
//
// # Files
//
// ROOT/init-HASH, mode 0555. HASH is of the content, so a daemon of another version never
// changes the file that running containers have mounted. The files of older versions stay.
//
// # Why not below /run
//
// Distributions mount it noexec.
//
// # Why not tini, dumb-init or catatonit
//
// Each would be one more package to install, for a feature of 150 lines.
//
// # Why not by default
//
// The image decides which program is PID 1, and pods can set shareProcessNamespace.
package tinyinit
