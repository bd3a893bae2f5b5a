package memfd_test

import (
	"fmt"
	"log"
	"os"
	"strings"

	"berth/oci/memfd"
)

func ExampleSealed() {
	f, err := memfd.Sealed("hello", strings.NewReader("#!/bin/sh\necho hello\n"), 0o555)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()

	_, err = f.WriteAt([]byte("#!/bin/false"), 0)
	fmt.Println("write refused:", os.IsPermission(err))
	fmt.Println("truncate refused:", os.IsPermission(f.Truncate(0)))
	// Output:
	// write refused: true
	// truncate refused: true
}
