package nri

import (
	"testing"
	"time"

	"berth/sandbox"
)

// lookedAt is a node without pods that counts how often they are asked for.
type lookedAt struct {
	emptyNode
	times int
}

func (n *lookedAt) Known() ([]*sandbox.PodStatus, []*sandbox.ContainerStatus) {
	n.times++
	return n.emptyNode.Known()
}

// Nobody hears of the pods at a start without plugins, so they are not described; the validator
// is a plugin.
func TestNothingIsDescribedForNobody(t *testing.T) {
	for name, c := range map[string]struct {
		validator Validator
		want      int
	}{
		"no plugin": {Validator{}, 0},
		"validator": {Validator{Reject: []string{"hooks"}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(Options{RegistrationTimeout: 5 * time.Second, RequestTimeout: 2 * time.Second, Validator: c.validator})
			if err != nil {
				t.Fatal(err)
			}
			n := &lookedAt{}
			if err := p.Start(n); err != nil {
				t.Fatal(err)
			}
			defer p.Stop()
			if n.times != c.want {
				t.Errorf("the pods were asked for %d times, want %d", n.times, c.want)
			}
		})
	}
}
