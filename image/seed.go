package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Seed loads every image archive in a directory: tar files of any accepted form and
// directories with an OCI image layout. Images that are here already cost a look at
// their manifest. A file that can't be loaded does not keep the others from it; a
// directory that does not exist holds nothing.
func (s *Store) Seed(ctx context.Context, dir string) ([]*Image, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("seed images: %w", err)
	}
	var imgs []*Image
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return imgs, context.Cause(ctx)
		}
		got, err := s.seedOne(ctx, filepath.Join(dir, e.Name()))
		imgs = append(imgs, got...)
		if err != nil {
			errs = append(errs, fmt.Errorf("seed images: %s: %w", e.Name(), err))
		}
	}
	return imgs, errors.Join(errs...)
}

func (s *Store) seedOne(ctx context.Context, path string) ([]*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case st.IsDir():
		return s.LoadDir(ctx, path, LoadOptions{})
	case st.Mode().IsRegular():
		return s.Load(ctx, f, LoadOptions{})
	}
	return nil, nil
}
