package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// outcome is how a call ended.
type outcome string

const (
	fine    outcome = "ok"
	cut     outcome = "cut short by a kill"
	gaveUp  outcome = "given up by the client"
	removed outcome = "its image was removed before"
	wrong   outcome = "FAILED"
)

// patience bounds one call. Machines that run this are shared.
const patience = time.Minute

// errorsKept is how many messages are kept of what must not happen.
const errorsKept = 20

// tally counts outcomes and keeps what must not be.
type tally struct {
	mu     sync.Mutex
	counts map[string]map[outcome]int // by kind of call
	errors []string
	lost   int // errors not kept
}

func (t *tally) count(kind string, o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = map[string]map[outcome]int{}
	}
	if t.counts[kind] == nil {
		t.counts[kind] = map[outcome]int{}
	}
	t.counts[kind][o]++
}

// problem notes what must not be.
func (t *tally) problem(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.errors) >= errorsKept {
		t.lost++
		return
	}
	t.errors = append(t.errors, fmt.Sprintf(format, args...))
}

func (t *tally) err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.errors) == 0 {
		return nil
	}
	text := strings.Join(t.errors, "\n")
	if t.lost > 0 {
		text += fmt.Sprintf("\nand %d more", t.lost)
	}
	return fmt.Errorf("%d things are not as they must be:\n%s", len(t.errors)+t.lost, text)
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(t.counts)) {
		fmt.Fprintf(&b, "  %-12s", kind)
		for i, o := range slices.Sorted(maps.Keys(t.counts[kind])) {
			if i > 0 {
				b.WriteString(",")
			}
			fmt.Fprintf(&b, " %d %s", t.counts[kind][o], o)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// call makes a call and counts how it ended. What ends it otherwise than well
// must be a kill during the call; other reasons are the caller's to add.
func (c *churner) call(ctx context.Context, kind string, f func(context.Context) error, also ...reason) outcome {
	before := c.outages.Load()
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := f(patient)
	o := fine
	if err != nil {
		o = c.judge(err, before, also)
	}
	if o == wrong && (ctx.Err() != nil || c.ended()) {
		o = gaveUp // the run is over
	}
	if o == wrong {
		c.problem("%s: %v", kind, err)
	}
	c.count(kind, o)
	return o
}

// reason is a status that a call may end with, and what that means.
type reason struct {
	code codes.Code
	is   outcome
}

// judge: outages is odd while there is no daemon.
func (c *churner) judge(err error, before uint64, also []reason) outcome {
	code := status.Code(err)
	for _, r := range also {
		if r.code == code {
			return r.is
		}
	}
	if code == codes.Unavailable && (before%2 == 1 || c.outages.Load() != before) {
		return cut
	}
	return wrong
}
