// Package config has two keys.
package config

type Config struct {
	Root  string `toml:"root" help:"where records are"`
	State string `toml:"state" help:"where sockets are"`
	other int
}
