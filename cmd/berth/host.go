package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"berth/cmd/berth/hostcheck"
	"berth/cmd/berth/printable"
)

// showVersion tells what runs here: the programs may be of different versions after an
// upgrade, because shims live on with their pods.
func showVersion(ctx context.Context, env environment, _ []string) error {
	w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "berth\t%s\n", version)
	info, err := env.client.Info(ctx)
	if err != nil {
		fmt.Fprintf(w, "berthd\tnot running at %s\n", env.cfg.Listen)
	} else {
		fmt.Fprintf(w, "berthd\t%s, pid %d\n", printable.Text(info.Version), info.PID)
	}
	for _, s := range info.Shims {
		fmt.Fprintf(w, "berth-shim\t%s, pid %d, pods: %d, libcontainer %s\n", printable.Text(s.Version), s.PID, s.Pods, printable.Text(s.Libcontainer))
	}
	fmt.Fprintf(w, "go\t%s\n", runtime.Version())
	var host unix.Utsname
	if err := unix.Uname(&host); err == nil {
		fmt.Fprintf(w, "kernel\t%s %s\n", unix.ByteSliceToString(host.Release[:]), unix.ByteSliceToString(host.Machine[:]))
	}
	return w.Flush()
}

// checkHost fails when something keeps pods from running.
func checkHost(ctx context.Context, env environment, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: check takes no argument", errUsage)
	}
	worst, err := hostcheck.Write(env.out, hostcheck.Run(ctx, env.cfg))
	if err != nil {
		return err
	}
	if worst == hostcheck.Broken {
		return errors.New("this machine can't run pods yet")
	}
	return nil
}
