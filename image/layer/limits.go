package layer

import (
	"errors"
	"fmt"
)

// ErrArchive is wrapped by every error that lies in the archive itself: damaged,
// hostile, or of a kind that is not supported. Trying again will not help.
var ErrArchive = errors.New("bad layer archive")

// Limits bounds what one layer may make of the disk and of memory. A zero field
// means the default.
type Limits struct {
	// Bytes is how much one uncompressed archive may hold, holes of sparse files
	// counted as if they were data. Default 64 GiB.
	Bytes int64
	// Entries is how many entries one archive may have, directories that its paths
	// imply counted as entries. Default 2,000,000.
	Entries int
	// Replaced is how often one archive may write a file it wrote before.
	// Default 20,000.
	Replaced int
}

// dirMemory is how many bytes of directory names and times are kept to set the times
// at the end; past it they are set early, and a directory may show a later time. It
// is enough for some 150,000 directories.
const dirMemory = 4 << 20

// movedMemory is how many bytes the names of replaced files may have together:
// [Assemble] keeps them in memory.
const movedMemory = 4 << 20

// An archive may make the unpacker walk stepsPerEntry elements of paths per entry, on
// average, and firstSteps in all cases, where the kernel can't resolve a path in one
// call: through links, and where directories are missing. Archives of ordinary tools
// need fewer than ten.
const (
	firstSteps    = 10_000
	stepsPerEntry = 64
)

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 64 << 30
	}
	if l.Entries <= 0 {
		l.Entries = 2_000_000
	}
	if l.Replaced <= 0 {
		l.Replaced = 20_000
	}
	return l
}

func tooMany(what string, limit int64) error {
	return fmt.Errorf("%w: more than %d %s (a decompression bomb?); if the image is to be trusted, raise the limit", ErrArchive, limit, what)
}
