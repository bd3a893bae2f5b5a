package shim

import (
	"os"

	_ "github.com/opencontainers/cgroups/devices" // device rules of cgroups
	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins the namespaces before Go runs
)

// RunInit turns this process into the first process of a container, if libcontainer has
// started it as such, and then does not return. main calls it first.
func RunInit() {
	if len(os.Args) > 1 && os.Args[1] == "init" {
		holdFifo()
		libcontainer.Init()
	}
}
