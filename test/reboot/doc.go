// Package reboot has the tests on both sides of a real restart of the machine, with berthd as a
// service of systemd.
//
// # What it owns
//
// The pods of one namespace, made before the restart, and a file that tells the tests after it
// what they were. The restart itself is test/vm's: `make test-vm SUITES=reboot`.
//
// # Invariants
//
//   - What had ended before keeps its exit code and its time. What ran ends as the machine
//     goes down, gracefully where it can, and is told with a reason.
//   - No line of a log is torn or missing in between.
//   - All pods can be removed, nothing of them is left, and new ones run.
//
// # Why not a changed boot ID
//
// Package crash has that test. It does not have systemd stop the scopes, the daemon and the file
// systems in an order of its own, nor a kernel that has forgotten all mounts and namespaces.
package reboot
