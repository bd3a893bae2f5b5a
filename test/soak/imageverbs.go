package main

import (
	"context"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/tally"
)

// ownedImage is the image that only one client pulls and removes.
type ownedImage struct {
	name string
	may  []bool // be there: both, after a call that was cut short
}

// imageStep looks whether the client's image is there as it must be, and pulls or removes
// it.
func (w *worker) imageStep(ctx context.Context) {
	w.seeImage(ctx)
	if w.rng.IntN(2) == 0 {
		w.removeImage(ctx)
		return
	}
	o, err := w.call(ctx, "pull", func(ctx context.Context) error {
		_, err := w.cri.Pull(ctx, w.image.name)
		return err
	})
	w.imageIs(o, true)
	if o == tally.Wrong {
		w.wrong("pull", err, "")
	}
}

func (w *worker) removeImage(ctx context.Context) {
	for {
		o, err := w.call(ctx, "remove image", func(ctx context.Context) error { return w.cri.RemoveImage(ctx, w.image.name) })
		w.imageIs(o, false)
		if o == tally.Wrong {
			w.wrong("remove image", err, "")
		}
		if o != tally.Cut {
			break
		}
	}
	w.seeImage(ctx)
}

// imageIs notes how a call ended that would make the image be there or not.
func (w *worker) imageIs(o tally.Outcome, there bool) {
	if o == tally.Fine {
		w.image.may = nil
	}
	if !slices.Contains(w.image.may, there) {
		w.image.may = append(w.image.may, there)
	}
}

func (w *worker) seeImage(ctx context.Context) {
	there := false
	o, err := w.until(ctx, "image status", func(ctx context.Context) error {
		r, err := w.cri.Images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: w.image.name}})
		there = r.GetImage() != nil
		return err
	})
	if o == tally.Wrong {
		w.wrong("image status", err, "")
	}
	if o != tally.Fine {
		return
	}
	if !slices.Contains(w.image.may, there) {
		w.Problem("client %d: its image is there: %v, must be one of %v", w.number, there, w.image.may)
	}
	w.image.may = []bool{there}
}
