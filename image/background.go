package image

import (
	"context"
	"sync"
)

// background is what an open store does on its own account: pulls, layers in the making
// and deletions, which go on when the call that began them has returned. All of it ends
// with the store, and [background.stop] waits for it.
type background struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// run starts f in a goroutine of its own. f must end soon after ctx of the background,
// or a context made from it, has ended.
func (b *background) run(f func()) {
	b.running.Add(1)
	go func() {
		defer b.running.Done()
		f()
	}()
}

// stop cancels everything and waits until it has ended.
func (b *background) stop() {
	b.cancel()
	b.running.Wait()
}
