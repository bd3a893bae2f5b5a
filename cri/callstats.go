package cri

import (
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
)

// RPCStats are the calls of one method since the daemon started.
type RPCStats struct {
	Count  uint64            `json:"count"`
	Errors map[string]uint64 `json:"errors,omitempty"` // by gRPC code
	Total  time.Duration     `json:"totalNanoseconds"`
	Max    time.Duration     `json:"maxNanoseconds"`
}

type callStats struct {
	mu       sync.Mutex
	byMethod map[string]*RPCStats
}

func newCallStats() *callStats { return &callStats{byMethod: make(map[string]*RPCStats)} }

func (c *callStats) add(method string, code codes.Code, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.byMethod[method]
	if s == nil {
		s = &RPCStats{}
		c.byMethod[method] = s
	}
	s.Count++
	s.Total += took
	s.Max = max(s.Max, took)
	if code != codes.OK {
		if s.Errors == nil {
			s.Errors = make(map[string]uint64)
		}
		s.Errors[code.String()]++
	}
}

func (c *callStats) snapshot() map[string]RPCStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]RPCStats, len(c.byMethod))
	for m, s := range c.byMethod {
		one := *s
		one.Errors = maps.Clone(s.Errors)
		out[m] = one
	}
	return out
}
