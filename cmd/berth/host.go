package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"text/tabwriter"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	worst, err := hostcheck.Write(env.out, hostcheck.Run(ctx, env.cfg, env.file, env.read))
	if err != nil {
		return err
	}
	if worst == hostcheck.Broken {
		return errors.New("this machine can't run pods yet")
	}
	return nil
}

// removePods ends all pods of the node. A pod that can't be removed does not keep the others.
func removePods(ctx context.Context, env environment, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: pods remove takes no argument", errUsage)
	}
	cri := env.client.Runtime()
	list, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	var failed []error
	for _, p := range list.GetItems() {
		_, err := cri.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.GetId()})
		if err == nil {
			_, err = cri.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.GetId()})
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("pod %s: %w", p.GetId(), err))
			continue
		}
		if _, err := fmt.Fprintln(env.out, "removed", printable.Text(p.GetMetadata().GetNamespace()+"/"+p.GetMetadata().GetName())); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}
