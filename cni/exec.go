package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"berth/oci/tracing"
)

// pluginExec runs plugins for libcni.
type pluginExec struct {
	cache string // directory where attempts are recorded; see noteAttempt
}

var _ invoke.Exec = pluginExec{}

// ExecPlugin runs a plugin to its end and returns what it printed. When ctx
// ends, the plugin and all that it started are killed.
func (e pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) (_ []byte, err error) {
	if tracing.Active(ctx) {
		var end func(error)
		ctx, end = tracing.Begin(ctx, "plugin "+filepath.Base(path), "cni.command", valueOf(env, "CNI_COMMAND"))
		defer func() { end(err) }()
		env = tracing.Environ(ctx, env)
	}
	for tries := 1; ; tries++ {
		out, err := e.once(ctx, path, stdin, env)
		if tries == 5 || !errors.Is(err, unix.ETXTBSY) {
			return out, err
		}
		// Plugins are installed by copying over them while the node runs, and
		// no event tells when the writer has closed the file.
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (e pluginExec) once(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	// The thread is kept for the plugin's life: PDEATHSIG fires when the
	// thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout, stderr bytes.Buffer
	in := heldInput{release: make(chan struct{}), data: bytes.NewReader(stdin)}
	c := exec.CommandContext(ctx, path)
	c.Env, c.Stdin, c.Stdout, c.Stderr = env, in, &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	adds := slices.Contains(env, "CNI_COMMAND=ADD")
	if adds {
		// An ADD that outlives a killed daemon would race the DEL of the next
		// one. A DEL may as well finish: killed between removing the interface
		// and its NAT rules, the bridge plugin can't find the rules again.
		c.SysProcAttr.Pdeathsig = unix.SIGKILL
	}
	c.Cancel = func() error { return killGroup(c.Process.Pid) }
	c.WaitDelay = time.Second
	if err := c.Start(); err != nil {
		return nil, err
	}
	var noted error
	if pod := valueOf(env, "CNI_CONTAINERID"); adds && pod != "" {
		noted = noteAttempt(e.cache, pod, c.Process.Pid)
	}
	if noted != nil {
		_ = killGroup(c.Process.Pid) // not waited for yet, so the number is its own
	}
	close(in.release)
	err := c.Wait()
	if noted != nil {
		return nil, fmt.Errorf("record that a plugin runs: %w", noted)
	}
	if err != nil {
		return nil, pluginError(ctx, err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

// heldInput is a plugin's input. It comes only once the plugin is on record, and
// without its configuration no plugin knows what to do: all that one starts can be
// found by the next daemon.
type heldInput struct {
	release chan struct{}
	data    *bytes.Reader
}

func (h heldInput) Read(p []byte) (int, error) {
	<-h.release
	return h.data.Read(p)
}

func valueOf(env []string, name string) string {
	for _, v := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

func killGroup(pid int) error {
	err := unix.Kill(-pid, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// pluginError gives the plugin's own error where it printed one, as the CNI
// specification has it, else the best there is.
func pluginError(ctx context.Context, err error, stdout, stderr []byte) error {
	if ctx.Err() != nil {
		return fmt.Errorf("the plugin did not end in time and was killed: %w", context.Cause(ctx))
	}
	var told types.Error
	if json.Unmarshal(stdout, &told) == nil && told.Msg != "" {
		return &told
	}
	said := strings.TrimSpace(string(stderr) + " " + string(stdout))
	if said == "" {
		return err
	}
	return fmt.Errorf("%w: %.1000s", err, said)
}

// Decode reads what a plugin's VERSION printed.
func (pluginExec) Decode(data []byte) (version.PluginInfo, error) {
	return new(version.PluginDecoder).Decode(data)
}

// FindInPath returns the plugin's path. A name with a slash is refused: the
// configuration must not reach outside the plugin directories.
func (pluginExec) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", fmt.Errorf("plugin %q in %s: %w", plugin, strings.Join(dirs, ", "), fs.ErrNotExist)
	}
	return path, nil
}
