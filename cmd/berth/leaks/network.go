package leaks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"berth/cni"
)

// networkDirs of ROOT/cni have a file for each attachment, whose name has the pod's ID.
var networkDirs = []string{"pods", "results", "attempts", "netns"}

// networks are the attachments that the network remembers, by pod.
func (n *Node) networks() ([]owned, error) {
	pods := map[string]bool{}
	var errs []error
	for _, dir := range networkDirs {
		files, err := names(filepath.Join(n.Root, "cni", dir))
		errs = append(errs, err)
		for _, f := range files {
			if id := podID.FindString(f); id != "" {
				pods[id] = true
			}
		}
	}
	var out []owned
	for _, pod := range slices.Sorted(maps.Keys(pods)) {
		out = append(out, owned{pod: pod, Thing: Thing{
			Kind: kindNetwork, Name: "attachment of pod " + pod,
			gone:   func() bool { return !n.remembersAttachment(pod) },
			remove: func(ctx context.Context) error { return n.detach(ctx, pod) },
		}})
	}
	return out, errors.Join(errs...)
}

func (n *Node) remembersAttachment(pod string) bool { return len(n.attachmentFiles(pod)) > 0 }

func (n *Node) attachmentFiles(pod string) (out []string) {
	for _, dir := range networkDirs {
		found, _ := filepath.Glob(filepath.Join(n.Root, "cni", dir, "*"+pod+"*")) // no error with an ID
		out = append(out, found...)
	}
	return out
}

// detach runs the plugins' DEL with what their ADD was given. What is remembered then, such
// as a result without its configuration, serves for nothing.
func (n *Node) detach(ctx context.Context, pod string) error {
	network, err := cni.New(cni.Options{ConfDir: n.CNIConfDir, BinDirs: n.CNIBinDirs, CacheDir: filepath.Join(n.Root, "cni"), DelTimeout: n.CNIDelTimeout})
	if err != nil {
		return err
	}
	err = network.Del(ctx, cni.Request{PodID: pod, NetNS: filepath.Join(n.State, "pods", pod, "net")})
	if err != nil {
		return errors.Join(fmt.Errorf("detach it from the network: %w", err), network.Close())
	}
	errs := []error{network.Close()}
	for _, file := range n.attachmentFiles(pod) {
		errs = append(errs, os.Remove(file))
	}
	return errors.Join(errs...)
}
