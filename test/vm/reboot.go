package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"berth/test/registry"
)

// rebootPackage has the tests on both sides of the restart.
const rebootPackage = "test/reboot"

// errRestarts is the end of a suite that goes on when the machine has booted again.
var errRestarts = errors.New("the machine restarts")

// reboot runs the tests before a restart of the machine, restarts it as an administrator does,
// and runs the tests after it. The share keeps what the former tell the latter.
func (g *guest) reboot(ctx context.Context) error {
	state := filepath.Join(g.share, "reboot.json")
	if err := os.Setenv("BERTH_TEST_REBOOT", state); err != nil {
		return err
	}
	if _, err := os.Stat(state); err == nil {
		return g.tests(ctx, "reboot", rebootPackage, "AfterTheRestart", "")
	}
	if err := g.installForGood(ctx); err != nil {
		return err
	}
	if err := g.tests(ctx, "reboot", rebootPackage, "BeforeTheRestart", ""); err != nil {
		return err
	}
	unix.Sync()
	if err := command(ctx, "systemctl", "--no-block", "reboot"); err != nil {
		return err
	}
	return errRestarts
}

// installForGood is install of a daemon that the next boot starts as well. Its registry is the
// tests' own.
func (g *guest) installForGood(ctx context.Context) error {
	reg, err := registry.Start()
	if err != nil {
		return err
	}
	defer reg.Close() // nothing was pulled
	return errors.Join(g.install(ctx, reg, g.bundle), command(ctx, "systemctl", "enable", "berthd"))
}
