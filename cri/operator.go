package cri

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"berth/cri/operator"
	"berth/image"
)

// backend is the operator service on the same domain.
type backend struct{ *Server }

var _ operator.Backend = (*backend)(nil)

func (b *backend) archive() (Archive, error) {
	if b.opt.Archive == nil {
		return nil, notImplemented("this berthd was made without image archives")
	}
	return b.opt.Archive, nil
}

func (b *backend) Load(ctx context.Context, r io.Reader, progress func(string)) ([]string, error) {
	a, err := b.archive()
	if err != nil {
		return nil, err
	}
	images, err := a.Load(ctx, r, image.LoadOptions{Progress: pullLines(progress)})
	if err != nil {
		return nil, err
	}
	var names []string
	for _, img := range images {
		progress(fmt.Sprintf("loaded %s", img.ID))
		names = append(names, imageNames(img)...)
	}
	return names, nil
}

// imageNames are an image's tags, or its ID when it has none.
func imageNames(img *image.Image) []string {
	if len(img.Tags) == 0 {
		return []string{img.ID}
	}
	return img.Tags
}

func (b *backend) Export(ctx context.Context, refs []string, w io.Writer) error {
	a, err := b.archive()
	if err != nil {
		return err
	}
	return a.Export(ctx, refs, w)
}

func (b *backend) Pull(ctx context.Context, ref string, progress func(string)) (string, error) {
	img, err := b.opt.Images.Pull(ctx, image.PullRequest{Reference: ref, Progress: pullLines(progress)})
	if err != nil {
		return "", err
	}
	return img.ID, nil
}

// pullLines tells a pull or load in a line per stage and per tenth of a layer.
func pullLines(tell func(string)) func(image.Progress) {
	last := ""
	return func(p image.Progress) {
		line := p.Stage + " " + p.Reference
		if p.Stage == image.StageLayer {
			percent := int64(100)
			if p.Total > 0 {
				percent = 10 * (10 * p.Done / p.Total)
			}
			line = fmt.Sprintf("layer %d of %d: %d%% of %.1f MiB", p.Index+1, p.Layers, percent, float64(p.Total)/(1<<20))
		}
		if line != last {
			tell(line)
			last = line
		}
	}
}

func (b *backend) Check(ctx context.Context, repair bool) (json.RawMessage, error) {
	a, err := b.archive()
	if err != nil {
		return nil, err
	}
	report, err := a.Check(ctx, repair)
	if err != nil {
		return nil, err
	}
	return json.Marshal(report)
}

func (b *backend) Info() operator.Info {
	info := operator.Info{
		Version: b.opt.Version, Go: runtime.Version(), PID: os.Getpid(), Ready: b.isReady(),
		UptimeSec: int64(time.Since(b.started).Seconds()), Streaming: b.StreamAddress(), InFlight: b.opt.Calls.Names(),
	}
	if b.opt.Shims != nil {
		info.Shims = b.opt.Shims()
	}
	info.RPCs, _ = json.Marshal(b.Counters()) // plain numbers: can't fail
	if info.Ready {
		info.Pods, info.Containers, info.Images = len(b.opt.Domain.Pods()), len(b.opt.Domain.Containers()), len(b.opt.Images.List())
	}
	return info
}
