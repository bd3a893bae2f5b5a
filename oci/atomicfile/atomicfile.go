package atomicfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// TempPrefix starts the name of every file that is not renamed yet. A file of
// that name found when nothing is being written is the remains of a crash.
const TempPrefix = ".tmp-"

// ErrUnreadable is wrapped by [Read] when the file is there but is no JSON of
// the expected shape; its owner should be quarantined, not guessed at.
var ErrUnreadable = errors.New("record is unreadable")

// effort is how much is waited for.
type effort int

const (
	volatile effort = iota // nothing
	ordered                // the data
	durable                // the data and the name
)

// Write replaces path by v as JSON, mode 0600, and returns when the new content
// would survive a power cut. The directory must exist.
func Write(path string, v any) error { return write(path, v, durable) }

// WriteOrdered is [Write] without the flush of the disk's cache and of the filesystem's
// journal: a power cut may bring the old content back, but not an empty file, and not once
// anything that was written later has been made durable. It waits until the data has gone
// to the disk; the journals of ext4 and XFS keep the order after that (sync_file_range(2)
// itself promises none).
func WriteOrdered(path string, v any) error { return write(path, v, ordered) }

// WriteVolatile is [Write] without the flush to disk: for facts that end with
// the boot (/run) or that can be had again. After a power cut the file may be
// old, missing or empty; a crash of the process does it no harm.
func WriteVolatile(path string, v any) error { return write(path, v, volatile) }

func write(path string, v any, e effort) error {
	data, err := encode(path, v)
	if err != nil {
		return err
	}
	return replace(path, data, 0o600, e)
}

// WriteBytes replaces path by data with the permissions perm (the umask does not
// apply) and returns when it would survive a power cut. The directory must exist.
func WriteBytes(path string, data []byte, perm os.FileMode) error {
	return replace(path, data, perm, durable)
}

// Read decodes the JSON file at path into v. A missing file is [fs.ErrNotExist]
// (wrapped), a damaged one [ErrUnreadable]; unknown fields are ignored, so that
// an older daemon can read what a newer one wrote.
func Read(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read record: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrUnreadable, path, err)
	}
	return nil
}

// DropCutOff removes what a writer of path left behind when it was killed. Only the
// record's own writer may call it, before it writes: to any other the file might be one
// that is being written.
func DropCutOff(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("look for cut-off records: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPattern(path)) {
			errs = append(errs, os.Remove(filepath.Join(filepath.Dir(path), e.Name())))
		}
	}
	return errors.Join(errs...)
}

// tempPattern names the record, since records with other writers may be beside it.
func tempPattern(path string) string { return TempPrefix + filepath.Base(path) + "-" }

func encode(path string, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode record %s: %w", path, err)
	}
	return append(data, '\n'), nil
}

func replace(path string, data []byte, perm os.FileMode, e effort) error {
	dir := filepath.Dir(path)
	temp, err := writeTemp(path, data, perm, e)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(temp))
	}
	if e != durable {
		return nil
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// writeTemp leaves a complete file beside path and returns its name, or leaves nothing.
func writeTemp(path string, data []byte, perm os.FileMode, e effort) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPattern(path))
	if err != nil {
		return "", err
	}
	err = fill(f, data, perm, e)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func fill(f *os.File, data []byte, perm os.FileMode, e effort) error {
	if _, err := f.Write(data); err != nil {
		return err
	}
	if perm != 0o600 { // what CreateTemp gives
		if err := f.Chmod(perm); err != nil {
			return err
		}
	}
	switch e {
	case volatile:
		return nil
	case ordered:
		return sendToDisk(f)
	default:
		return f.Sync()
	}
}

// sendToDisk waits until the disk has the file's data, be it in its cache. XFS and ext4
// set the size of the file in their journal before that, and so before a rename.
func sendToDisk(f *os.File) error {
	err := unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	if err != nil {
		return fmt.Errorf("send to the disk: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
