package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/oci/atomicfile"
	"berth/sandbox/record"
)

// leftPod is what an earlier daemon left on disk of a pod.
type leftPod struct {
	id         string
	rec        podRecord
	err        error // why there is no record that could be used; containers are not looked for then
	containers []leftContainer
}

// leftContainer is the same of a container.
type leftContainer struct {
	id  string
	rec containerRecord
	err error
}

// load reads all records. It changes nothing that counts, and fails when it can't tell
// whether there is a record: to recover the others would end what the unread ones are of.
func (r *recovery) load(ctx context.Context) ([]leftPod, error) {
	entries, err := os.ReadDir(r.paths.podsDir())
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	left, unread := make([]leftPod, len(entries)), make([]error, len(entries))
	parallel(ctx, len(entries), func(i int) { left[i], unread[i] = r.loadPod(ctx, entries[i].Name()) })
	if err := errors.Join(append(unread, ctx.Err())...); err != nil {
		return nil, fmt.Errorf("what runs can't be told from what is left, so nothing was changed; it is tried again at the next start: %w", err)
	}
	return left, nil
}

// loadPod returns an error only when it can't be told what is there.
func (r *recovery) loadPod(ctx context.Context, id string) (leftPod, error) {
	p := leftPod{id: id}
	p.err = readOwn(ctx, r.paths.podFile(id, record.PodFile), &p.rec)
	if p.err != nil && !isNoRecord(p.err) {
		return p, fmt.Errorf("pod sandbox %s: %w", id, p.err)
	}
	if p.err == nil {
		p.err = p.rec.decode()
	}
	if p.err != nil {
		return p, nil //nolint:nilerr // the pod is put aside for it
	}
	entries, err := os.ReadDir(r.paths.containersDir(id))
	if err != nil && !isNoRecord(err) {
		return p, fmt.Errorf("list containers of pod sandbox %s: %w", id, err)
	}
	var unread []error
	for _, e := range entries {
		c, err := r.loadContainer(ctx, id, e.Name())
		p.containers, unread = append(p.containers, c), append(unread, err)
	}
	return p, errors.Join(unread...)
}

// loadContainer is loadPod for a container.
func (r *recovery) loadContainer(ctx context.Context, pod, id string) (leftContainer, error) {
	c := leftContainer{id: id}
	c.err = readOwn(ctx, r.paths.containerFile(pod, id, record.ContainerFile), &c.rec)
	if c.err != nil && !isNoRecord(c.err) {
		return c, fmt.Errorf("container %s: %w", id, c.err)
	}
	if c.err == nil {
		c.err = c.rec.decode()
	}
	return c, nil
}

// isNoRecord tells whether the error of a read says for sure that there is no record that
// could be used: none, a damaged one, or something else in its place. Another error, of a
// host that lacks descriptors or memory or of a faulty disk, tells nothing of the record.
func isNoRecord(err error) bool {
	for _, sure := range []error{fs.ErrNotExist, atomicfile.ErrUnreadable, unix.ENOTDIR, unix.EISDIR} {
		if errors.Is(err, sure) {
			return true
		}
	}
	return false
}

// readOwn reads a record that an earlier daemon wrote, which may have been killed as it
// wrote.
func readOwn(ctx context.Context, path string, v any) error {
	if err := atomicfile.DropCutOff(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "A cut-off record stays", "record", path)
	}
	return atomicfile.Read(path, v)
}
