package shim

import (
	"log/slog"
	"path/filepath"
	"time"

	"berth/oci/shimapi"
)

const (
	// unwantedGrace is how long the deletion of a container waits for its making to end
	// once its processes are killed. A making that the kernel holds, as a mount from a
	// dead server may be, goes on alone after that.
	unwantedGrace = 2 * time.Second
	// unwantedPause is how often its processes are looked for meanwhile: nobody tells
	// when the making starts one.
	unwantedPause = 20 * time.Millisecond
)

// giveUp ends the making of a container that nobody wants any more. It tells whether
// that has ended; if not, create removes what comes of it.
func (s *Server) giveUp(ctr *container) bool {
	select {
	case <-ctr.ready:
		return true
	default:
	}
	ctr.unwanted.Store(true)
	over := make(chan struct{})
	defer close(over)
	go s.killYoung(ctr, over)
	select {
	case <-ctr.ready:
		return true
	case <-time.After(unwantedGrace):
		slog.Error("the making of a container does not end; it is given up", "container", ctr.id)
		return false
	}
}

// killYoung kills what the making of a container starts, until over is closed.
func (s *Server) killYoung(ctr *container, over <-chan struct{}) {
	again := time.NewTicker(unwantedPause)
	defer again.Stop()
	for {
		if err := removeNoted(filepath.Join(s.config.Dir, "state", ctr.id, cgroupName)); err != nil {
			slog.Error("processes of a container that is being made are not ended", "container", ctr.id, "error", err)
		}
		select {
		case <-ctr.ready:
			return
		case <-over:
			return
		case <-again.C:
		}
	}
}

// made ends a container's making. What became of one that is not wanted is removed.
func (s *Server) made(ctr *container) {
	close(ctr.ready)
	if !ctr.unwanted.Load() {
		return
	}
	if _, err := s.delete(shimapi.IDRequest{ID: ctr.id}); err != nil {
		slog.Error("container that is not wanted stays", "container", ctr.id, "error", err)
	}
	// The daemon waits for it no longer, but may hold what was in use until now.
	s.hub.publish(shimapi.EventDeleted, shimapi.Record{ID: ctr.id, Pod: ctr.pod, Status: shimapi.StatusStopped})
	s.hub.forget(ctr.id)
}
