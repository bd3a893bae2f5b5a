package registry_test

import (
	"errors"
	"fmt"

	"berth/image/registry"
)

func ExampleParse() {
	for _, name := range []string{
		"busybox",
		"Registry.Example.:443/team/app:v1",
		"[::ffff:10.0.0.1]:5000/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"registry.example/App",
	} {
		ref, err := registry.Parse(name)
		if errors.Is(err, registry.ErrInvalidReference) {
			fmt.Println(err)
			continue
		}
		fmt.Println(ref)
	}
	// Output:
	// docker.io/library/busybox:latest
	// registry.example/team/app:v1
	// 10.0.0.1:5000/app@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
	// invalid image reference "registry.example/App": the repository must be lower-case letters and digits, separated by one of . _ - or /
}

func ExamplePattern_Matches() {
	pattern, err := registry.ParsePattern("Registry.Example:443/team/*")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, name := range []string{"registry.example/team/app", "registry.example:443/team/deep/app", "registry.example:5000/team/app"} {
		ref, err := registry.Parse(name)
		fmt.Println(ref.Name(), pattern.Matches(ref.Name()), err)
	}
	// Output:
	// registry.example/team/app true <nil>
	// registry.example/team/deep/app true <nil>
	// registry.example:5000/team/app false <nil>
}
