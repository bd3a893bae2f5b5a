package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/libcni"
)

// loadDir reads the first configuration file of dir, or fallback when dir has
// none. The error wraps ErrNotReady.
func loadDir(dir string, fallback []byte) (*libcni.NetworkConfigList, error) {
	file, err := firstFile(dir)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	case file == "" && fallback != nil:
		return libcni.NetworkConfFromBytes(fallback)
	case file == "":
		return nil, fmt.Errorf("%w: no CNI configuration in %s: put a .conflist file there", ErrNotReady, dir)
	}
	list, err := loadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: bad CNI configuration file %s: %w", ErrNotReady, file, err)
	}
	return list, nil
}

// firstFile returns "" when dir has no configuration or is not there.
func firstFile(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the CNI configuration directory: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		switch filepath.Ext(e.Name()) {
		case ".conflist", ".conf", ".json":
			return filepath.Join(dir, e.Name()), nil
		}
	}
	return "", nil
}

func loadFile(file string) (*libcni.NetworkConfigList, error) {
	var list *libcni.NetworkConfigList
	var err error
	if isList(file) {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		list, err = loadSingle(file)
	}
	if err != nil {
		return nil, err
	}
	if list.Name == "" {
		return nil, errors.New(`it has no "name"`)
	}
	return inline(list)
}

// isList tells a list of plugins from a single plugin's configuration by its
// content: a list saved as .conf is a common slip and means the same.
func isList(file string) bool {
	if filepath.Ext(file) == ".conflist" {
		return true
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	var probe struct {
		Plugins []json.RawMessage `json:"plugins"`
	}
	return json.Unmarshal(data, &probe) == nil && len(probe.Plugins) > 0
}

func loadSingle(file string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	conf, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(conf) //nolint:staticcheck // nodes still have .conf files; deprecated is to write them
}

// inline makes list self-contained: plugins that came from files of their own
// (CNI 1.1) become part of its bytes, because those bytes are what DEL will have.
func inline(list *libcni.NetworkConfigList) (*libcni.NetworkConfigList, error) {
	raw := map[string]any{}
	if err := json.Unmarshal(list.Bytes, &raw); err != nil {
		return nil, err
	}
	if inlined, _ := raw["plugins"].([]any); len(inlined) == len(list.Plugins) {
		return list, nil
	}
	return withPlugins(list, list.Plugins)
}

// withPlugins is list with these plugins instead of its own, all in its bytes.
func withPlugins(list *libcni.NetworkConfigList, plugins []*libcni.PluginConfig) (*libcni.NetworkConfigList, error) {
	raw := map[string]any{}
	if err := json.Unmarshal(list.Bytes, &raw); err != nil {
		return nil, err
	}
	confs := make([]json.RawMessage, len(plugins))
	for i, p := range plugins {
		confs[i] = p.Bytes
	}
	raw["plugins"] = confs
	raw["loadOnlyInlinedPlugins"] = true
	data, err := json.Marshal(raw)
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(data)
}

// needed drops the portmap plugin from the list of a pod that asks for no host
// port, see doc.go.
func needed(list *libcni.NetworkConfigList, r Request) (*libcni.NetworkConfigList, error) {
	if len(r.mappings()) > 0 {
		return list, nil
	}
	idle := func(p *libcni.PluginConfig) bool {
		return p.Network.Type == "portmap" && p.Network.Capabilities["portMappings"]
	}
	some := slices.DeleteFunc(slices.Clone(list.Plugins), idle)
	if len(some) == len(list.Plugins) || len(some) == 0 {
		return list, nil
	}
	return withPlugins(list, some)
}
