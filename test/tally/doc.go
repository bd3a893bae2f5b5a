// Package tally keeps the score of a long run: how its calls ended, and what was not as
// it must be.
//
// # What it owns
//
// A [Tally], which counts the outcomes of calls by their kind and keeps the first
// problems, and the names of the outcomes. Which outcome a call has is for the run to
// say.
//
// # Invariants
//
//   - A problem is never lost silently: those that are not kept are counted.
//   - A run without a problem has no error.
//
// # Locks
//
// Tally.mu guards all of it, so that any number of clients may report.
//
// # Why not testing.T
//
// The runs are commands as well, whose length is for the one who starts them to choose.
package tally
