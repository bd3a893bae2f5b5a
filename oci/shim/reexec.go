package shim

import (
	"os"

	_ "github.com/opencontainers/cgroups/devices" // device rules of cgroups
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins the namespaces before Go runs
)

// RunInit becomes a container's init when this process was started to be one,
// and then does not return. It is the first thing main does.
func RunInit() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		libcontainer.Init()
	}
}
