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

// MountRequest asks for a view of layers at a directory.
type MountRequest struct {
	Layers []string // ChainIDs, lowest first, as in Image.Layers; may be empty
	Target string   // is created
	// Upper and Work make the view writable; they are created, and must be on one
	// file system. Empty: a read-only view.
	Upper, Work string
	// UIDMap and GIDMap, of a pod's user namespace, make files that root owns in the
	// image be owned by the namespace's root.
	UIDMap, GIDMap []IDMap
}

// Mount makes the view. The layers should be held ([Store.Hold]). What was mounted
// at the target before stays below.
func (s *Store) Mount(_ context.Context, req MountRequest) error {
	c := overlay.Config{Target: req.Target, Upper: req.Upper, Work: req.Work, Links: s.pool.dir}
	for _, chain := range slices.Backward(req.Layers) {
		c.Lower = append(c.Lower, filepath.Join(s.pool.path(chain), layer.FSDir))
	}
	need := 1 // overlayfs wants a lower directory, and two of them when read-only
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

// makeDirs creates what the mount needs. A new upper directory is given owner and
// mode of the image's root directory (like): overlayfs shows the upper one's.
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

// toHost maps an ID of the image; without a mapping, IDs are the host's. What the
// namespace lacks belongs to its root: as a number of the host it would be a stranger.
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

// Unmount takes the view away; nothing mounted there is no error.
func (s *Store) Unmount(target string) error {
	if err := overlay.Unmount(target); err != nil {
		return fmt.Errorf("image view: %w", err)
	}
	return nil
}
