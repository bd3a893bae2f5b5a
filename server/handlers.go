package server

import (
	"maps"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
	"berth/server/config"
)

// handlers are the runtime handlers of the configuration, as the pods need them.
func (n *node) handlers() map[string]sandbox.Handler {
	all := map[string]sandbox.Handler{}
	for name, r := range n.cfg.Runtimes {
		all[name] = sandbox.Handler{Foreign: r.Type != config.Builtin}
	}
	return all
}

// announced is what Status says of each runtime handler, the default "" first.
func (n *node) announced() []*runtimeapi.RuntimeHandler {
	all := []*runtimeapi.RuntimeHandler{{Features: n.host.HandlerFeatures()}}
	for _, name := range slices.Sorted(maps.Keys(n.cfg.Runtimes)) {
		if n.cfg.Runtimes[name].Type != config.Builtin {
			continue // its pods are refused
		}
		all = append(all, &runtimeapi.RuntimeHandler{Name: name, Features: n.host.HandlerFeatures()})
	}
	return all
}
