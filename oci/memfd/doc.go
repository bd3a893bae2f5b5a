// Package memfd makes copies of programs that nobody can change.
//
// # What it owns
//
// [Sealed], which copies an executable to a memfd and seals it (memfd_create(2)).
//
// # Invariants
//
// If the error is nil the file is complete and can be executed. Nobody can write to it,
// not even root.
//
// # Why not execute the file itself
//
// A container can open the file from which a process in its PID namespace was executed
// (/proc/PID/exe), and could overwrite it, as CVE-2019-5736 showed.
package memfd
