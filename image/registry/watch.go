package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// A body that arrives more slowly than minRate, measured over rateWindow of waiting, counts
// as stalled. Any link that is worth waiting for is faster.
const (
	minRate    = 1 << 10 // bytes per second
	rateWindow = time.Minute
)

// errStalled is wrapped when a host sent nothing, or too little, for too long.
var errStalled = errors.New("stalled")

// watched is a body whose reads fail when it is stalled: when one read takes longer than
// Options.Timeout, or when the reads of a window bring less than the minimal rate.
type watched struct {
	body  io.ReadCloser
	opts  *Options
	host  string
	timer *time.Timer

	waited time.Duration // in reads of this window
	got    int64         // bytes in this window
}

// watch returns the body of resp with a watch on its reads. The time between two reads does
// not count: it is spent by the caller.
func (c *Client) watch(resp *http.Response) *watched {
	w := &watched{body: resp.Body, opts: &c.opts, host: resp.Request.URL.Host}
	w.timer = time.AfterFunc(c.opts.Timeout, func() { w.body.Close() }) // makes the read return
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.opts.Timeout)
	before := time.Now()
	n, err := w.body.Read(p)
	w.waited += time.Since(before)
	w.got += int64(n)
	if !w.timer.Stop() && err != nil && !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("%w: %s sent nothing for %v", errStalled, w.host, w.opts.Timeout)
	}
	if err == nil && w.waited >= w.opts.rateWindow {
		err = w.judge()
	}
	return n, err
}

// judge ends a window: it returns errStalled if the window brought too little.
func (w *watched) judge() error {
	rate := float64(w.got) / w.waited.Seconds()
	defer func() { w.waited, w.got = 0, 0 }()
	if rate >= float64(w.opts.minRate) {
		return nil
	}
	return fmt.Errorf("%w: %s sent %d bytes in %v, which is %.1f bytes/s; less than %d is given up",
		errStalled, w.host, w.got, w.waited.Round(time.Second), rate, w.opts.minRate)
}

func (w *watched) Close() error {
	w.timer.Stop()
	return w.body.Close()
}
