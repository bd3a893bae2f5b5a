package sandbox

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"
)

// slowWriter is a client that stalls longer than a drain takes.
type slowWriter struct {
	got     int
	stalled bool
}

func (w *slowWriter) Write(p []byte) (int, error) {
	if !w.stalled {
		w.stalled = true
		time.Sleep(2 * execDrain) // the client is the one that sleeps
	}
	w.got += len(p)
	return len(p), nil
}

func (w *slowWriter) Close() error { return nil }

// kubectl exec -- tar cf - must not lose its end because the network is slow.
func TestSlowClientGetsAllOutput(t *testing.T) {
	client := &slowWriter{}
	p, err := newStreamPipes(Streams{Stdout: client})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	said := bytes.Repeat([]byte("x"), 60<<10) // fits into a pipe
	if _, err := p.remote[1].Write(said); err != nil {
		t.Fatal(err)
	}
	p.start(Streams{Stdout: client})
	p.drain()
	if client.got != len(said) {
		t.Errorf("the client got %d of %d bytes", client.got, len(said))
	}
}

func TestChildThatKeepsTheOutputIsNotWaitedFor(t *testing.T) {
	for name, every := range map[string]time.Duration{"silent": time.Hour, "slow": execDrain / 10, "fast": time.Microsecond} {
		t.Run(name, func(t *testing.T) {
			r, child, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			quit, gone := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(gone)
				for {
					select {
					case <-time.After(every):
						_, _ = child.Write(make([]byte, 4096))
					case <-quit:
						return
					}
				}
			}()
			o := &output{f: r}
			o.end()
			began := time.Now()
			o.copyTo(io.Discard)
			if took := time.Since(began); took > 20*execDrain {
				t.Errorf("a child was waited for %v", took)
			}
			close(quit)
			_ = r.Close() // a write that waits ends
			<-gone
			_ = child.Close()
		})
	}
}
