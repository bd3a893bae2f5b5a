package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"berth/image/layer"
	"berth/oci/dirtree"
)

// Report is what [Store.Check] found.
type Report struct {
	Images   int // that were looked at
	Layers   int
	Problems []Problem
}

// Problem is one thing that is not as it should be.
type Problem struct {
	Image    string // ID, "" when it concerns none
	Layer    string // ChainID, "" when it concerns none
	What     string
	Repaired bool // what was broken is gone; the image is pulled again when needed
}

// Check reads everything the store holds and compares it with the digests it was
// pulled by. With repair, broken images and layers are dropped. Pulls and removals
// may go on meanwhile.
func (s *Store) Check(ctx context.Context, repair bool) (Report, error) {
	var rep Report
	s.checkRecords(&rep, repair)
	byLayer := map[string][]string{}
	layers := map[string]layerRecord{}
	s.mu.Lock()
	for id, r := range s.records {
		rep.Images++
		for _, l := range r.Layers {
			byLayer[l.ChainID] = append(byLayer[l.ChainID], id)
			layers[l.ChainID] = l
		}
	}
	for c := range s.layers {
		if _, ok := layers[c]; !ok {
			layers[c] = layerRecord{ChainID: c}
		}
	}
	s.mu.Unlock()
	for chain, l := range layers {
		if ctx.Err() != nil {
			return rep, context.Cause(ctx)
		}
		rep.Layers++
		faults, err := s.checkLayer(ctx, l)
		if err != nil {
			return rep, err
		}
		if len(faults) > 0 {
			s.reportLayer(&rep, chain, byLayer[chain], faults, repair)
		}
	}
	return rep, nil
}

// checkLayer verifies one layer, unless it is deleted meanwhile.
func (s *Store) checkLayer(ctx context.Context, l layerRecord) ([]string, error) {
	release, err := s.holdBriefly([]string{l.ChainID})
	if err != nil {
		return nil, nil
	}
	defer release()
	dir := s.layerPath(l.ChainID)
	if l.DiffID == "" { // no image names it: it must at least be readable
		if err := layer.Assemble(dir, &contextWriter{ctx, new(counter)}); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return []string{err.Error()}, nil
		}
		return nil, nil
	}
	faults, err := layer.Verify(ctx, dir, digest.Digest(l.DiffID))
	if err != nil {
		return nil, fmt.Errorf("check layer %s: %w", l.ChainID, err)
	}
	if _, inodes, err := layer.Usage(ctx, dir); err == nil && l.Inodes > 0 && inodes != l.Inodes {
		faults = append(faults, fmt.Sprintf("%d files and directories, %d were unpacked", inodes, l.Inodes))
	}
	return faults, nil
}

func (s *Store) reportLayer(rep *Report, chain string, images, faults []string, repair bool) {
	var err error
	if repair {
		err = s.dropLayer(chain, images)
	}
	if len(images) == 0 {
		images = []string{""}
	}
	slices.Sort(images)
	for _, id := range images {
		for _, f := range faults {
			p := Problem{Image: id, Layer: chain, What: f, Repaired: repair && err == nil}
			if err != nil {
				p.What += fmt.Sprintf(" (repair failed: %v)", err)
			}
			rep.Problems = append(rep.Problems, p)
		}
	}
}

// dropLayer forgets a broken layer and all images that have it. Where it is mounted
// the mount goes on: overlayfs holds the directory, not its name.
func (s *Store) dropLayer(chain string, images []string) error {
	s.commit.Lock()
	var freed []string
	for _, id := range images {
		if err := s.eraseRecord(id); err != nil {
			s.commit.Unlock()
			return err
		}
		s.mu.Lock()
		if r := s.records[id]; r != nil {
			freed = append(freed, r.chains()...)
			delete(s.records, id)
		}
		s.publish()
		s.mu.Unlock()
	}
	s.mu.Lock()
	inUse := s.heldCount(chain) > 0
	delete(s.layers, chain)
	s.mu.Unlock()
	tmp, err := s.setAside(chain)
	s.commit.Unlock()
	if err == nil && !inUse {
		err = dirtree.Remove(s.ctx, tmp)
	}
	s.unref(freed)
	return err
}

// heldCount is how many holds name the layer. The caller holds mu.
func (s *Store) heldCount(chain string) (n int) {
	for key, chains := range s.holds {
		if strings.HasPrefix(key, briefly) {
			continue
		}
		for _, c := range chains {
			if c == chain {
				n++
			}
		}
	}
	return n
}

// checkRecords reports what [Open] had to leave out.
func (s *Store) checkRecords(rep *Report, repair bool) {
	entries, err := os.ReadDir(s.images)
	if err != nil {
		rep.Problems = append(rep.Problems, Problem{What: err.Error()})
		return
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json"+badSuffix)
		if !ok {
			continue
		}
		p := Problem{Image: "sha256:" + name, What: "its record was unreadable, or a layer of it was missing, when the store was opened"}
		if repair {
			p.Repaired = os.Remove(filepath.Join(s.images, e.Name())) == nil
		}
		rep.Problems = append(rep.Problems, p)
	}
}
