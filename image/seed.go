package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// seed is [Store.Seed].
func (l *loader) seed(ctx context.Context, dir string) ([]*Image, error) {
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
		got, err := l.seedOne(ctx, filepath.Join(dir, e.Name()))
		imgs = append(imgs, got...)
		if err != nil {
			errs = append(errs, fmt.Errorf("seed images: %s: %w", e.Name(), err))
		}
	}
	return imgs, errors.Join(errs...)
}

func (l *loader) seedOne(ctx context.Context, path string) ([]*Image, error) {
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
		return l.loadDir(ctx, path, LoadOptions{})
	case st.Mode().IsRegular():
		return l.loadTar(ctx, f, LoadOptions{})
	}
	return nil, nil
}
