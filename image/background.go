package image

import (
	"context"
	"sync"
)

// background is what an open store does on its own account: pulls, layers in the making
// and deletions, which go on when the call that began them has returned. All of it ends
// with the store, and [background.stop] waits for it.
type background struct {
	ctx     context.Context // ends with the store
	cancel  context.CancelFunc
	running sync.WaitGroup // goroutines, which end soon after ctx, and calls that need the store open
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// stop cancels everything and waits until it has ended.
func (b *background) stop() {
	b.cancel()
	b.running.Wait()
}
