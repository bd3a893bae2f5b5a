package atomicfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"

	"berth/oci/atomicfile"
)

func Example() {
	dir, err := os.MkdirTemp("", "records")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "pod.json")

	type pod struct {
		ID     string `json:"id"`
		BootID string `json:"boot_id"`
	}
	if err := atomicfile.Write(path, pod{"abc", "2f1e"}); err != nil {
		log.Fatal(err)
	}
	var got pod
	err = atomicfile.Read(path, &got)
	fmt.Println(got, err)

	err = atomicfile.Read(filepath.Join(dir, "other.json"), &got)
	fmt.Println("missing:", errors.Is(err, fs.ErrNotExist))

	if err := os.WriteFile(path, []byte(`{"id":`), 0o600); err != nil {
		log.Fatal(err)
	}
	err = atomicfile.Read(path, &got)
	fmt.Println("damaged:", errors.Is(err, atomicfile.ErrUnreadable))
	// Output:
	// {abc 2f1e} <nil>
	// missing: true
	// damaged: true
}
