package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"berth/image/layer"
)

// A layer is unpacked, and the archive is made again from the unpacked tree. The files get
// the owners in the archive; here that is the caller, so it needs no root.
func Example() {
	uid, gid := os.Getuid(), os.Getgid()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: uid, Gid: gid},
		{Name: "etc/motd", Typeflag: tar.TypeReg, Mode: 0o644, Size: 5, Uid: uid, Gid: gid},
	} {
		if err := w.WriteHeader(&h); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := w.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}

	dir, err := os.MkdirTemp("", "layer")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	target := filepath.Join(dir, "layer")
	if _, err := layer.Apply(context.Background(), target, bytes.NewReader(archive.Bytes()), layer.Limits{}); err != nil {
		log.Fatal(err)
	}
	motd, err := os.ReadFile(filepath.Join(target, "fs", "etc", "motd"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("etc/motd: %s\n", motd)

	var again bytes.Buffer
	if err := layer.Assemble(target, &again); err != nil {
		log.Fatal(err)
	}
	fmt.Println("the same archive:", bytes.Equal(again.Bytes(), archive.Bytes()))
	// Output:
	// etc/motd: hello
	// the same archive: true
}
