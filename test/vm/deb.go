package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// lifeEnv lets test/packaging change the packages of the machine.
const lifeEnv = "BERTH_TEST_PACKAGE_LIFE"

const lifePackage = "test/packaging"

// packLife puts into the bundle what the life of the package needs: two packages, of which
// the later upgrades the earlier, the tests, crictl, an image, and a kubelet where node has
// one.
func packLife(ctx context.Context, node, bundle string) error {
	if err := run(ctx, "make", "-s", "debs", "crictl"); err != nil {
		return err
	}
	found, err := filepath.Glob("bin/life/*.deb")
	if err != nil {
		return err
	}
	for _, file := range append(found, "bin/crictl") {
		if err := copyFile(file, filepath.Join(bundle, file)); err != nil {
			return err
		}
	}
	test := filepath.Join(bundle, lifePackage, testBinary)
	if err := run(ctx, "go", "test", "-c", "-buildvcs=false", "-tags", tags, "-o", test, "./"+lifePackage); err != nil {
		return err
	}
	if err := staticProgram(ctx, filepath.Join(bundle, "bin/demo"), "./hack/demo"); err != nil {
		return err
	}
	if node == "" {
		return nil
	}
	err = copyFile(filepath.Join(node, "bin/kubelet"), filepath.Join(bundle, "node/bin/kubelet"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the test says that there is none
	}
	return err
}

// life runs the life of the package. The kubelet wants an address.
func (g *guest) life(ctx context.Context) error {
	c := chosen["deb"]
	return errors.Join(giveAddress(ctx), os.Setenv(lifeEnv, "guest"), g.tests(ctx, "deb", c.pkg, c.run, c.skip))
}
