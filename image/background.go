package image

import (
	"context"
	"sync"
)

// background is the work of a store that can continue after the call that started it has
// returned: pulls, the making of layers, and deletions. It is cancelled when the store is
// closed, and [background.stop] waits until it has ended.
type background struct {
	ctx     context.Context // ends with the store
	cancel  context.CancelFunc
	running sync.WaitGroup // goroutines, which end soon after ctx, and calls during which the store must stay open
}

func newBackground() *background {
	b := &background{}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// stop cancels the work and waits until it has ended.
func (b *background) stop() {
	b.cancel()
	b.running.Wait()
}
