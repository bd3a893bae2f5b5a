package main

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cmd/berth/hostcheck"
	"berth/cmd/berth/printable"
)

func showVersion(ctx context.Context, env environment, _ []string) error {
	if _, err := fmt.Fprintln(env.out, "berth ", version); err != nil {
		return err
	}
	answer, err := env.client.Runtime().Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		_, err = fmt.Fprintln(env.out, "berthd", "not running at", env.cfg.Listen)
		return err
	}
	_, err = fmt.Fprintln(env.out, "berthd", printable.Text(answer.GetRuntimeVersion()))
	return err
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
