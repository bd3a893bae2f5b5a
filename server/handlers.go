package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/sandbox"
	"berth/server/config"
)

const (
	// infoTimeout bounds the question what a runtime can do.
	infoTimeout = 10 * time.Second
	// maxSocketDir leaves room for the 64 digits that shims name their sockets by.
	maxSocketDir = 106 - 65
)

// foreignBinary is the program that drives foreign shims. It lies beside the other.
func foreignBinary(binary string) string { return binary + "-v2" }

// findRuntimes makes the runtime handlers of those in the configuration: it looks for the
// programs and asks what they can do.
func (n *node) findRuntimes(ctx context.Context, driver string) error {
	n.handlers, n.features = map[string]sandbox.Handler{}, map[string]*runtimeapi.RuntimeHandlerFeatures{}
	for _, name := range slices.Sorted(maps.Keys(n.cfg.Runtimes)) {
		r := n.cfg.Runtimes[name]
		h := sandbox.Handler{Annotations: r.Annotations, NoHostDevices: r.PrivilegedWithoutHostDevices}
		if r.Type == config.ShimV2 {
			path, err := exec.LookPath(r.Shim)
			if err != nil {
				return fmt.Errorf("runtime.%s.shim: %w", name, err)
			}
			if _, err := os.Stat(driver); err != nil {
				return fmt.Errorf("runtime.%s: the program that drives shims of containerd has to be installed beside berth-shim: %w", name, err)
			}
			h.Shim, h.NoContainer, h.Image = path, r.NoSandboxContainer, r.SandboxImage
			h.Options, h.SocketDir = n.shimOptions(path, r.Options), n.socketDir()
			if n.features[name], err = n.askFeatures(ctx, driver, h); err != nil {
				klog.FromContext(ctx).Error(err, "A runtime does not tell what it can do; none of its features are announced", "handler", name)
			}
		}
		n.handlers[name] = h
	}
	return nil
}

// shimOptions adds to the options of a shim of runc what follows from the configuration of
// berth: the cgroup driver, and a directory for the runtime's state that ends with the boot.
func (n *node) shimOptions(shim string, given map[string]any) map[string]any {
	if !strings.Contains(filepath.Base(shim), "shim-runc-") {
		return given
	}
	all := map[string]any{"SystemdCgroup": n.host.SystemdCgroup, "Root": filepath.Join(n.cfg.State, "runc")}
	for key, value := range given {
		plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
		maps.DeleteFunc(all, func(k string, _ any) bool { return plain(k) == plain(key) })
		all[key] = value
	}
	return all
}

// socketDir is where shims are asked to make their sockets, "" if the path is too long for
// that.
func (n *node) socketDir() string {
	if dir := filepath.Join(n.cfg.State, "s"); len(dir) <= maxSocketDir {
		return dir
	}
	return ""
}

// askFeatures asks a runtime, through the driver's action "info", what it can do.
func (n *node) askFeatures(ctx context.Context, driver string, h sandbox.Handler) (*runtimeapi.RuntimeHandlerFeatures, error) {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	question, err := json.Marshal(map[string]any{"shim": h.Shim, "options": h.Options})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, driver, "info")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(question), &stderr
	answer, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))
	}
	var told features.Features
	if err := json.Unmarshal(answer, &told); err != nil {
		return nil, err
	}
	return handlerFeatures(told, n.host.HandlerFeatures()), nil
}

// handlerFeatures are those that a runtime and the host have both.
func handlerFeatures(told features.Features, host *runtimeapi.RuntimeHandlerFeatures) *runtimeapi.RuntimeHandlerFeatures {
	out := &runtimeapi.RuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: host.GetRecursiveReadOnlyMounts() && slices.Contains(told.MountOptions, "rro"),
	}
	if l := told.Linux; l != nil && l.MountExtensions != nil && l.MountExtensions.IDMap != nil {
		idmap := l.MountExtensions.IDMap.Enabled
		out.UserNamespaces = host.GetUserNamespaces() && slices.Contains(l.Namespaces, "user") && idmap != nil && *idmap
	}
	return out
}

// announced is what Status says of each runtime handler, the default "" first.
func (n *node) announced() []*runtimeapi.RuntimeHandler {
	all := []*runtimeapi.RuntimeHandler{{Features: n.host.HandlerFeatures()}}
	for _, name := range slices.Sorted(maps.Keys(n.handlers)) {
		h := &runtimeapi.RuntimeHandler{Name: name, Features: n.host.HandlerFeatures()}
		if n.handlers[name].Shim != "" {
			h.Features = n.features[name]
		}
		all = append(all, h)
	}
	return all
}
