package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killCount counts kills; only the killer writes it.
type killCount struct {
	daemon, early, shim, both int
}

func (k killCount) String() string {
	return fmt.Sprintf("berthd killed %d times (%d while it started), a shim %d times, both at once %d times", k.daemon, k.early, k.shim, k.both)
}

const (
	// hasty is the life of a shim that berthd takes for a crash, and a little; after five
	// in a row berthd gives up, so no more than three follow each other.
	hasty     = 2500 * time.Millisecond
	hastyMost = 3
)

// haste counts the shims of a phase that were killed soon after they began, in all its
// rounds: berthd, which does not know of rounds, counts them as well.
type haste struct {
	since time.Time // when the last shim took over
	quick int       // how many in a row
}

// allows tells whether a shim may be killed without berthd's giving up.
func (h *haste) allows() bool { return h.quick < hastyMost || time.Since(h.since) >= hasty }

// killing counts the shim that is killed now.
func (h *haste) killing() {
	if time.Since(h.since) < hasty {
		h.quick++
	} else {
		h.quick = 0
	}
}

// killer kills one program after the other until ctx is done; then all are up again.
func (p *phase) killer(ctx context.Context, r *rand.Rand) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(p.pause(r)):
		}
		var err error
		switch {
		case p.opts.both > 0 && r.IntN(p.opts.both) == 0:
			err = p.killBoth(ctx, r.IntN(2) == 0)
		case r.IntN(2) == 0 || !p.haste.allows():
			err = p.killDaemon(ctx, r)
		default:
			err = p.killShim(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// pause is the time to the next kill.
func (p *phase) pause(r *rand.Rand) time.Duration {
	if r.IntN(8) == 0 {
		return time.Duration(r.IntN(100)) * time.Millisecond // hardly up again
	}
	return p.opts.every/2 + time.Duration(r.Int64N(int64(p.opts.every)))
}

// killDaemon kills berthd and starts it again, and now and then kills it as it starts.
func (p *phase) killDaemon(ctx context.Context, r *rand.Rand) error {
	p.outages.Add(1)
	if err := p.node.Kill(); err != nil {
		return err
	}
	p.killed.daemon++
	if r.IntN(4) == 0 {
		if err := p.killStarting(time.Duration(r.IntN(150)) * time.Millisecond); err != nil {
			return err
		}
	}
	// Not ctx: the end of the round needs a daemon.
	err := p.node.Restart(context.WithoutCancel(ctx))
	p.outages.Add(1)
	return err
}

// killStarting starts berthd and kills it after a moment.
func (p *phase) killStarting(after time.Duration) error {
	started := make(chan error, 1)
	go func() { started <- p.node.Restart(context.Background()) }()
	time.Sleep(after) // the moment of the kill is what is tested
	err := p.node.Kill()
	<-started // with an error, or just ready
	if err == nil && p.node.PID() != 0 {
		err = p.node.Kill() // the first came before the process
	}
	p.killed.early++
	return err
}

// shims are the processes of the shims.
func (p *phase) shims() ([]int, error) {
	all, err := p.node.Descendants()
	var out []int
	for _, line := range all {
		var pid, parent int
		if !strings.Contains(line, ": berth-shim --dir ") {
			continue
		}
		if _, err := fmt.Sscanf(line, "process %d (parent %d,", &pid, &parent); err == nil {
			out = append(out, pid)
		}
	}
	return out, err
}

// killShim kills every shim there is, which is one, and waits until another has taken over.
func (p *phase) killShim(ctx context.Context) error {
	p.outages.Add(1)
	defer p.outages.Add(1)
	p.haste.killing()
	if err := p.killShims(); err != nil {
		return err
	}
	p.killed.shim++
	err := p.answers(context.WithoutCancel(ctx))
	p.haste.since = time.Now()
	return err
}

func (p *phase) killShims() error {
	shims, err := p.shims()
	if err != nil {
		return err
	}
	for _, pid := range shims {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 5000)
		_ = unix.Close(fd)
	}
	return nil
}

// killBoth leaves nobody who knows of the containers' ends. The witness is lost, or was
// handed over in the last moment; another takes its place.
func (p *phase) killBoth(ctx context.Context, daemonFirst bool) error {
	p.outages.Add(1)
	defer p.outages.Add(1)
	// Before and after: what is made between the two may be lost as well.
	p.bothDead.Add(1)
	kills := []func() error{p.node.Kill, p.killShims}
	if !daemonFirst {
		kills[0], kills[1] = kills[1], kills[0]
	}
	for _, kill := range kills {
		if err := kill(); err != nil {
			return err
		}
	}
	p.killed.both++
	p.bothDead.Add(1)
	if err := p.node.Restart(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	return p.watchAgain(context.WithoutCancel(ctx))
}
