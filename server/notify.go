package server

import (
	"context"

	"github.com/coreos/go-systemd/v22/daemon"
	"k8s.io/klog/v2"
)

// notify tells systemd a state such as [daemon.SdNotifyReady]; without
// systemd it does nothing.
func notify(ctx context.Context, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		klog.FromContext(ctx).Error(err, "Can't tell systemd", "state", state)
	}
}
