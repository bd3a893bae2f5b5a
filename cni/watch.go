package cni

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// watcher calls reload once at first and after every change in a directory.
// While the directory is missing it watches the nearest ancestor that exists.
type watcher struct {
	dir    string
	reload func() (more []string) // more: directories to watch beside dir
	fs     *fsnotify.Watcher
	ended  chan struct{}
}

func newWatcher(dir string, reload func() []string) (*watcher, error) {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	w := &watcher{dir: dir, reload: reload, fs: fs, ended: make(chan struct{})}
	if err := w.refresh(); err != nil {
		return nil, errors.Join(err, fs.Close())
	}
	go w.run()
	return w, nil
}

func (w *watcher) close() error {
	err := w.fs.Close()
	<-w.ended
	return err
}

func (w *watcher) run() {
	defer close(w.ended)
	for {
		select {
		case _, ok := <-w.fs.Events:
			if !ok {
				return
			}
		case err, ok := <-w.fs.Errors:
			if !ok {
				return
			}
			// An overflow has dropped events; reading everything anew makes up for it.
			klog.Background().Error(err, "CNI configuration watch", "dir", w.dir)
		}
		if err := w.refresh(); err != nil {
			klog.Background().Error(err, "CNI configuration watch", "dir", w.dir)
		}
	}
}

// refresh sets the watches first and reads after, so that a change between the
// two is seen by one or the other.
func (w *watcher) refresh() error {
	err := w.arm()
	for _, d := range w.reload() {
		if isDir(d) {
			_ = w.fs.Add(d) // gone meanwhile: dir's own watch tells
		}
	}
	return err
}

// arm watches dir, or the nearest ancestor when it is missing. It tries again
// from the top as long as what it chose vanished, or a nearer one appeared,
// between the look and the watch.
func (w *watcher) arm() error {
	for range 16 {
		target := nearestDir(w.dir)
		err := w.fs.Add(target)
		if nearestDir(w.dir) != target {
			continue
		}
		if err != nil {
			return err
		}
		if target == w.dir {
			w.dropAncestors()
		}
		return nil
	}
	return errors.New("the directory keeps appearing and vanishing")
}

// dropAncestors ends the watches that only waited for dir to appear, except
// its parent's: a directory that is removed and made anew is seen there.
func (w *watcher) dropAncestors() {
	for d := filepath.Dir(filepath.Dir(w.dir)); ; d = filepath.Dir(d) {
		_ = w.fs.Remove(d) // not watched: fine
		if d == filepath.Dir(d) {
			return
		}
	}
}

func nearestDir(dir string) string {
	for !isDir(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	return dir
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
