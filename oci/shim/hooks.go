package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

// The runtime-spec's hooks come from CDI files and NRI plugins. libcontainer runs those of
// the creation, and startContainer in the container, as the spec says. poststart it runs
// before the command, and a poststop that fails keeps it from destroying the container; so
// these two are run here. See runtime.md of the spec, "Lifecycle".

const (
	// hookTime bounds hooks that say no timeout of their own. The spec lets them run for
	// ever, and with them the call that they belong to.
	hookTime = time.Minute
	// hookOutput is how much of what a hook writes is kept, for the error.
	hookOutput = 4 << 10
	// hookDrain is how long a hook's output may stay open when it has ended.
	hookDrain = time.Second
)

// takeHooks removes the hooks of one kind and returns them.
func takeHooks(config *configs.Config, kind configs.HookName) configs.HookList {
	list := config.Hooks[kind]
	delete(config.Hooks, kind)
	return list
}

// boundHooks gives every hook without a timeout one.
func boundHooks(config *configs.Config) {
	for _, list := range config.Hooks {
		for _, h := range list {
			if c, ok := h.(configs.CommandHook); ok && c.Timeout == nil {
				limit := hookTime
				c.Timeout = &limit // of the command that h points to
			}
		}
	}
}

// destroy undoes all of a container that libcontainer has made, and then runs its poststop
// hooks. What fails of them is logged only, as the spec wants it.
func destroy(lc *libcontainer.Container) error {
	config := lc.Config()
	hooks := takeHooks(&config, configs.Poststop) // the map is the container's own
	var state *specs.State
	var stateErr error
	if len(hooks) > 0 { // of a container whose first process could not be forked it panics
		state, stateErr = lc.OCIState()
	}
	if err := lc.Destroy(); err != nil {
		if len(hooks) > 0 {
			config.Hooks[configs.Poststop] = hooks // for the next try
		}
		return err
	}
	if len(hooks) == 0 {
		return nil
	}
	if stateErr != nil {
		state = &specs.State{Version: specs.Version, ID: lc.ID()}
	}
	state.Status, state.Pid = specs.StateStopped, 0
	for _, h := range hooks {
		if err := runHook(h, state); err != nil {
			slog.Warn("poststop hook failed", "container", lc.ID(), "error", err)
		}
	}
	return nil
}

// runPoststart runs the poststart hooks of a container whose command has been executed. If
// one fails the container is killed, and its end is left to [container.supervise], which waits
// for the process already. A hook is not waited for once the container has ended: it may hang,
// and the end must not.
func (ctr *container) runPoststart() error {
	if len(ctr.poststart) == 0 {
		return nil
	}
	state, err := ctr.lc.OCIState()
	if err != nil {
		return fmt.Errorf("state for the poststart hooks: %w", err)
	}
	ran := make(chan error, 1)
	go func() { // ends when the hooks end, which their timeouts bound
		for _, h := range ctr.poststart {
			if err := runHook(h, state); err != nil {
				ran <- fmt.Errorf("poststart hook: %w", err)
				return
			}
		}
		ran <- nil
	}()
	select {
	case err = <-ran:
	case <-ctr.done:
		return nil
	}
	if err == nil || isClosed(ctr.done) {
		return nil
	}
	return fault(shimapi.KindStartFailed, "start container: %w", errors.Join(err, ctr.end()))
}

// runHook runs a hook with the container's state on its standard input.
func runHook(h configs.Hook, state *specs.State) error {
	c, ok := h.(configs.CommandHook)
	if !ok {
		return fmt.Errorf("a hook is a %T, not a command", h)
	}
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	limit := hookTime
	if c.Timeout != nil {
		limit = *c.Timeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	output := &firstBytes{room: hookOutput}
	cmd := exec.CommandContext(ctx, c.Path)
	cmd.Args, cmd.Env, cmd.WaitDelay = c.Args, c.Env, hookDrain
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), output, output
	err = cmd.Run()
	switch {
	case errors.Is(err, exec.ErrWaitDelay):
		return nil // it ended well; a process that it left has its output
	case ctx.Err() != nil:
		return fmt.Errorf("%s did not end within %s", c.Path, limit)
	case err != nil:
		return fmt.Errorf("%s: %w: %s", c.Path, err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// firstBytes keeps the first bytes that are written to it.
type firstBytes struct {
	bytes.Buffer
	room int
}

// Write implements [io.Writer].
func (f *firstBytes) Write(b []byte) (int, error) {
	keep := b[:min(len(b), f.room)]
	f.room -= len(keep)
	_, _ = f.Buffer.Write(keep) // never fails
	return len(b), nil
}
