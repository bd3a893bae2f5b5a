package runtimes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"berth/oci/failure"
	"berth/oci/shimapi"
)

// driverGrace is what the driver gets to end what it has started, when a question takes too
// long.
const driverGrace = 2 * time.Second

// maxRetry is the longest time that [Set.ask] lets pass after a question that failed: a shim
// from before the question fails each time, and would be executed for nothing.
const maxRetry = 10 * time.Minute

// question is one question what a runtime can do. The fields below done are set when it is
// closed.
type question struct {
	of    program
	fails int   // how many questions before it have failed in a row
	last  error // of the one before it
	done  chan struct{}

	features *runtimeapi.RuntimeHandlerFeatures // nil: not known
	err      error                              // why they are not known
	hung     bool                               // there was no answer in time
	refused  bool                               // no pod can be run with the options of the table
	at       time.Time                          // of the answer
}

// ask gives the newest question about a handler. It begins one if the program was not asked
// before, if the last question has failed some time ago (see [Set.delay]), or with again if
// the last answer did not come in time.
func (s *Set) ask(h *handler, of program, again bool) *question {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := &question{of: of, done: make(chan struct{})}
	if old := h.asked; old != nil && old.of == of {
		if !s.isDue(old, again) {
			return old
		}
		q.fails, q.last = old.fails+1, old.err
	}
	h.asked = q
	s.asking.Go(func() {
		defer close(q.done)
		s.put(h, q)
		q.at = time.Now()
	})
	return q
}

// isDue tells whether a question is to be repeated.
func (s *Set) isDue(q *question, again bool) bool {
	select {
	case <-q.done:
	default:
		return false
	}
	return q.err != nil && s.ctx.Err() == nil && (again && q.hung || time.Since(q.at) >= s.delay(q.fails))
}

// delay is the time until a question is repeated that has failed, and so many in a row before
// it. What made it fail may be over: a machine under load, a file that the runtime could not
// read.
func (s *Set) delay(fails int) time.Duration {
	return min(s.opt.Retry<<min(fails, 10), max(maxRetry, s.opt.Retry))
}

// put asks the question and notes the answer.
func (s *Set) put(h *handler, q *question) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-s.ctx.Done():
		q.err, q.hung = s.ctx.Err(), true
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.opt.Timeout)
	defer cancel()
	told, err := s.run(ctx, shimapi.Runtime{Shim: q.of.path, Options: h.means.Options})
	switch {
	case err == nil:
		q.features = both(told, s.opt.Host)
		return
	case ctx.Err() != nil:
		q.hung = true
		q.err = failure.New(ErrUnusable,
			"runtime handler %q: its shim %s did not answer within %v what it can do; see whether it runs by hand with -v, or change runtime.%s.shim in the configuration",
			h.name, q.of.path, s.opt.Timeout, h.name)
	case exitCode(err) == shimapi.ExitOptions:
		q.refused = true
		q.err = failure.New(ErrUnusable, "runtime handler %q: %w; change runtime.%s.options in the configuration", h.name, err, h.name)
	default:
		q.err = fmt.Errorf("runtime handler %q: its shim %s does not tell what it can do: %w", h.name, q.of.path, err)
	}
	if s.ctx.Err() == nil && (q.last == nil || q.last.Error() != q.err.Error()) {
		klog.FromContext(s.ctx).Error(q.err, "Of a runtime handler no features are announced", "handler", h.name)
	}
}

// exitCode is that of a program that has ended with an error; 0: it did not exit.
func exitCode(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}

// run asks by the driver's action "info".
func (s *Set) run(ctx context.Context, r shimapi.Runtime) (told features.Features, err error) {
	input, err := json.Marshal(r)
	if err != nil {
		return told, err
	}
	cmd := exec.CommandContext(ctx, s.opt.Driver, "info")
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it ends what it has started
	cmd.WaitDelay = driverGrace
	var stderr bytes.Buffer // bounded by the driver
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &stderr
	answer, err := cmd.Output()
	if err != nil {
		return told, errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))
	}
	return told, json.Unmarshal(answer, &told)
}

// both are the features that a runtime and the host have.
func both(told features.Features, host *runtimeapi.RuntimeHandlerFeatures) *runtimeapi.RuntimeHandlerFeatures {
	out := &runtimeapi.RuntimeHandlerFeatures{
		RecursiveReadOnlyMounts: host.GetRecursiveReadOnlyMounts() && slices.Contains(told.MountOptions, "rro"),
	}
	if l := told.Linux; l != nil && l.MountExtensions != nil && l.MountExtensions.IDMap != nil {
		idmap := l.MountExtensions.IDMap.Enabled
		out.UserNamespaces = host.GetUserNamespaces() && slices.Contains(l.Namespaces, "user") && idmap != nil && *idmap
	}
	return out
}

// identify tells a file from another that has its path later.
func identify(path string) (program, error) {
	info, err := os.Stat(path)
	if err != nil {
		return program{}, err
	}
	p := program{path: path, size: info.Size(), wrote: info.ModTime()}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err == nil {
		p.inode = st.Ino
	}
	return p, nil
}
