package config_test

import (
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"berth/server/config"
)

// A flag overrides the file, and the file overrides the default.
func Example() {
	dir, err := os.MkdirTemp("", "config")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte("log_level = 4\ntimeouts = [\"drain=30s\"]\n"), 0o600); err != nil {
		log.Fatal(err)
	}

	flags := flag.NewFlagSet("berthd", flag.ContinueOnError)
	apply := config.Flags(flags)
	if err := flags.Parse([]string{"--log-level=6"}); err != nil {
		log.Fatal(err)
	}
	c, err := config.Load(file)
	if err != nil {
		log.Fatal(err)
	}
	apply(&c)
	fmt.Println(c.LogLevel, c.Timeouts, c.Root, c.Check())
	// Output: 6 [drain=30s] /var/lib/berth <nil>
}

func ExampleConfig_Check() {
	c := config.Default()
	c.CgroupDriver = "v2"
	c.LogLevel = 11
	fmt.Println(c.Check())
	// Output:
	// cgroup_driver: want "cgroupfs", "systemd" or "" (look at the host), not "v2"
	// log_level: want 0 to 10, not 11
}
