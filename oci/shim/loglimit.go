package shim

import (
	"log/slog"
	"sync"
	"time"
)

// pace makes a container that writes its log faster than a rate wait: its output is not
// read, its pipe fills, and its own writes block. Nothing else waits: the log can be rotated
// meanwhile, and what was read is in the log already.
type pace struct {
	rate int64         // bytes a second; 0: as fast as it goes
	over chan struct{} // closed when the container has ended: what is left needs no pace

	once sync.Once
	mu   sync.Mutex
	free time.Time // when all that was written so far is paid for
}

// burst is how long a container may write as fast as it goes after a silence.
const burst = time.Second

func newPace(rate int64) *pace { return &pace{rate: rate, over: make(chan struct{})} }

// wrote notes n bytes that were written.
func (p *pace) wrote(n int, now time.Time) {
	if p.rate <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if oldest := now.Add(-burst); p.free.Before(oldest) {
		p.free = oldest
	}
	p.free = p.free.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
}

// debt is how long nothing more may be written.
func (p *pace) debt(now time.Time) time.Duration {
	if p.rate <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.free.Sub(now)
}

// wait returns when more may be written.
func (p *pace) wait() {
	d := p.debt(time.Now())
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.over:
	}
}

// end makes nobody wait any more.
func (p *pace) end() { p.once.Do(func() { close(p.over) }) }

// fullLine is the last record of a log that has met its limit, for who reads it.
const fullLine = " stderr F [berth] this log has met its size limit (log_limits); output is dropped until it is rotated\n"

// overLimit drops records for which the file has no room, and all after them until the
// file is opened again. The caller holds mu.
func (l *logFile) overLimit(records []byte) bool {
	if l.limits.Size <= 0 || !l.full && l.size+int64(len(records)) <= l.limits.Size {
		return false
	}
	if !l.full {
		l.full = true
		slog.Warn("log has met its size limit, lines are dropped until it is rotated", "path", l.path, "limit", l.limits.Size)
		line := time.Now().UTC().AppendFormat(nil, timeLayout)
		n, err := l.file.Write(append(line, fullLine...))
		if err != nil {
			l.cut(int64(n))
			n = 0
		}
		l.size += int64(n)
	}
	l.dropped += uint64(len(records))
	return true
}
