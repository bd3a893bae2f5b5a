package shim

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// deadTask is a container whose foreign shim is gone.
type deadTask struct{ Task }

func (deadTask) Wait(context.Context) (shimapi.ExitStatus, error) {
	return shimapi.ExitStatus{}, errors.New("the shim is gone")
}

// failingForeign reclaims a container once it has failed in these ways.
type failingForeign struct {
	Foreign
	failures []error
}

func (f *failingForeign) Reclaim(context.Context, shimapi.Bundle) (shimapi.ExitStatus, error) {
	if len(f.failures) == 0 {
		return shimapi.ExitStatus{Code: 7}, nil
	}
	err := f.failures[0]
	f.failures = f.failures[1:]
	return shimapi.ExitStatus{}, fmt.Errorf("action delete: %w", err)
}

// TestReclaimFailsForAWhile: how a container of a dead foreign shim ended is known in the end,
// unless what fails would fail again.
func TestReclaimFailsForAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		failures []error
		code     int
	}{
		"none":      {nil, 7},
		"processes": {[]error{unix.EAGAIN, unix.EAGAIN}, 7},
		"memory":    {[]error{unix.ENOMEM, unix.ENOMEM}, 7},
		"time":      {[]error{context.DeadlineExceeded, context.DeadlineExceeded}, 7},
		"lasting":   {[]error{unix.EAGAIN, errors.New("exit status 1")}, shimapi.CodeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctr := &container{}
				ctr.useTask(deadTask{}, &failingForeign{failures: c.failures}, shimapi.Bundle{ID: "c"})
				exit := ctr.process.wait()
				if exit.Code != c.code || exit.lost != (c.code == shimapi.CodeUnknown) {
					t.Errorf("ended with %+v, want code %d", exit, c.code)
				}
				if got, want := ctr.reclaimed.Load(), c.code == 7; got != want {
					t.Errorf("reclaimed: %v, want %v", got, want)
				}
			})
		})
	}
}
