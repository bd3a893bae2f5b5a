package server

import (
	"context"
	"fmt"

	"k8s.io/klog/v2"

	"berth/server/config"
	"berth/server/nri"
)

// openPlugins makes what serves the plugins of the node (NRI).
func (n *node) openPlugins(ctx context.Context) error {
	socket := n.cfg.NRISocketPath()
	if socket != "" {
		// The library replaces whatever is at the path.
		if _, err := staleSocket(ctx, socket); err != nil && n.cfg.NRISocket != config.Auto {
			return fmt.Errorf("nri_socket: %w, or name another path", err)
		} else if err != nil {
			klog.FromContext(ctx).Error(err, "No NRI plugin can connect: say another path in nri_socket, or off", "nriSocket", socket)
			socket = ""
		}
	}
	register, request, err := n.cfg.NRIBounds()
	if err != nil {
		return fmt.Errorf("nri_timeouts: %w", err)
	}
	plugins, err := nri.New(nri.Options{
		Version: n.version, Socket: socket, PluginDir: n.cfg.NRIPluginDir, ConfigDir: n.cfg.NRIPluginConfigDir,
		RegistrationTimeout: register, RequestTimeout: request,
		Validator: nri.Validator{Reject: n.cfg.NRIReject, Required: n.cfg.NRIRequiredPlugins, Tolerate: n.cfg.NRITolerateMissing},
		Host:      n.host,
	})
	if err != nil {
		return err
	}
	n.plugins = plugins
	n.opened("plugins", func(context.Context) error { plugins.Stop(); return nil })
	return nil
}

// startPlugins serves plugins from now on. Without them the node would have no pods at all,
// so what fails is only logged; nri_required_plugins is for nodes that must not go without.
func (n *node) startPlugins(ctx context.Context) {
	if err := n.plugins.Start(n.pods); err != nil {
		klog.FromContext(ctx).Error(err, "NRI plugins are not served")
	}
}
