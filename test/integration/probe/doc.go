// Probe is a static program that tests mount into containers for what no shell
// does: its first argument is the task, the others are the task's. It owns
// nothing.
//
// # Why not test/registry/probe
//
// That one is in images, whose digests would change with every task.
package main
