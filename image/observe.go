package image

import (
	"context"
	"time"

	"berth/image/registry"
)

// Observer is told what pulls do. Its functions are called from several goroutines and
// must not block; a nil one is not called.
type Observer struct {
	// Pulled is told of every pull that ended. Callers that shared a pull count once.
	Pulled func(Pulled)
	// Received is told how many bytes of a layer a registry sent, once for each attempt
	// to fetch it.
	Received func(registry string, bytes int64)
}

// Pulled is a pull that has ended.
type Pulled struct {
	Registry string // the host in the image's name, not that of a mirror
	Took     time.Duration
	Err      error // nil, or what Pull returned
}

// timed is work that reports its end.
func (o Observer) timed(work pullWork) pullWork {
	if o.Pulled == nil {
		return work
	}
	return func(ctx context.Context, ref registry.Reference, auth *Auth, tell func(Progress)) (*Image, error) {
		began := time.Now()
		img, err := work(ctx, ref, auth, tell)
		o.Pulled(Pulled{Registry: ref.Host, Took: time.Since(began), Err: pullFailure(ref, err)})
		return img, err
	}
}

func (o Observer) received(registry string, bytes int64) {
	if o.Received != nil {
		o.Received(registry, bytes)
	}
}
