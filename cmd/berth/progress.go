package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"berth/cmd/berth/explain"
	"berth/cmd/berth/printable"
)

// barCells is how wide a bar is, redrawEvery how often a count of bytes is shown.
const (
	barCells    = 30
	redrawEvery = 100 * time.Millisecond
)

// progress shows what a call does. Lines have the form WHAT: STATE, or are said once.
// On a terminal every WHAT keeps its row, with a bar where the state begins with a
// percentage; elsewhere each change is a line.
type progress struct {
	out        io.Writer
	rows, cols int // of the terminal; 0: it is none

	mu    sync.Mutex
	order []string          // WHATs, and lines said once, from top to bottom
	state map[string]string // by WHAT
}

// newProgress looks at where progress goes.
func newProgress(f *os.File) *progress {
	p := &progress{out: f, state: map[string]string{}}
	if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
		p.rows, p.cols = int(size.Row), int(size.Col)
	}
	return p
}

// line takes one line of progress, which may hold the name that an archive or a
// registry gives to something.
func (p *progress) line(s string) {
	s = printable.Text(s)
	what, state, known := strings.Cut(s, ": ")
	p.mu.Lock()
	defer p.mu.Unlock()
	before, shown := p.state[what]
	if shown && before == state {
		return
	}
	p.state[what] = state
	if p.cols == 0 {
		fmt.Fprintln(p.out, s) //nolint:errcheck // nobody may be looking
		return
	}
	up := 0
	if shown && known {
		for up = 1; up < len(p.order) && p.order[len(p.order)-up] != what; up++ {
			continue
		}
	} else {
		p.order = append(p.order, what)
	}
	p.draw(up, row(what, state, p.cols))
}

// draw writes a row up rows above the cursor, or a new one for 0. What has scrolled
// away stays as it was.
func (p *progress) draw(up int, text string) {
	switch {
	case up == 0:
		fmt.Fprintf(p.out, "%s\n", text) //nolint:errcheck // nobody may be looking
	case up < p.rows:
		fmt.Fprintf(p.out, "\x1b[%dA\r\x1b[K%s\x1b[%dB\r", up, text, up) //nolint:errcheck // nobody may be looking
	}
}

// row is a line with its bar, no longer than the terminal is wide.
func row(what, state string, cols int) string {
	var percent int
	text := what
	if _, err := fmt.Sscanf(state, "%d%%", &percent); err == nil {
		full := barCells * min(max(percent, 0), 100) / 100
		text = fmt.Sprintf("%-16s [%s%s] %s", what, strings.Repeat("=", full), strings.Repeat(" ", barCells-full), state)
	} else if state != "" {
		text += ": " + state
	}
	return fmt.Sprintf("%.*s", max(cols-1, 0), text)
}

// count gives a function to tell that n more bytes of total went by, none at the end;
// total 0 is unknown. Off a terminal it is silent: the end of the call says as much.
func (p *progress) count(what string, total int64) (passed func(n int)) {
	var done int64
	var last time.Time
	return func(n int) {
		done += int64(n)
		if p.cols == 0 || n > 0 && time.Since(last) < redrawEvery {
			return
		}
		last = time.Now()
		state := explain.Bytes(uint64(done))
		if total > 0 {
			state = fmt.Sprintf("%d%% of %s", 100*done/total, explain.Bytes(uint64(total)))
		}
		p.line(what + ": " + state)
	}
}

// countingReader and countingWriter tell passed of every byte.
type countingReader struct {
	io.Reader
	passed func(n int)
}

func (c countingReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.passed(n)
	return n, err
}

type countingWriter struct {
	io.Writer
	passed func(n int)
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.passed(n)
	return n, err
}
