package server

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"

	"berth/cni"
	"berth/server/config"
)

// defaultNetwork is the CNI configuration used while cni_conf_dir has none; nil
// when the operator did not ask for one. Bridge and subnet are functions of the
// root directory, so that daemons side by side, each with a root of its own, do
// not hand out the same addresses.
func defaultNetwork(cfg config.Config) ([]byte, error) {
	if !cfg.DefaultNetwork {
		return nil, nil
	}
	bridge, subnet := defaultBridge(cfg.Root)
	return cni.DefaultConflist(bridge, filepath.Join(cfg.Root, "cni", "leases"), subnet)
}

// defaultBridge names the bridge and the subnet that belong to a root: berth0
// for the usual one, else a name of at most 15 bytes (IFNAMSIZ) by its hash,
// which hack/run.sh computes as well.
func defaultBridge(root string) (bridge, subnet string) {
	if root == config.Default().Root {
		return "berth0", "10.64.0.0/16"
	}
	sum := sha256.Sum256([]byte(root))
	return fmt.Sprintf("berth%x", sum[:4]), fmt.Sprintf("10.%d.%d.0/24", 65+sum[0]%63, sum[1])
}
