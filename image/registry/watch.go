package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// A body that comes more slowly than minRate, measured over rateWindow of waiting for
// it, is one that will not come. The rate is a tenth of what the slowest modem gives.
const (
	minRate    = 1 << 10 // bytes per second
	rateWindow = time.Minute
)

// errStalled says that a host sent nothing, or too little, for too long.
var errStalled = errors.New("stalled")

// watched fails reads of a body that is not coming: one that does not come back in
// time, or several that bring too little.
type watched struct {
	body  io.ReadCloser
	opts  *Options
	host  string
	timer *time.Timer

	waited time.Duration // in reads of this window
	got    int64         // bytes in this window
}

// watch closes the body when one read takes longer than Options.Timeout. The time
// between reads does not count: it is the reader's own.
func (c *Client) watch(resp *http.Response) *watched {
	w := &watched{body: resp.Body, opts: &c.opts, host: resp.Request.URL.Host}
	w.timer = time.AfterFunc(c.opts.Timeout, func() { w.body.Close() }) // its effect is the point
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

// judge ends a window.
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
