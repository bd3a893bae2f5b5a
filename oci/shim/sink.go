package shim

import (
	"log/slog"
	"os"
	"slices"
	"sync"
)

// sinkLimit is how many bytes of output wait for a client of attach in memory, beside
// those in its pipe. A client further behind is cut off: a container neither waits for
// its clients nor makes this process grow.
const sinkLimit = 4 << 20

// keptBuffer is the most that a sink keeps allocated while nothing waits, in bytes.
const keptBuffer = 64 << 10

// sink is where a client wants a copy of a stream. It owns the file, and a goroutine
// that writes to it.
type sink struct {
	file *os.File
	lost chan<- struct{} // told when the client is cut off
	over chan struct{}   // closed when nothing is written any more and the file is closed

	mu      sync.Mutex
	change  sync.Cond
	waiting []byte
	spare   []byte
	ended   bool // nothing comes after what waits
}

// attach adds a sink for f, which becomes the sink's, and gives it all that is read
// from now on. A client that can't follow is cut off and lost is told, which never
// blocks.
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

// endSinks lets the sinks write what waits, and end.
func (st *stream) endSinks() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ended = true
	for _, k := range st.sinks {
		k.end()
	}
}

// offer takes data or cuts the client off; it never waits for the client.
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

// close gives up what waits. It returns when the file is closed.
func (k *sink) close() {
	k.mu.Lock()
	k.ended, k.waiting = true, nil
	k.change.Signal()
	k.mu.Unlock()
	_ = k.file.Close() // wakes a write
	<-k.over
}

// run writes until the end or the client's.
func (k *sink) run() {
	var data []byte
	for {
		if data = k.next(data); data == nil {
			return
		}
		if _, err := k.file.Write(data); err != nil {
			k.end() // takes no more
			return
		}
	}
}

// next waits for output; nil is the end. written is what it returned before.
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
