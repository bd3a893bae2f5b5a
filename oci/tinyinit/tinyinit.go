package tinyinit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"berth/oci/atomicfile"
)

// Path is where [Install] puts the program in dir. Another program has another name.
func Path(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("init-%x", sha256.Sum256(program))[:len("init-")+12])
}

// Install writes the program to dir, unless it is there already, and returns its path.
func Install(dir string) (string, error) {
	path := Path(dir)
	st, err := os.Stat(path)
	if err == nil && st.Size() == int64(len(program)) {
		return path, nil // files are renamed into place, so this one is complete
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := atomicfile.WriteBytes(path, program, 0o555); err != nil {
		return "", fmt.Errorf("write init: %w", err)
	}
	return path, nil
}
