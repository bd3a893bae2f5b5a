package explain

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/oci/shimapi"
	"berth/sandbox/record"
)

// Errors of [Pods.Explain].
var (
	ErrNotFound  = errors.New("no such pod or container")
	ErrAmbiguous = errors.New("more than one pod or container")
)

// Pods are the records of a node.
type Pods struct {
	all []*pod
	// Broken are records that can't be read, with the reason.
	Broken []string
}

// written is what has been written about a pod or container: its configuration by the
// daemon, and by the shim the fact, which is empty when the shim has written nothing yet.
type written[C proto.Message] struct {
	dir    string
	config C
	fact   shimapi.Record
}

// read reads the daemon's record, a file of this name, into into. config is the part of
// it with the configuration.
func (w *written[C]) read(name string, into any, config *json.RawMessage) error {
	if err := readRecord(filepath.Join(w.dir, name), into); err != nil {
		return err
	}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(*config, w.config); err != nil {
		return err
	}
	err := readRecord(filepath.Join(w.dir, shimapi.RecordName), &w.fact)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// pod is what its record says, and the fact of its pause process.
type pod struct {
	written[*runtimeapi.PodSandboxConfig]
	state      string // its directory below the daemon's state
	containers []*container

	record.Pod
}

// container is what its record says, and the fact of its process.
type container struct {
	written[*runtimeapi.ContainerConfig]
	rootfs string
	pod    *pod

	record.Container
	Spec specs.Spec `json:"spec"` // in place of the record's undecoded one
}

func (p *pod) name() string {
	m := p.config.GetMetadata()
	return m.GetNamespace() + "/" + m.GetName()
}

// ips are the addresses that the network gave the pod; none on the host network.
func (p *pod) ips() []string {
	if p.Network == nil {
		return nil
	}
	return p.Network.IPs
}

func (p *pod) options() *runtimeapi.NamespaceOption {
	return p.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func (c *container) name() string { return c.config.GetMetadata().GetName() }

// Open reads the records below the root and state directories of a daemon, which
// need not run. A record that can't be read is told in Broken.
func Open(root, state string) (*Pods, error) {
	pods := &Pods{}
	dirs, err := os.ReadDir(filepath.Join(root, "pods"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("records of pods: %w", err)
	}
	for _, d := range dirs {
		p := &pod{state: filepath.Join(state, "pods", d.Name())}
		p.dir, p.config = filepath.Join(root, "pods", d.Name()), &runtimeapi.PodSandboxConfig{}
		broken := p.readAll(filepath.Join(state, "containers"))
		if p.ID != "" {
			pods.all = append(pods.all, p)
		}
		for _, err := range broken {
			if !errors.Is(err, fs.ErrNotExist) { // else it went while we looked
				pods.Broken = append(pods.Broken, err.Error())
			}
		}
	}
	return pods, nil
}

// readAll reads the records of a pod and of its containers. It returns what could not be
// read; the rest is there.
func (p *pod) readAll(rootfs string) (broken []error) {
	if err := p.read(record.PodFile, p, &p.Config); err != nil {
		broken = append(broken, fmt.Errorf("pod %s: %w", filepath.Base(p.dir), err))
	}
	dirs, err := os.ReadDir(filepath.Join(p.dir, "containers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		broken = append(broken, err)
	}
	for _, d := range dirs {
		c := &container{pod: p, rootfs: filepath.Join(rootfs, d.Name(), "rootfs")}
		c.dir, c.config = filepath.Join(p.dir, "containers", d.Name()), &runtimeapi.ContainerConfig{}
		if err := c.read(record.ContainerFile, c, &c.Config); err != nil {
			broken = append(broken, fmt.Errorf("container %s: %w", d.Name(), err))
		}
		if c.ID != "" {
			p.containers = append(p.containers, c)
		}
	}
	return broken
}

func readRecord(path string, into any) error {
	b, err := readFile(filepath.Dir(path), filepath.Base(path), recordBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// find gives the pod or container whose ID begins with what, or that has the name
// what: NAME, NAMESPACE/POD, or NAMESPACE/POD/CONTAINER. One of the two answers is nil.
func (ps *Pods) find(what string) (*pod, *container, error) {
	var pods []*pod
	var containers []*container
	var names []string
	for _, p := range ps.all {
		if matches(what, p.ID, p.name(), p.config.GetMetadata().GetName()) {
			pods, names = append(pods, p), append(names, "pod "+p.ID)
		}
		for _, c := range p.containers {
			if matches(what, c.ID, c.name(), p.name()+"/"+c.name()) {
				containers, names = append(containers, c), append(names, "container "+c.ID)
			}
		}
	}
	switch {
	case len(names) > 1:
		return nil, nil, fmt.Errorf("%w is meant by %q: %s; give more of the ID", ErrAmbiguous, what, strings.Join(names, ", "))
	case len(pods) == 1:
		return pods[0], nil, nil
	case len(containers) == 1:
		return nil, containers[0], nil
	}
	return nil, nil, fmt.Errorf("%w: %q; give an ID or the beginning of one, or a name", ErrNotFound, what)
}

func matches(what, id string, names ...string) bool {
	return what != "" && (strings.HasPrefix(id, what) || slices.Contains(names, what))
}
