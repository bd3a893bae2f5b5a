// Package config is berthd's configuration: one flat struct, read from a strict
// TOML file and from flags of the same names.
//
// # What it owns
//
// [Config], its defaults, its file format, its flags, its checks. The struct is
// the only list of options there is: a field's tags name the key of the file
// (and, with dashes, the flag) and carry the help text that flags and
// `berthd --print-config` show.
//
// # Invariants
//
//   - Every key is a flag and every flag but --config, --print-config and
//     --version is a key. Flags override the files; a file of the drop-in directory
//     overrides those before it and the main file, which overrides the defaults.
//   - At most 45 keys (a test counts).
//   - An unknown key, a value of the wrong type and a value that can't work are errors
//     that name the file, the line and the key, and say what to change.
//   - [Load] reads what [Config.Print] wrote back to the same Config.
//
// # Files
//
// It reads the file that it is given with its drop-ins and writes nothing.
//
// # Why not nested tables
//
// With at most 45 keys a table is one more thing to spell right. Small settings that belong
// together are one key, a list of NAME=VALUE in which each may be left out.
//
// # Why not reload of every key
//
// Every reader of an option would have to cope with its change, while a restart of
// berthd costs no container anything. Keys that are changed while looking at a problem
// (log level, metrics) or together with other parts of a fleet (trust policy, pinned
// images) have the tag reload, of timeouts drain alone; registries' files are read anew for every pull.
//
// # Why not in package server
//
// `berth check` checks a configuration and must not link the daemon for it.
package config
