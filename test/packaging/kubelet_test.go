package packaging

import (
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// kubeletFiles are a kubelet's without an API server: it runs the pods of a directory.
var kubeletFiles = map[string]string{
	"etc/kubernetes/kubelet.yaml": `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: /etc/kubernetes/manifests
cgroupDriver: systemd
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
`,
	// What a node has that moves to berth: another runtime's service.
	"etc/systemd/system/containerd.service": "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n",
}

// staticPod is what a kubelet runs for as long as the file is there; NAME is the pod's.
const staticPod = `apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: life}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: counts
    image: ` + imageName + `
    imagePullPolicy: Never
    command: ["sh", "-c", "` + client.Counter + `"]
`

// kubelet starts one, if the guest was given its program, which runs the pods from then on;
// and moves the node from another runtime, as far as its service goes.
func (l *life) kubelet() {
	if !l.systemd {
		return
	}
	for file, text := range kubeletFiles {
		write(l.t, "/", file, text)
	}
	l.shell("systemctl daemon-reload && systemctl enable --now containerd", "")
	l.follow("migrate.md", "systemctl disable --now containerd")
	program := absolute(l.t, "../../node/bin/kubelet")
	const start = "kubelet --container-runtime-endpoint=unix:///run/berth/berth.sock …"
	l.tried[[2]string{"README.md", start}], l.tried[[2]string{"migrate.md", "systemctl stop kubelet"}] = true, true
	if _, err := os.Stat(program); err != nil {
		l.t.Logf("no kubelet: it is not run, nor stopped: NODE=DIR has bin/kubelet")
		return
	}
	l.step("a kubelet runs pods")
	// It would remove those that are not its own.
	l.shell("crictl rmp -fa", "")
	l.pods, l.manifests = nil, "/etc/kubernetes/manifests"
	l.shell("systemd-run --unit=kubelet "+filepath.Dir(program)+"/"+strings.Replace(start, "…", "--config=/etc/kubernetes/kubelet.yaml --hostname-override=guest -v=2", 1), "")
	l.run("first")
	l.run("second")
}

// static runs a pod of the kubelet's, which counts as the others do.
func (l *life) static(name string) {
	l.t.Helper()
	write(l.t, l.manifests, name+".yaml", strings.Replace(staticPod, "NAME", name, 1))
	var found *runtimeapi.Container
	client.Eventually(l.t, "the kubelet's container runs", func() bool {
		r, err := l.cri.Runtime.ListContainers(client.Within(l.t), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
			State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}, LabelSelector: map[string]string{"io.kubernetes.pod.name": name + "-guest"},
		}})
		if err != nil {
			return false
		}
		for _, c := range r.GetContainers() {
			found = c
		}
		return found != nil
	})
	c := &client.Container{Kit: l.cri, ID: found.GetId()}
	l.add(c, c.Status().GetLogPath())
	l.live("the kubelet started it")
}

// stopKubelet stops it, so that it makes no pod anew that is to go.
func (l *life) stopKubelet() {
	if l.systemd && len(l.pods) > 0 && strings.Contains(l.shell("systemctl list-units --plain --no-legend kubelet.service", ""), "kubelet.service") {
		l.follow("migrate.md", "systemctl stop kubelet")
		l.manifests = ""
	}
}
