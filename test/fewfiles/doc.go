// Package fewfiles lets a process of a test have few open files, as a process has that other
// work has filled the limit of.
//
// # What it owns
//
// [Limit] and [Spare] lower RLIMIT_NOFILE (getrlimit(2)) of a running process and give the
// function that raises it again. Files that are open stay open.
//
// # Invariants
//
//   - The hard limit stays, so that the process, or whoever ends the test, can raise the soft one.
//
// # Why not a limit of the shell that starts the test
//
// It would hold for all of the test, which needs files itself before and after.
package fewfiles
