package cri

import (
	"maps"
	"sync"
)

// sessions counts the streams that are open, by kind. A port-forward counts once for
// each connection.
type sessions struct {
	mu     sync.Mutex
	byKind map[string]int
}

func newSessions() *sessions {
	return &sessions{byKind: map[string]int{"exec": 0, "attach": 0, "portforward": 0}}
}

// begin counts a session until the function it returns is called.
func (s *sessions) begin(kind string) (end func()) {
	s.add(kind, 1)
	return func() { s.add(kind, -1) }
}

func (s *sessions) add(kind string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byKind[kind] += n
}

func (s *sessions) snapshot() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.byKind)
}
