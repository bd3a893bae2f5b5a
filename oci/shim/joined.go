package shim

import (
	"os"
	"regexp"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

var namespaceOf = regexp.MustCompile(`^/proc/([0-9]+)/ns/`)

// joined returns the processes behind the /proc/PID/ns paths of a spec. A PID can be reused
// between this check and the join, so each process must belong to the pod now and be alive
// after the join, see stillLive.
func (s *Server) joined(pod string, namespaces []specs.LinuxNamespace) ([]process, error) {
	var all []process
	for _, ns := range namespaces {
		match := namespaceOf.FindStringSubmatch(ns.Path)
		if match == nil {
			continue // a new namespace, or one that a bind mount keeps
		}
		pid, err := strconv.Atoi(match[1])
		p := s.processOf(pod, pid)
		if err != nil || p == nil {
			return nil, fault(shimapi.KindNotRunning, "process %s, whose %s namespace the container is to join, is none of pod %s", match[1], ns.Type, pod)
		}
		all = append(all, p)
	}
	return all, nil
}

// processOf finds the pause process, or the first process of a container, of a pod by PID;
// nil: the pod has none with this PID.
func (s *Server) processOf(pod string, pid int) process {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p, ok := s.pods[pod]; ok && isClosed(p.ready) && !p.failed && p.record.PID == pid {
		return p.process
	}
	for _, ctr := range s.containers {
		if ctr.pod == pod && isClosed(ctr.ready) && !ctr.failed && ctr.pid == pid {
			return ctr.process
		}
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stillLive returns an error for a container that may have joined the namespaces of another
// process, because one that it was to join has ended.
func stillLive(all []process) error {
	for _, p := range all {
		if !p.alive() {
			return fault(shimapi.KindNotRunning, "a process whose namespaces the container joins has ended")
		}
	}
	return nil
}

// pidfdLives reports whether the process has not ended. A closed pidfd gives false: it is
// closed after the end.
func pidfdLives(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	lives := false
	err = raw.Control(func(fd uintptr) { lives = !hasEnded(int(fd)) })
	return err == nil && lives
}
