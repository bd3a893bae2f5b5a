package flock_test

import (
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"berth/oci/flock"
)

func ExampleTry() {
	dir, err := os.MkdirTemp("", "flock")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "berthd.lock")

	first, err := flock.Try(path)
	if err != nil {
		log.Fatal(err)
	}
	_, err = flock.Try(path)
	fmt.Println("locked:", errors.Is(err, flock.ErrLocked))

	first.Close() // or the end of the process
	_, err = flock.Try(path)
	fmt.Println("after Close:", err)
	// Output:
	// locked: true
	// after Close: <nil>
}
