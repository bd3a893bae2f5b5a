package leaks

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// records are the IDs that belong to somebody.
type records struct {
	pods, containers map[string]bool
	layers           map[string]bool // as their directories are named
	processes        map[int]uint64  // of pods and containers, with their start times
	// unreadable are records that can't be read: what they name is not known, so that
	// nothing is called a leak that might be theirs.
	unreadable []string
}

// records reads those of the node.
func (n *Node) records() (*records, error) {
	r := &records{pods: map[string]bool{}, containers: map[string]bool{}, layers: map[string]bool{}, processes: map[int]uint64{}}
	pods, err := names(filepath.Join(n.Root, "pods"))
	if err != nil {
		return nil, err
	}
	for _, id := range pods {
		if err := r.addPod(filepath.Join(n.Root, "pods", id), id); err != nil {
			return nil, err
		}
	}
	images, err := names(filepath.Join(n.Root, "images"))
	if err != nil {
		return nil, err
	}
	for _, name := range images {
		if strings.HasSuffix(name, ".json") && !strings.HasPrefix(name, ".") {
			r.addImage(filepath.Join(n.Root, "images", name))
		}
	}
	return r, nil
}

// addPod notes a pod whose record exists, readable or not, with its containers.
func (r *records) addPod(dir, id string) error {
	var pod record.Pod
	found, err := r.read(filepath.Join(dir, record.PodFile), &pod)
	if err != nil || !found {
		return err
	}
	r.pods[id] = true
	r.addProcess(pod.PausePID, pod.PauseStart)
	r.addLayers(pod.SandboxLayers)
	if err := r.addFact(dir); err != nil {
		return err
	}
	containers, err := names(filepath.Join(dir, "containers"))
	for _, ctr := range containers {
		var c record.Container
		found, rerr := r.read(filepath.Join(dir, "containers", ctr, record.ContainerFile), &c)
		err = errors.Join(err, rerr)
		if !found {
			continue
		}
		r.containers[ctr] = true
		r.addLayers(c.Held())
		err = errors.Join(err, r.addFact(filepath.Join(dir, "containers", ctr)))
	}
	return err
}

func (r *records) addLayers(chains []string) {
	for _, l := range chains {
		r.layers[layerName(l)] = true
	}
}

func (r *records) addFact(dir string) error {
	var fact shimapi.Record
	_, err := r.read(filepath.Join(dir, shimapi.RecordName), &fact)
	r.addProcess(fact.PID, fact.StartTime)
	return err
}

func (r *records) addProcess(pid int, start uint64) {
	if pid > 0 {
		r.processes[pid] = start
	}
}

// read reads a record; found is false when there is none. One whose content makes no sense
// is noted as unreadable.
func (r *records) read(path string, into any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("read record: %w", err)
	}
	if json.Unmarshal(data, into) != nil {
		r.unreadable = append(r.unreadable, path)
	}
	return true, nil
}

// addImage notes the layers of an image.
func (r *records) addImage(path string) {
	var image struct {
		Layers []struct {
			ChainID string `json:"chain_id"`
		} `json:"layers"`
	}
	if _, err := r.read(path, &image); err != nil {
		r.unreadable = append(r.unreadable, path)
	}
	for _, l := range image.Layers {
		r.layers[layerName(l.ChainID)] = true
	}
}

// layerName is the directory of a layer below ROOT/layers.
func layerName(chain string) string { return strings.TrimPrefix(chain, "sha256:") }

// lacks is what a thing lacks to belong to somebody; "" when it does.
func (r *records) lacks(t owned) string {
	for _, l := range []struct {
		lacks bool
		what  string
	}{
		{t.stray != "", t.stray},
		{t.container != "" && !r.containers[t.container], "no record of container " + short(t.container)},
		{t.pod != "" && !r.pods[t.pod], "no record of pod " + short(t.pod)},
		{t.podPart != "" && !r.hasPodPart(t.podPart), "no record of a pod " + t.podPart},
		{t.pid != 0 && r.processes[t.pid] != t.start, "no record and no shim has it"},
		{t.layer != "" && !r.layers[t.layer] && len(r.unreadable) == 0, "no image and no container has it"},
	} {
		if l.lacks {
			return l.what
		}
	}
	return ""
}

func (r *records) hasPodPart(part string) bool {
	for id := range r.pods {
		if strings.HasPrefix(id, part) {
			return true
		}
	}
	return false
}

func short(id string) string { return id[:min(len(id), 13)] }
