package shim

import (
	"time"

	"berth/oci/shimapi"
)

// stages are what a call has done by and by, for a client that traces it. It is used by
// the goroutine of the call alone; nil: nobody asked.
type stages struct{ list []shimapi.Stage }

func nothingMeasured() {}

// begin starts a stage, which ends with end. Stages may be inside each other.
func (s *stages) begin(name string) (end func()) {
	if s == nil {
		return nothingMeasured
	}
	began := time.Now()
	return func() { s.list = append(s.list, shimapi.Stage{Name: name, Begin: began, End: time.Now()}) }
}

// measured is what has ended so far.
func (s *stages) measured() []shimapi.Stage {
	if s == nil {
		return nil
	}
	return s.list
}
