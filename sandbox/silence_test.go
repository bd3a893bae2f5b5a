package sandbox

import (
	"testing"
	"time"
)

// Each time in a row that a shim is silent doubles the wait, up to a limit, until it
// answers.
func TestSilenceDoubles(t *testing.T) {
	var s silence
	now := time.Unix(1000, 0)
	for i, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		want *= time.Second
		asked := now
		if !s.mayAsk(asked) {
			t.Fatalf("silence %d: it is not asked", i)
		}
		now = now.Add(foreignPatience)
		s.note(asked, now)
		s.note(asked.Add(time.Second), now.Add(time.Second)) // a question of another call, meanwhile
		if s.mayAsk(now.Add(want-1)) || !s.mayAsk(now.Add(want)) {
			t.Errorf("silence %d: it is not asked for %v, want %v", i, s.span, want)
		}
		now = now.Add(want)
	}
	s.end()
	if !s.mayAsk(now) {
		t.Error("it has answered and is not asked")
	}
	s.note(now, now)
	if s.mayAsk(now.Add(silentTime-1)) || !s.mayAsk(now.Add(silentTime)) {
		t.Errorf("after an answer it is not asked for %v", s.span)
	}
}
