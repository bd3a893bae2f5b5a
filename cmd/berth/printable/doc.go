// Package printable makes text that others wrote safe to show on a terminal.
//
// # What it owns
//
// [Text] and [Short] for what a person reads, [JSON] for what a program reads but
// a person may look at. Everything that the operator's program prints passes here:
// names, logs, mount paths, errors of registries and whatever else a workload, an
// image or a registry has written.
//
// # Invariants
//
//   - No control character of ASCII or of ISO 6429 (C0, DEL, C1), no character
//     that changes the direction of writing or can't be seen, and no byte that is
//     not UTF-8 leaves this package unescaped. So no text moves the cursor, sets
//     the terminal's title, hides a part of itself or begins a line.
//   - JSON keeps its meaning: a decoder reads the same value before and after.
//
// # Why not fmt's %q
//
// It also doubles backslashes and puts quotes around, which makes paths and
// messages hard to read; and text that was quoted already would be quoted twice.
package printable
