package integration

import (
	"strings"
	"testing"

	"berth/test/node"
)

// berth pods remove ends what runs, as before the package goes.
func TestPodsRemove(t *testing.T) {
	s := own(t, node.Options{})
	config := s.podConfig(t)
	id, err := s.RunPod(within(t), config)
	if err != nil {
		t.Fatal(err)
	}
	s.podOf(t, id, config).start("c", "sleep 1000")
	said := s.berth(t, "--address", s.Endpoint, "pods", "remove")
	left, err := s.Client.Pods(within(t), nil)
	if err != nil || len(left) != 0 || strings.Count(said, "removed ") != 1 {
		t.Errorf("after pods remove, which says %q, there are %d pods, %v", said, len(left), err)
	}
}
