// Command manual writes the man pages and shell completions of berth's programs from what
// the code says of flags, keys and commands.
//
//	go run ./hack/manual BIN-DIRECTORY OUT-DIRECTORY
//
// # What it owns
//
// The form of the pages. The words are those of `berth help` and of the keys' help texts.
//
// # Invariants
//
// A flag, key or command of the programs is in the pages and in the completions: nothing is
// listed here.
//
// # Files
//
// It runs BIN-DIRECTORY/berth and writes berthd.8, berth.8, berth-config.5, berth.bash and
// berthd.bash to OUT-DIRECTORY.
//
// # Why not pages written by hand
//
// They would be wrong after the next key.
package main
