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

// pod is what its record says, and the fact of its pause process.
type pod struct {
	dir        string
	state      string // its directory below the daemon's state
	fact       shimapi.Record
	config     *runtimeapi.PodSandboxConfig
	containers []*container

	record.Pod
}

// container is what its record says, and the fact of its process.
type container struct {
	dir    string
	rootfs string
	pod    *pod
	fact   shimapi.Record
	config *runtimeapi.ContainerConfig

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
		p := &pod{dir: filepath.Join(root, "pods", d.Name()), state: filepath.Join(state, "pods", d.Name())}
		broken := p.read(filepath.Join(state, "containers"))
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

// read gives what could not be read; the rest is there.
func (p *pod) read(rootfs string) (broken []error) {
	p.config = &runtimeapi.PodSandboxConfig{}
	err := readRecord(filepath.Join(p.dir, record.PodFile), p)
	if err == nil {
		err = decode(p.Config, p.config)
	}
	if err == nil {
		err = readFact(filepath.Join(p.dir, shimapi.RecordName), &p.fact)
	}
	if err != nil {
		broken = append(broken, fmt.Errorf("pod %s: %w", filepath.Base(p.dir), err))
	}
	dirs, err := os.ReadDir(filepath.Join(p.dir, "containers"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		broken = append(broken, err)
	}
	for _, d := range dirs {
		c := &container{pod: p, dir: filepath.Join(p.dir, "containers", d.Name()), rootfs: filepath.Join(rootfs, d.Name(), "rootfs")}
		if err := c.read(); err != nil {
			broken = append(broken, fmt.Errorf("container %s: %w", d.Name(), err))
		}
		if c.ID != "" {
			p.containers = append(p.containers, c)
		}
	}
	return broken
}

func (c *container) read() error {
	c.config = &runtimeapi.ContainerConfig{}
	err := readRecord(filepath.Join(c.dir, record.ContainerFile), c)
	if err == nil {
		err = decode(c.Config, c.config)
	}
	if err == nil {
		err = readFact(filepath.Join(c.dir, shimapi.RecordName), &c.fact)
	}
	return err
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

// readFact leaves into empty when the shim has written nothing yet.
func readFact(path string, into *shimapi.Record) error {
	err := readRecord(path, into)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func decode(config json.RawMessage, into proto.Message) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(config, into)
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
