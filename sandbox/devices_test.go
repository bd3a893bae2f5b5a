package sandbox

import (
	"fmt"
	"strings"
	"testing"
)

// Whoever may make a pod writes its annotations. They give a container no device but those
// that the operator lists, and none in place of what every container has.
func TestAttackDevicesByAnnotation(t *testing.T) {
	allowed := []string{"/dev/fuse", "/dev/net/tun"}
	many := strings.TrimSuffix(strings.Repeat("/dev/fuse,", maxAnnotatedDevices+1), ",")
	for text, want := range map[string]string{
		"":                                   "",
		"/dev/fuse":                          "/dev/fuse:/dev/fuse:rwm",
		"/dev/fuse:r":                        "/dev/fuse:/dev/fuse:r",
		"/dev/fuse:/dev/x/y:mw,":             "/dev/fuse:/dev/x/y:mw",
		"/dev/fuse:/dev/a,/dev/net/tun:rw":   "/dev/fuse:/dev/a:rwm /dev/net/tun:/dev/net/tun:rw",
		"/dev/sda":                           `the device "/dev/sda", which allowed_devices`,
		"/dev/fuse,/dev/sda":                 `the device "/dev/sda", which allowed_devices`,
		"/dev/net":                           `the device "/dev/net", which allowed_devices`,
		"/dev/":                              "below /dev",
		"/dev/./fuse:/dev/fuse":              `the device "/dev/./fuse", which`,
		"/dev/fuse/:/dev/fuse":               `the device "/dev/fuse/", which`,
		"/dev/net/../fuse:/dev/fuse":         `the device "/dev/net/../fuse", which`,
		"//dev/fuse:/dev/fuse":               `the device "//dev/fuse", which`,
		" /dev/fuse:/dev/fuse":               "must be absolute",
		"fuse:/dev/fuse":                     "must be absolute",
		":/dev/fuse":                         "no host_path",
		"/dev/fuse:/etc/passwd":              `the path "/etc/passwd" in the container`,
		"/dev/fuse:/dev/../etc/passwd":       "below /dev",
		"/dev/fuse:/dev/null":                "that a container does not have anyway",
		"/dev/fuse:/dev/shm/x":               "that a container does not have anyway",
		"/dev/fuse:/dev/pts":                 "that a container does not have anyway",
		"/dev/fuse:/dev/fd/3":                "that a container does not have anyway",
		"/dev/fuse:/dev/a\x00b":              "NUL",
		"/dev/fuse:x":                        "permissions",
		"/dev/fuse:rwmr":                     "permissions",
		"/dev/fuse:/dev/fuse:":               "give HOST[:CONTAINER][:ACCESS]",
		"/dev/fuse:rw:/dev/fuse":             "give HOST[:CONTAINER][:ACCESS]",
		"/dev/fuse:/dev/fuse:rw:rw":          "give HOST[:CONTAINER][:ACCESS]",
		"/dev/fuse,/dev/fuse:r":              `two devices at "/dev/fuse"`,
		many:                                 fmt.Sprintf("more than %d devices", maxAnnotatedDevices),
		strings.Repeat(",", 1<<20):           fmt.Sprintf("more than %d devices", maxAnnotatedDevices),
		"/dev/" + strings.Repeat("x", 1<<20): "at most",
	} {
		for _, key := range []string{DevicesAnnotation, crioDevicesAnnotation} {
			in := wishOf()
			in.host.AllowedDevices = allowed
			in.pod.Annotations = map[string]string{key: text}
			plan, err := in.plan()
			var got []string
			for _, d := range plan.Devices {
				got = append(got, d.GetHostPath()+":"+d.GetContainerPath()+":"+d.GetPermissions())
			}
			refused := want != "" && !strings.HasPrefix(want, "/")
			if !refused && (err != nil || strings.Join(got, " ") != want) {
				t.Errorf("%s: %.50q gives %q, %v, want %q", key, text, got, err, want)
			}
			if !refused {
				continue
			}
			wantError(t, key, err, ErrInvalid)
			if err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), key) || len(err.Error()) > 1000) {
				t.Errorf("%s: %.50q gives the error %.1000q of %d bytes, want the key and %q", key, text, err, len(err.Error()), want)
			}
			if _, err := planOf(in.pod, in.host); err == nil {
				t.Errorf("%s: %.50q: a pod is made of which no container can be", key, text)
			}
		}
	}
	both := wishOf()
	both.pod.Annotations = map[string]string{DevicesAnnotation: "/dev/fuse", crioDevicesAnnotation: "/dev/fuse:/dev/fuse"}
	both.host.AllowedDevices = allowed
	if _, err := both.plan(); err == nil {
		t.Error("two annotations put devices at one path")
	}
	other := wishOf() // of a handler that lists more, and gives more
	other.pod.Annotations = map[string]string{DevicesAnnotation: "/dev/fuse,/dev/kvm:r"}
	other.host.AllowedDevices = allowed
	other.runtime = &Handler{AllowedDevices: []string{"/dev/kvm"}, Devices: []string{"/dev/loop-control", "/dev/a:/dev/own/b:rw"}}
	plan, err := other.plan()
	if err != nil || len(plan.Devices) != 2 || len(plan.Given) != 2 || plan.Given[0].GetPermissions() != "rwm" || plan.Given[1].GetContainerPath() != "/dev/own/b" {
		t.Errorf("of a handler with devices of its own: %v and %v, %v", plan.Devices, plan.Given, err)
	}
	other.runtime.AllowedDevices = nil
	if _, err := other.plan(); err == nil || !strings.Contains(err.Error(), `"/dev/kvm", which allowed_devices`) {
		t.Errorf("a device of another handler: %v", err)
	}
	bad := wishOf()
	bad.runtime = &Handler{Devices: []string{"/dev/null"}}
	if _, err := bad.plan(); err == nil || !strings.Contains(err.Error(), "runtime.h.devices of the node's configuration has the path") {
		t.Errorf("a handler that gives what each container has: %v", err)
	}
	none := wishOf()
	none.pod.Annotations = map[string]string{DevicesAnnotation: "/dev/fuse"}
	if _, err := none.plan(); err == nil || !strings.Contains(err.Error(), "allowed_devices") {
		t.Errorf("without allowed_devices: %v", err)
	}
}
