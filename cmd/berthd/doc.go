// Command berthd is the daemon: it serves the CRI for the kubelet, crictl and
// critest. Its flags are the keys of its configuration, see `berthd --help` and
// `berthd --print-config`.
//
// # What it owns
//
// Reading flags and setting up the log; everything else is in package server.
//
// # Invariants
//
// It has no logic of its own, so there is nothing in it that a test of package server
// does not reach.
//
// # Why not subcommands
//
// What an operator does to a running daemon is in the command berth. This program is
// only a service, whose flags and exit code a supervisor has to understand.
package main
