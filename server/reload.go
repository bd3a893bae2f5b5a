package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"berth/server/config"
)

// reload applies what changed in the configuration's files, as SIGHUP and `systemctl
// reload` ask for. What can't be read, or can't be had, changes nothing at all. Keys
// that only a restart applies are named in the log.
func (n *node) reload(ctx context.Context, read func() (config.Config, error)) {
	log := klog.FromContext(ctx)
	notify(ctx, reloading())
	defer notify(ctx, daemon.SdNotifyReady)
	changed, restart, err := n.tryReload(ctx, read)
	if err != nil {
		log.Error(err, "The configuration was not reloaded, nothing was changed")
		return
	}
	log.Info("The configuration was reloaded", "changed", changed, "needRestart", restart)
}

// tryReload acquires all that the new configuration needs before it changes anything.
func (n *node) tryReload(ctx context.Context, read func() (config.Config, error)) (changed, restart []string, err error) {
	next, err := read()
	if err != nil {
		return nil, nil, err
	}
	merged, changed, restart := n.live.Load().Reloaded(next)
	trust, err := loadTrust(merged)
	if err != nil {
		return nil, nil, err
	}
	var metrics net.Listener
	asked := slices.Contains(changed, "metrics_address")
	moved := asked || n.reader == nil // its port may be free by now
	if moved {
		metrics, err = listenMetrics(ctx, merged.MetricsAddress)
		if err != nil && asked {
			return nil, nil, fmt.Errorf("metrics_address: %w", err)
		}
		if err != nil { // whoever holds the port must not hold up a new trust policy
			klog.FromContext(ctx).Error(err, "Metrics are still not served", "metricsAddress", merged.MetricsAddress)
		}
	}
	n.images.SetTrust(trust) // the policy's file may have changed under its name
	n.images.SetPinned(pinned(merged))
	if moved {
		if err := n.readBy(metrics); err != nil {
			klog.FromContext(ctx).Error(err, "Can't close where the metrics were read before")
		}
	}
	n.live.Store(&merged)
	SetVerbosity(merged.LogLevel)
	return changed, restart, nil
}

// verbosity is log_level as package slog counts it: klog's V(4) is the level -4.
var verbosity slog.LevelVar

// SetVerbosity changes for the whole process what is logged, see log_level.
func SetVerbosity(level int) {
	var v klog.Level
	_ = v.Set(strconv.Itoa(level)) // fails only for what is no number
	verbosity.Set(slog.Level(-level))
}

// Verbosity is what a handler of package slog has to ask for its level.
func Verbosity() slog.Leveler { return &verbosity }

// reloading is the state of sd_notify(3) for a service of the type notify-reload.
func reloading() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // can't fail
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000)
}
