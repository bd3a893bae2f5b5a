package shim

import (
	"testing"
	"time"
)

// A stage that nobody asked for costs nothing; one that was asked for is inside the call.
func TestStages(t *testing.T) {
	var none *stages
	if n := testing.AllocsPerRun(100, func() { none.begin("a")() }); n != 0 || none.measured() != nil {
		t.Errorf("a stage that nobody asked for allocates %v times and gives %v", n, none.measured())
	}
	s, began := &stages{}, time.Now()
	outer := s.begin("outer")
	s.begin("inner")()
	outer()
	got := s.measured()
	if len(got) != 2 || got[0].Name != "inner" || got[1].Name != "outer" {
		t.Fatalf("the stages are %v", got)
	}
	if got[1].Begin.Before(began) || got[0].Begin.Before(got[1].Begin) || got[1].End.Before(got[0].End) {
		t.Errorf("the inner stage %v is not within the outer one %v", got[0], got[1])
	}
}
