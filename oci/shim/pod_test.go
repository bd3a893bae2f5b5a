package shim

import (
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

func TestPauseConfig(t *testing.T) {
	maps := []shimapi.IDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	for name, c := range map[string]struct {
		request  shimapi.RunPodRequest
		flags    uintptr
		uid      uint32
		sysctls  map[string]string
		loopback bool
	}{
		"on the host": {shimapi.RunPodRequest{}, 0, shimapi.PauseID, map[string]string{}, false},
		"of its own": {
			shimapi.RunPodRequest{NewNet: true, NewIPC: true, NewUTS: true, NewPID: true, Hostname: "h", Sysctls: map[string]string{"net.core.somaxconn": "9", "kernel.shmmax": "1"}},
			unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID, shimapi.PauseID,
			map[string]string{"net/core/somaxconn": "9", "kernel/shmmax": "1"}, true,
		},
		"user namespace": {shimapi.RunPodRequest{UIDMaps: maps, GIDMaps: maps}, unix.CLONE_NEWUSER, shimapi.PauseID, map[string]string{}, false},
		"few IDs": {
			shimapi.RunPodRequest{UIDMaps: []shimapi.IDMap{{HostID: 100000, Size: 10}}, GIDMaps: maps},
			unix.CLONE_NEWUSER, 0, map[string]string{}, false,
		},
		"systemd, and a sandbox container has the cgroup": {shimapi.RunPodRequest{Systemd: true}, 0, shimapi.PauseID, map[string]string{}, false},
		"asked for": {shimapi.RunPodRequest{User: &shimapi.PauseUser{UID: 3, GID: 4}}, 0, 3, map[string]string{}, false},
	} {
		c.request.ID, c.request.Dir = "p", "/d"
		got, err := pauseConfig(c.request)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.Cloneflags != c.flags || got.UID != c.uid || got.Loopback != c.loopback || !reflect.DeepEqual(got.Sysctls, c.sysctls) {
			t.Errorf("%s: flags %#x, uid %d, loopback %v, sysctls %v, want %#x, %d, %v, %v",
				name, got.Cloneflags, got.UID, got.Loopback, got.Sysctls, c.flags, c.uid, c.loopback, c.sysctls)
		}
	}
}

// TestSysctlsOfTheHost: a sysctl that is not of one of the pod's own namespaces would change
// the host.
func TestSysctlsOfTheHost(t *testing.T) {
	own := shimapi.RunPodRequest{NewNet: true, NewIPC: true, NewUTS: true}
	for path, wantOwn := range map[string]bool{
		"net/ipv4/ip_forward": true, "kernel/shm_rmid_forced": true, "kernel/msgmax": true, "kernel/sem": true,
		"fs/mqueue/msg_max": true, "kernel/domainname": true, "kernel/hostname": true,
		"kernel/pid_max": false, "vm/overcommit_memory": false, "fs/file-max": false, "kernel/core_pattern": false,
	} {
		if err := namespaced(path, own); (err == nil) != wantOwn {
			t.Errorf("%s with namespaces of the pod: %v, want allowed %v", path, err, wantOwn)
		}
		if err := namespaced(path, shimapi.RunPodRequest{}); err == nil {
			t.Errorf("%s on the host's namespaces is allowed", path)
		}
	}
}
