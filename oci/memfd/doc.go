// Package memfd makes copies of programs that nobody can change.
//
// # What it owns
//
// [Sealed], which copies an executable to a memfd and seals it (memfd_create(2)).
//
// # Invariants
//
// The file of a nil error is complete and can be executed. It can be written to by
// nobody, not even by root.
//
// # Why not X
//
// Why not the file itself: a container can open the file that a process of its PID
// namespace was executed from (/proc/PID/exe), as CVE-2019-5736 showed.
package memfd
