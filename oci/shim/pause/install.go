package pause

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"berth/oci/atomicfile"
)

// Install makes dir the root filesystem of a container that has nothing but this program:
// /pause, which with the argument "w" waits and reaps, and the mount points that a container
// needs. It may be called again. The program is replaced by renaming, so that containers
// which run the one of an older version keep that.
func Install(dir string) error {
	for _, d := range []string{"", "proc", "dev", "sys"} {
		err := os.Mkdir(filepath.Join(dir, d), 0o755)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("root filesystem of pause: %w", err)
		}
	}
	path := filepath.Join(dir, "pause")
	if there, err := os.ReadFile(path); err == nil && bytes.Equal(there, program) {
		return nil
	}
	if err := atomicfile.WriteBytes(path, program, 0o555); err != nil {
		return fmt.Errorf("root filesystem of pause: %w", err)
	}
	return nil
}
