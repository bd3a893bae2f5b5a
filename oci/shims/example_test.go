package shims_test

import (
	"context"
	"log"

	"berth/oci/shimapi"
	"berth/oci/shims"
)

// A daemon starts the pause process of a pod, on a shim that has room for it or on a new one.
func ExampleOpen() {
	ctx := context.Background()
	set, err := shims.Open(ctx, shims.Config{Binary: "/usr/local/bin/berth-shim", StateDir: "/run/berth", Version: "v1"})
	if err != nil {
		log.Fatal(err)
	}
	defer set.Close() // the shims and what they hold live on
	go func() {
		for e := range set.Events() { // also of pods and containers that lived before
			log.Println(e.ShimID, e.Kind, e.Record.ID)
		}
	}()
	sh, err := set.ForNewPod(ctx)
	if err != nil {
		log.Fatal(err)
	}
	pause, err := sh.RunPod(ctx, &shimapi.RunPodRequest{ID: "0123abcd", Dir: "/var/lib/berth/pods/0123abcd", NewIPC: true})
	if err != nil {
		log.Fatal(err)
	}
	log.Println("pause runs as", pause.PID)
}
