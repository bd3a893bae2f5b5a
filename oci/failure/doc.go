// Package failure makes errors that match a sentinel without printing it, and tells those
// that pass from those that stay.
//
// # What it owns
//
// [New] and [IsShortage]. A sentinel such as "invalid" says to a program what kind of error it has; to a
// reader it says nothing that the text of a good error does not.
//
// # Invariants
//
//   - errors.Is finds the kind and all that the text wraps; the text has none of the kind.
//
// # Why not fmt.Errorf with a second %w
//
// Its text would have to print the kind: "port 0: use 1 to 65535: invalid".
package failure
