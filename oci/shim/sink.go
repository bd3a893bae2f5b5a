package shim

import (
	"log/slog"
	"os"
	"slices"
	"sync"
)

// sinkLimit is how many bytes of output may wait in memory for an attached client, beside
// those in its pipe. A client that is further behind is cut off, so that neither the
// container waits for it nor the shim grows.
const sinkLimit = 4 << 20

// keptBuffer is the most that a sink keeps allocated while nothing waits, in bytes.
const keptBuffer = 64 << 10

// sink is an attached client's copy of a stream. It owns the client's file, and a goroutine
// that writes to it.
type sink struct {
	file *os.File
	lost chan<- struct{} // gets an element when the client is cut off
	over chan struct{}   // closed when the goroutine has ended and the file is closed

	mu      sync.Mutex
	change  sync.Cond
	waiting []byte
	spare   []byte
	ended   bool // there is no output after what waits
}

// attach adds a sink that writes all output from now on to f, and takes f over. If the client
// can't follow it is cut off, and lost gets an element unless it is full.
func (st *stream) attach(f *os.File, lost chan<- struct{}) *sink {
	k := &sink{file: f, lost: lost, over: make(chan struct{})}
	k.change.L = &k.mu
	st.mu.Lock()
	defer st.mu.Unlock()
	k.ended = st.ended
	st.sinks = append(st.sinks, k)
	go func() {
		defer close(k.over)
		k.run()
		st.detach(k)
		_ = k.file.Close() // the client sees the end
	}()
	return k
}

func (st *stream) detach(k *sink) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.sinks = slices.DeleteFunc(st.sinks, func(have *sink) bool { return have == k })
}

// endSinks makes the sinks end once they have written what waits.
func (st *stream) endSinks() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ended = true
	for _, k := range st.sinks {
		k.end()
	}
}

// offer queues data, or cuts the client off if it is too far behind. It never waits.
func (k *sink) offer(data []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.ended:
		return
	case len(k.waiting)+len(data) <= sinkLimit:
		k.waiting = append(k.waiting, data...)
	default:
		slog.Warn("attached client does not keep up with the output, it is cut off")
		k.ended, k.waiting = true, nil
		_ = k.file.Close() // wakes the write that waits for the client
		select {
		case k.lost <- struct{}{}:
		default:
		}
	}
	k.change.Signal()
}

func (k *sink) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	k.change.Signal()
}

// close discards what waits. It returns when the file is closed.
func (k *sink) close() {
	k.mu.Lock()
	k.ended, k.waiting = true, nil
	k.change.Signal()
	k.mu.Unlock()
	_ = k.file.Close() // wakes a write
	<-k.over
}

// run writes until the stream has ended or the client has closed its end.
func (k *sink) run() {
	var data []byte
	for {
		if data = k.next(data); data == nil {
			return
		}
		if _, err := k.file.Write(data); err != nil {
			k.end() // the client has closed its end
			return
		}
	}
}

// next waits for output and returns it; nil is the end. written is its previous result,
// whose memory it uses again.
func (k *sink) next(written []byte) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if cap(written) <= keptBuffer {
		k.spare = written[:0]
	}
	for len(k.waiting) == 0 {
		if k.ended {
			return nil
		}
		k.change.Wait()
	}
	data := k.waiting
	k.waiting, k.spare = k.spare, nil
	return data
}
