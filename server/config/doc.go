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
//     --version is a key. Flags override the file, the file the defaults.
//   - At most 25 keys (a test counts).
//   - A key nobody knows, a value of the wrong type or one that can't work is an
//     error that names file, line and key and says what to change.
//   - What [Config.Print] writes is a file [Load] reads back to the same Config.
//
// # Locks and files
//
// None; it reads the one file it is given and writes nothing.
//
// # Why not nested tables, drop-in directories, live reload
//
// With at most 25 keys a table is one more thing to spell right. Drop-ins need an
// order of merging that an operator has to know. Reload needs every reader of an
// option to cope with its change; a restart of berthd costs no container anything.
//
// # Why a package of its own
//
// `berth check` judges a configuration without linking the daemon.
package config
