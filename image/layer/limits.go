package layer

import (
	"errors"
	"fmt"
)

// ErrArchive is wrapped by every error whose cause is the archive: it is damaged, exceeds a
// limit, or is of a form that is not supported. A retry with the same archive fails again.
var ErrArchive = errors.New("bad layer archive")

// Limits bounds the disk space and the memory that one layer can take. A field that is 0
// means its default.
type Limits struct {
	// Bytes is the largest size of an uncompressed archive and of its content, where holes
	// of sparse files count like data. Default 64 GiB.
	Bytes int64
	// Entries is the largest number of entries of an archive, where a directory without an
	// entry of its own counts as one. Default 2,000,000.
	Entries int
	// Replaced is how often an entry of an archive may replace an earlier one. Default
	// 20,000.
	Replaced int
}

// dirMemory is how many bytes the names and times of directories take in memory at most.
// The times are set when the archive has ended. If the memory is full they are set early, and
// a directory that is changed later gets the time of that change. It suffices for about
// 150,000 directories.
const dirMemory = 4 << 20

// movedMemory is how many bytes the names of the replaced files of an archive may have
// together, because [Assemble] keeps them in memory.
const movedMemory = 4 << 20

// A path that leads through a symbolic link or a missing directory is resolved element by
// element, and each of these is a step. An archive may take firstSteps, and stepsPerEntry
// more for each of its entries. Archives of ordinary tools take fewer than ten per entry.
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
