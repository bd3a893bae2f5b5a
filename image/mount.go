package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"berth/image/layer"
	"berth/image/overlay"
	"berth/oci/idmap"
)

// IDMap is one line of a user namespace's UID or GID map.
type IDMap = idmap.Map

// MountRequest is a request to mount the merged tree of layers at a directory.
type MountRequest struct {
	Layers []string // ChainIDs, lowest first, as in Image.Layers; may be empty
	Target string   // directory, created if it does not exist
	// Upper and Work are the directories of the writable layer (overlayfs's upperdir and
	// workdir). They are created and must be on one filesystem. If they are empty the mount
	// is read-only.
	Upper, Work string
	// UIDMap and GIDMap are the maps of the pod's user namespace, if it has one. With them
	// the owners of the image's files are mapped into the namespace (idmapped mount).
	UIDMap, GIDMap []IDMap
	// Label is the SELinux label of all files of the view; "" shows those of the layers.
	Label string
}

// Mount mounts the layers. The caller should hold them ([Store.Hold]). An earlier mount at
// the target stays, and is hidden by the new one.
func (s *Store) Mount(_ context.Context, req MountRequest) error {
	c := overlay.Config{Target: req.Target, Upper: req.Upper, Work: req.Work, Label: req.Label, Links: s.pool.dir}
	for _, chain := range slices.Backward(req.Layers) {
		c.Lower = append(c.Lower, filepath.Join(s.pool.path(chain), layer.FSDir))
	}
	need := 1 // overlayfs requires a lower directory, and two of them for a read-only mount
	if req.Upper == "" {
		need = 2
	}
	for i := 0; len(c.Lower) < need; i++ {
		c.Lower = append(c.Lower, s.pool.emptyLower(i))
	}
	if len(req.UIDMap) > 0 || len(req.GIDMap) > 0 {
		ns, err := overlay.NewUserNS(req.UIDMap, req.GIDMap)
		if err != nil {
			return err
		}
		defer ns.Close() // a namespace, no data
		c.UserNS = ns
	}
	if err := req.makeDirs(c.Lower[0]); err != nil {
		return classify(err)
	}
	return classify(overlay.Mount(c))
}

// makeDirs creates the directories of the mount. A new upper directory gets owner and mode
// of the directory like, the root of the image, because overlayfs shows those of the upper
// directory for the root.
func (r *MountRequest) makeDirs(like string) error {
	if err := os.MkdirAll(r.Target, 0o755); err != nil || r.Upper == "" {
		return err
	}
	if r.Work == "" {
		return errors.New("mount: an upper directory needs a work directory")
	}
	if err := os.MkdirAll(r.Work, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(r.Upper); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(r.Upper, 0o755); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(like, &st); err != nil {
		return &os.PathError{Op: "stat", Path: like, Err: err}
	}
	if err := os.Chown(r.Upper, toHost(r.UIDMap, st.Uid), toHost(r.GIDMap, st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(r.Upper, st.Mode&0o7777)
}

// toHost returns the host's ID for an ID in the image. Without maps it is the same. An ID
// that the user namespace does not have becomes the ID of the namespace's root: unmapped,
// the file would belong to an unrelated user of the host.
func toHost(maps []IDMap, id uint32) int {
	root := id
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + id - m.ContainerID)
		}
		if m.ContainerID == 0 {
			root = m.HostID
		}
	}
	return int(root)
}

// Unmount unmounts the target. It is no error if nothing is mounted there.
func (s *Store) Unmount(target string) error {
	if err := overlay.Unmount(target); err != nil {
		return fmt.Errorf("image view: %w", err)
	}
	return nil
}
