// Command berthd is the daemon: it serves the CRI for the kubelet, crictl and
// critest. Its flags are the keys of its configuration, see `berthd --help` and
// `berthd --print-config`.
//
// # What it owns
//
// Reading flags and setting up the log; everything else is package server's.
//
// # Why no subcommands
//
// What an operator does to a running daemon is the command berth's, so that
// this program can be judged as a service alone.
package main
