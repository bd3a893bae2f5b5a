package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// measureFloor times the kernel's and the plugins' part of a pod by itself:
// what no runtime that uses them gets below.
func (b *bench) measureFloor(ctx context.Context) error {
	floors := []func(context.Context, int) error{
		b.floorNetwork, b.floorPause, b.floorCgroup, b.floorRunc,
	}
	for i := range b.opts.n {
		for _, floor := range floors {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := floor(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// spend records a floor's time.
func (b *bench) spend(name string, call func() error) error {
	spent, err := timed(call)
	if err == nil {
		b.report.time("floor."+name, nameFloor, spent)
	}
	return err
}

// floorNetwork makes a network namespace and runs the plugins' ADD and DEL.
func (b *bench) floorNetwork(ctx context.Context, i int) error {
	id := fmt.Sprintf("floor%d", i)
	ns := filepath.Join("/run/netns", id)
	if err := b.spend("netns", func() error { return bindNetNS(ns) }); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	defer func() { _ = errors.Join(unix.Unmount(ns, unix.MNT_DETACH), os.Remove(ns)) }()
	chain := b.chain(ctx, id, ns)
	if err := b.spend("cni_add", func() error { return chain.add() }); err != nil {
		return err
	}
	return b.spend("cni_del", func() error { return chain.del() })
}

// bindNetNS makes a network namespace and binds it to path.
func bindNetNS(path string) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	done := make(chan error)
	go func() {
		// The thread is in the new namespace for good: it is not unlocked, so
		// it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		done <- unix.Mount(own, path, "", unix.MS_BIND, "")
	}()
	return <-done
}

// plugins runs the chain of a conflist as the CNI specification says, for one
// attachment.
type plugins struct {
	ctx      context.Context
	children *children
	bin      string
	env      []string
	version  string
	name     string
	confs    []map[string]any
	result   json.RawMessage
}

// chain is the runtimes' configuration with a bridge and subnet of its own.
func (b *bench) chain(ctx context.Context, id, ns string) *plugins {
	p := place{dir: filepath.Join(benchDir, "floor"), index: floorIndex, masq: b.opts.masq}
	var list struct {
		CNIVersion string           `json:"cniVersion"`
		Name       string           `json:"name"`
		Plugins    []map[string]any `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(conflist("benchfloor", p)), &list); err != nil {
		panic(err) // a constant of this package
	}
	return &plugins{
		ctx: ctx, children: b.children, bin: b.cniBin, version: list.CNIVersion, name: list.Name, confs: list.Plugins,
		env: append(os.Environ(), "CNI_CONTAINERID="+id, "CNI_NETNS="+ns, "CNI_IFNAME=eth0", "CNI_PATH="+b.cniBin),
	}
}

func (p *plugins) add() error {
	for _, conf := range p.confs {
		out, err := p.call("ADD", conf)
		if err != nil {
			return err
		}
		p.result = out
	}
	return nil
}

func (p *plugins) del() error {
	for i := len(p.confs) - 1; i >= 0; i-- {
		if _, err := p.call("DEL", p.confs[i]); err != nil {
			return err
		}
	}
	return nil
}

// call runs one plugin; p.result, when there is one, goes along.
func (p *plugins) call(command string, conf map[string]any) ([]byte, error) {
	conf["cniVersion"], conf["name"] = p.version, p.name
	if p.result != nil {
		conf["prevResult"] = p.result
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		return nil, err
	}
	plugin, _ := conf["type"].(string)
	cmd := exec.CommandContext(p.ctx, filepath.Join(p.bin, plugin))
	cmd.Stdin, cmd.Stderr = bytes.NewReader(stdin), os.Stderr
	cmd.Env = append(p.env, "CNI_COMMAND="+command)
	out, err := p.children.output(cmd)
	if err != nil {
		return nil, fmt.Errorf("CNI %s %s: %w: %s", plugin, command, err, out)
	}
	return []byte(out), nil
}

// floorPause starts the static pause in a pod's namespaces, and ends it.
func (b *bench) floorPause(ctx context.Context, _ int) error {
	cmd := exec.CommandContext(ctx, b.pause)
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNS}
	if err := b.spend("clone_pause", func() error { return b.children.start(cmd) }); err != nil {
		return err
	}
	return b.spend("kill_pause", func() error {
		_ = cmd.Process.Kill()
		_ = b.children.wait(cmd)
		return nil
	})
}

// floorCgroup makes a cgroup in every hierarchy, moves a process in, and
// removes it, as runc does once a container.
func (b *bench) floorCgroup(ctx context.Context, i int) error {
	cmd := exec.CommandContext(ctx, b.pause)
	if err := b.children.start(cmd); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = b.children.wait(cmd)
	}()
	name := filepath.Join(os.Getenv(innerEnv), "floor", strconv.Itoa(i))
	if err := b.spend("cgroup_make", func() error { return makeCgroup(name) }); err != nil {
		return err
	}
	pid := []byte(strconv.Itoa(cmd.Process.Pid))
	err := b.spend("cgroup_join", func() error {
		for _, h := range hierarchies() {
			if err := os.WriteFile(filepath.Join(h, name, "cgroup.procs"), pid, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	_ = cmd.Process.Kill()
	_, _ = cmd.Process.Wait()
	return b.spend("cgroup_remove", func() error { return removeCgroups(name) })
}

// floorRunc runs the workload with runc alone, without a network namespace's
// plugins or an overlay.
func (b *bench) floorRunc(ctx context.Context, i int) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return nil
	}
	bundle, err := b.runcBundle(ctx, runc)
	if err != nil {
		return err
	}
	id := fmt.Sprintf("floor%d", i)
	root := filepath.Join(benchDir, "floor", "runc")
	begin := func() error {
		return b.children.run(exec.CommandContext(ctx, runc, "--root", root, "run", "-d", "-b", bundle, id))
	}
	if err := b.spend("runc_run", begin); err != nil {
		return fmt.Errorf("runc run: %w", err)
	}
	execTrue := exec.CommandContext(ctx, runc, "--root", root, "exec", id, "/bin/true")
	if err := b.spend("runc_exec", func() error { return b.children.run(execTrue) }); err != nil {
		return fmt.Errorf("runc exec: %w", err)
	}
	return b.spend("runc_delete", func() error {
		return b.children.run(exec.CommandContext(ctx, runc, "--root", root, "delete", "-f", id))
	})
}

// runcBundle makes, once, a bundle that sleeps in busybox.
func (b *bench) runcBundle(ctx context.Context, runc string) (string, error) {
	bundle := filepath.Join(benchDir, "floor", "bundle")
	if _, err := os.Stat(bundle); err == nil {
		return bundle, nil
	}
	bin := filepath.Join(bundle, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	if err := copyBusybox(bin); err != nil {
		return "", err
	}
	spec := exec.CommandContext(ctx, runc, "spec", "-b", bundle)
	if err := b.children.run(spec); err != nil {
		return "", fmt.Errorf("runc spec: %w", err)
	}
	path := filepath.Join(bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	cgroup := "/" + filepath.Join(os.Getenv(innerEnv), "floor", "runc")
	changed := strings.NewReplacer(
		`"terminal": true`, `"terminal": false`,
		`"sh"`, `"/bin/sleep", "`+workloadMark+`"`,
		`"linux": {`, `"linux": { "cgroupsPath": "`+cgroup+`",`,
	).Replace(string(text))
	// The hard limit on files is above what a host without CAP_SYS_RESOURCE may set.
	return bundle, os.WriteFile(path, []byte(changed), 0o644)
}

// copyBusybox puts busybox and its two names into dir.
func copyBusybox(dir string) error {
	source, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, "busybox"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close(),
		os.Symlink("busybox", filepath.Join(dir, "sleep")), os.Symlink("busybox", filepath.Join(dir, "true")))
}
