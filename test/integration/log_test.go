package integration

import (
	"bufio"
	"encoding/json"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// confidential stands for whatever an operator would not want in a log.
const confidential = "swordfish-4711"

// With log_format json every line is an object, calls carry the pod and the container,
// and not even the highest level tells credentials, environments, annotations or what a
// command was given.
func TestJSONLogWithoutSecrets(t *testing.T) {
	s := own(t, node.Options{Args: []string{"--log-format", "json", "--log-level", "10"}})
	auth := &runtimeapi.AuthConfig{Username: "user", Password: confidential, RegistryToken: confidential}
	image := &runtimeapi.ImageSpec{Image: busybox, Annotations: map[string]string{"token": confidential}}
	if _, err := s.Images.PullImage(within(t), &runtimeapi.PullImageRequest{Image: image, Auth: auth}); err != nil {
		t.Logf("pull with credentials the registry does not know: %v", err) // its answer is not the point
	}
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{"token": confidential} })
	c := p.start("c", "while :; do sleep 1; done", func(c *runtimeapi.ContainerConfig) {
		c.Envs = append(c.Envs, &runtimeapi.KeyValue{Key: "TOKEN", Value: []byte(confidential)})
		c.Annotations = map[string]string{"token": confidential}
	})
	c.Sh("true " + confidential)
	c.Stop(0)
	client.Eventually(t, "the stop is logged", func() bool {
		return len(logged(t, s.LogFile, "rpc", "StopContainer")) > 0
	})
	for _, line := range logged(t, s.LogFile, "rpc", "CreateContainer") {
		if line["pod"] == nil || line["containerName"] != "c" {
			t.Errorf("a line about CreateContainer lacks the pod or the container's name: %v", line)
		}
	}
	text, err := os.ReadFile(s.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, confidential) {
			t.Errorf("a secret is in the log: %s", line)
		}
	}
}

// log_level counts for JSON too.
func TestJSONLogObeysTheLevel(t *testing.T) {
	s := own(t, node.Options{Args: []string{"--log-format", "json", "--log-level", "0"}})
	s.pod(t)
	if lines := logged(t, s.LogFile, "msg", "Call done"); len(lines) > 0 {
		t.Errorf("at log_level 0 there is a line for a call that succeeded: %v", lines[0])
	}
	if lines := logged(t, s.LogFile, "msg", "Ready"); len(lines) != 1 {
		t.Errorf("the log has %d lines that tell the daemon is ready, want 1", len(lines))
	}
}

// logged are the lines of a JSON log that have a key with a value.
func logged(t *testing.T, file, key, value string) []map[string]any {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []map[string]any
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("a line of the log is no JSON: %v: %s", err, lines.Bytes())
		}
		if line[key] == value {
			out = append(out, line)
		}
	}
	return out
}
