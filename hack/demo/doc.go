// Command demo is the pod of `make run`: it makes an image from the machine's
// own busybox, runs a pod of it through the CRI socket, shows what came out,
// and removes it.
//
//	demo image FILE               writes a docker archive of the image
//	demo wait SOCKET              waits until the daemon serves
//	demo run SOCKET LOGDIR [once] runs the pod, until a signal unless "once"
//	demo exec SOCKET COMMAND...   runs a command in its container, and prints what that says
//	demo clean SOCKET             removes every pod of the daemon at SOCKET
//
// # What it owns
//
// The one image and the one pod it makes.
//
// # Invariants
//
// It is a CRI client like any other. Of berth's packages it imports only test/client.
//
// # Files
//
// Only the archive that it is told to write.
//
// # Why not crictl
//
// crictl is not packaged by Debian, and needs files with configurations beside
// it; this is shorter than the script that would write them.
package main
