package cri

import (
	"context"
	"strings"
	"testing"

	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"

	"berth/image"
)

func TestPullClock(t *testing.T) {
	for name, c := range map[string]struct {
		stages []image.Progress
		has    []string
		never  string
	}{
		"fetched": {[]image.Progress{
			{Stage: image.StageResolve},
			{Stage: image.StageLayer, Layer: "a", Done: 1, Total: 10, Layers: 2},
			{Stage: image.StageLayer, Layer: "b", Done: 7, Total: 7, Layers: 2}, // was here
			{Stage: image.StageLayer, Layer: "a", Done: 10, Total: 10, Layers: 2},
			{Stage: image.StageCommit, Layers: 2}, {Stage: image.StageDone, Layers: 2},
		}, []string{"resolveTook=", "layerTook=", "commitTook=", "fetched=1", "layers=2", "bytes=10"}, "doneTook"},
		"known": {[]image.Progress{{Stage: image.StageResolve}}, []string{"resolveTook=", "fetched=0"}, "layerTook"},
	} {
		logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true), ktesting.Verbosity(2)))
		clock := startPullClock()
		for _, p := range c.stages {
			clock.note(p)
		}
		clock.tell(klog.NewContext(context.Background(), logger), &image.Image{ID: "sha256:1"})
		line := logger.GetSink().(ktesting.Underlier).GetBuffer().String()
		for _, want := range c.has {
			if !strings.Contains(line, want) {
				t.Errorf("%s: no %q in %q", name, want, line)
			}
		}
		if strings.Contains(line, c.never) {
			t.Errorf("%s: %q in %q", name, c.never, line)
		}
	}
}
