package main

import (
	"fmt"

	"berth/test/client"
	"berth/test/registry"
)

// ownImage is the image that only one client pulls and removes.
func ownImage(client int) string { return fmt.Sprintf("docker.io/soak/own%d:latest", client) }

// pushImages gives the registry the common image and one of each client's own, on top of
// the common one.
func pushImages(reg *registry.Registry, clients int) error {
	box, err := registry.Busybox()
	if err != nil {
		return err
	}
	if err := reg.Push(client.Busybox, box); err != nil {
		return err
	}
	for i := range clients {
		own, err := registry.Extend(box, nil, registry.File{Path: "/own", Mode: 0o644, Data: fmt.Appendf(nil, "of client %d\n", i)})
		if err != nil {
			return err
		}
		if err := reg.Push(ownImage(i), own); err != nil {
			return err
		}
	}
	return nil
}
