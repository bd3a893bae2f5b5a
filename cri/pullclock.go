package cri

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"berth/image"
)

// pullClock times the stages of one pull. Layers are fetched, verified and
// unpacked in one stream, side by side, so these are one stage.
type pullClock struct {
	mu     sync.Mutex
	since  time.Time
	stage  string
	took   []any // name, duration, …: keys of a log line
	blobs  map[string]int64
	layers int
}

func startPullClock() *pullClock {
	return &pullClock{since: time.Now(), blobs: map[string]int64{}}
}

func (c *pullClock) note(p image.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.Stage == image.StageLayer && p.Done < p.Total {
		c.blobs[p.Layer] = p.Total // one that was here is told as done at once
	}
	c.layers = max(c.layers, p.Layers)
	if p.Stage == c.stage {
		return
	}
	c.lap()
	c.stage = p.Stage
}

func (c *pullClock) lap() {
	now := time.Now()
	if c.stage != "" {
		c.took = append(c.took, c.stage+"Took", now.Sub(c.since))
	}
	c.since = now
}

// tell logs what the pull took; one that fetched nothing is not worth a line at
// the lowest level.
func (c *pullClock) tell(ctx context.Context, img *image.Image) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stage != image.StageDone {
		c.lap()
	}
	var bytes int64
	for _, n := range c.blobs {
		bytes += n
	}
	log := klog.FromContext(ctx)
	if len(c.blobs) == 0 {
		log = log.V(2)
	}
	log.Info("Image pulled", append([]any{"id", img.ID, "layers", c.layers, "fetched", len(c.blobs), "bytes", bytes}, c.took...)...)
}
