package main

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"berth/test/tally"
)

// patience bounds one call. Machines that run this are shared.
const patience = time.Minute

// call makes a call and counts how it ended. What ends it otherwise than well
// must be a kill during the call; other reasons are the caller's to add.
func (c *churner) call(ctx context.Context, kind string, f func(context.Context) error, also ...reason) tally.Outcome {
	before := c.outages.Load()
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := f(patient)
	o := tally.Fine
	if err != nil {
		o = c.judge(err, before, also)
	}
	if o == tally.Wrong && (ctx.Err() != nil || c.ended()) {
		o = tally.GaveUp // the run is over
	}
	if o == tally.Wrong {
		c.Problem("%s: %v", kind, err)
	}
	c.Count(kind, o)
	return o
}

// reason is a status that a call may end with, and what that means.
type reason struct {
	code codes.Code
	is   tally.Outcome
}

// judge: outages is odd while there is no daemon.
func (c *churner) judge(err error, before uint64, also []reason) tally.Outcome {
	code := status.Code(err)
	for _, r := range also {
		if r.code == code {
			return r.is
		}
	}
	if code == codes.Unavailable && (before%2 == 1 || c.outages.Load() != before) {
		return tally.Cut
	}
	return tally.Wrong
}
