package shim_test

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
	"berth/test/shimnode"
)

// TestPoststartFails: a container whose poststart hook fails is killed, which its record tells.
func TestPoststartFails(t *testing.T) {
	n := shimnode.New(t)
	pod := n.Pod()
	for range 3 {
		r := n.Request(pod, "sleep 1000", func(_ *shimapi.CreateRequest, s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo why not; exit 1"}}}}
		})
		if _, err := n.Shim.Create(n.Ctx, r); err != nil {
			t.Fatal(err)
		}
		if err := n.Shim.Start(n.Ctx, r.ID); shimnode.KindOfError(err) != shimapi.KindStartFailed || !strings.Contains(err.Error(), "why not") {
			t.Errorf("start: %v", err)
		}
		if rec := n.Exit(r); rec.ExitCode != 137 || rec.Signal != 9 || rec.OOMKilled {
			t.Fatalf("record %+v, want code 137", rec)
		}
		if err := n.Shim.Delete(n.Ctx, r.ID); err != nil {
			t.Error(err)
		}
	}
}
