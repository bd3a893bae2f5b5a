package integration

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"berth/sandbox"
	"berth/test/client"
	"berth/test/node"
)

// TestDevicesOfAHandler: each container of a handler has the devices that its table gives,
// with their access, and its pods may ask for those that the table allows beside the node's.
// Pods of another handler have neither. It is the same by a shim of containerd.
func TestDevicesOfAHandler(t *testing.T) {
	device := extraDevice(t)
	table := fmt.Sprintf(`devices=["%s:r","%s:/dev/given/d:r"],allowed_devices=["/dev/full"]`, device, device)
	s := own(t, node.Options{Args: []string{
		"--runtime=given={type=\"builtin\"," + table + "}",
		fmt.Sprintf(`--runtime=runc={type="shim.v2",shim=%q,options={BinaryName=%q},%s}`, runtimeProgram(t, "containerd-shim-runc-v2"), runtimeProgram(t, "runc"), table),
		`--runtime=gone={type="builtin",devices=["/dev/berth-is-not-there"]}`,
	}})
	for _, handler := range []string{"given", "runc"} {
		s.Handler = handler
		pods := map[string]*ctr{"plain": s.pod(t, asksFor(sandbox.DevicesAnnotation, "/dev/full:/dev/asked")).idle("c")}
		if handler == "given" {
			mapped := s.pod(t, withUsers(400000))
			pods["in a user namespace"] = mapped.idle("c", sameNamespaces(mapped.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()))
		}
		for what, c := range pods {
			for _, path := range []string{device, "/dev/given/d"} {
				if what != "plain" { // the host's root, who owns the node, is not the container's
					if got := c.Sh("test -c " + path + " && echo there"); got != "there\n" {
						t.Errorf("%s, %s: %s says %q", handler, what, path, got)
					}
					continue
				}
				if got := c.Sh("test -c " + path + " && (exec 3<" + path + ") 2>&1 && echo open; (exec 3>" + path + ") 2>&1 | grep -c 'not permitted'; true"); got != "open\n1\n" {
					t.Errorf("%s, %s: %s says %q, want it open for reading alone", handler, what, path, got)
				}
			}
		}
		if got := pods["plain"].Sh("test -c /dev/asked && echo there"); got != "there\n" {
			t.Errorf("%s: the device that the pod asks for: %q", handler, got)
		}
	}
	s.Handler = ""
	if got := s.pod(t).idle("c").Sh("test -e " + device + " || echo none"); got != "none\n" {
		t.Errorf("a pod of no handler has the device too: %q", got)
	}
	config := s.podConfig(t)
	asksFor(sandbox.DevicesAnnotation, "/dev/full:/dev/asked")(config)
	_, err := s.RunPod(within(t), config)
	wantCode(t, "a pod of no handler that asks for a device of one", err, codes.InvalidArgument)
	s.Handler = "gone"
	p := s.pod(t)
	_, err = p.TryCreate(client.Shell("c", "exec sleep 1000"))
	for _, want := range []string{"/dev/berth-is-not-there", "runtime handler"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a device that the host lacks: %v, want %q in it", err, want)
		}
	}
}

// TestPrivilegedWithoutHostDevices: a privileged container of such a handler has none of the
// host's devices, and may use one that it makes the node of only where the table allows it.
func TestPrivilegedWithoutHostDevices(t *testing.T) {
	device := extraDevice(t)
	s := own(t, node.Options{Args: []string{
		`--runtime=none={type="builtin",privileged_without_host_devices=true}`,
		`--runtime=makes={type="builtin",privileged_without_host_devices=true,privileged_without_host_devices_all_devices_allowed=true}`,
	}})
	s.Handler = ""
	number := strings.TrimSpace(s.pod(t, privilegedPod).idle("c", privileged).Sh("stat -c '%t %T' " + device + " | { read a b; echo $((0x$a)) $((0x$b)); }"))
	for handler, want := range map[string]string{"none": "refused\n", "makes": "open\n"} {
		s.Handler = handler
		c := s.pod(t, privilegedPod).idle("c", privileged)
		if got := c.Sh("test -e " + device + " || echo none"); got != "none\n" {
			t.Errorf("%s: the host's device is there: %q", handler, got)
		}
		if got := c.Sh("mknod /made c " + number + " && (exec 3</made && echo open) 2>/dev/null || echo refused"); got != want {
			t.Errorf("%s: a device of its own making is %q, want %q", handler, got, want)
		}
	}
}
