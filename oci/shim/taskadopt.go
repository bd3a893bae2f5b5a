package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"berth/oci/shimapi"
)

// takeOverTask is takeOver for a container that a foreign shim has made: that shim still is
// the parent and knows the rest.
func (cs *containers) takeOverTask(ctr *container, r shimapi.AdoptRequest, files map[string]*os.File) (err error) {
	b := cs.sandboxOf(r.Pod)
	if b == nil {
		return fault(shimapi.KindNotFound, "the pod of container %s has no foreign shim", ctr.id)
	}
	ctr.sandbox = b
	ctr.knowFromBundle(r.Bundle)
	ctr.useTask(b.shim.Task(ctr.id), cs.foreign, shimapi.Bundle{ID: ctr.id, Dir: r.Bundle, Runtime: b.request.Bundle.Runtime})
	if ctr.record.Status == shimapi.StatusStopped {
		ctr.process, ctr.io = ended{}, &stdio{}
		cs.journal.forget(ctr.id)
		ctr.publish(shimapi.EventExited)
		close(ctr.done)
		ctr.removeCgroups(0)
		return nil
	}
	if files[shimapi.FileStdout] == nil || files[shimapi.FileStderr] == nil && !r.Terminal {
		return fault(shimapi.KindInvalid, "an output of the container is lost")
	}
	if ctr.io, err = inheritFifos(cs.adoptedLog(r), r.Terminal, files); err != nil {
		return err
	}
	ctr.thawAdopted()
	started := false
	if ctr.record.Status == shimapi.StatusCreated {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		started, _ = ctr.task.Started(ctx) // an error: supervise finds that the shim is gone
	}
	stopOOM := cs.ooms.watchContainer(ctr)
	ctr.change(kindOf(ctr.record), func(rec *shimapi.Record) {
		if started {
			rec.Status, rec.StartedAt = shimapi.StatusRunning, time.Now()
		}
	})
	ctr.countOOMs()
	go ctr.supervise(stopOOM)
	return nil
}

// inheritFifos is inheritStdio for fifos.
func inheritFifos(to logTarget, terminal bool, files map[string]*os.File) (*stdio, error) {
	s := &stdio{terminal: terminal, fifos: true}
	if err := s.resumeLog(to); err != nil {
		return nil, err
	}
	s.stdin = files[shimapi.FileStdin]
	delete(files, shimapi.FileStdin)
	for _, name := range []string{shimapi.FileStdout, shimapi.FileStderr} {
		if f := files[name]; f != nil {
			delete(files, name)
			s.run(name, f)
		}
	}
	return s, nil
}

// specOf reads the spec of a container from its bundle.
func specOf(bundle string) (*specs.Spec, error) {
	raw, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil || spec.Process == nil || spec.Linux == nil {
		return nil, errors.Join(fmt.Errorf("bundle %s has no spec of a Linux container", bundle), err)
	}
	return &spec, nil
}

// knowFromBundle reads what the spec tells of an adopted container; one whose spec can't be read
// counts as a tracer.
func (ctr *container) knowFromBundle(dir string) {
	ctr.bundle, ctr.tracer = dir, true
	if spec, err := specOf(dir); err == nil {
		ctr.tracer, ctr.asked = mayTrace(spec), spec.Linux.CgroupsPath
	}
}
