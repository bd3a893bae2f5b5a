package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"berth/test/client"

	"github.com/fsnotify/fsnotify"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// script is what the container runs: a line of log, then a web server.
const script = `echo "Hello, I am process $$ of $(hostname) on Linux $(uname -r)"; exec httpd -f -p 80 -h /www`

const logName = "hello.log"

// demo runs the pod and shows it; without once it then waits for the end of ctx.
func (d daemon) demo(ctx context.Context, logDir string, once bool) error {
	shown, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	pod, err := d.start(shown, logDir)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := d.show(shown, pod, logDir, took); err != nil {
		return err
	}
	if !once {
		fmt.Println("\nCtrl-C ends it and removes everything.")
		<-ctx.Done()
	}
	return nil
}

// start runs a pod with one container and returns the pod's ID.
func (d daemon) start(ctx context.Context, logDir string) (string, error) {
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "hello", Namespace: "default", Uid: "hello"},
		Hostname:     "hello",
		LogDirectory: logDir,
		Linux:        &runtimeapi.LinuxPodSandboxConfig{},
	}
	id, err := d.cri.RunPod(ctx, pod)
	if err != nil {
		return "", err
	}
	config := client.Shell("hello", script)
	config.Image.Image = imageName
	config.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	container, err := d.cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: id, SandboxConfig: pod, Config: config})
	if err != nil {
		return "", err
	}
	return id, d.cri.StartContainer(ctx, container)
}

// show prints what a newcomer wants to see of a pod.
func (d daemon) show(ctx context.Context, pod, logDir string, took time.Duration) error {
	line, err := firstLine(ctx, filepath.Join(logDir, logName))
	if err != nil {
		return fmt.Errorf("wait for the container's first line of log: %w", err)
	}
	status, err := d.cri.PodStatus(ctx, pod)
	if err != nil {
		return err
	}
	ip := status.GetNetwork().GetIp()
	answer, err := get(ctx, "http://"+ip)
	if err != nil {
		return fmt.Errorf("ask the pod at its address: %w", err)
	}
	fmt.Printf("pod     %.13s, up in %s\n", pod, took.Round(time.Millisecond))
	fmt.Printf("log     %s\n", line)
	fmt.Printf("IP      %s\n", ip)
	fmt.Printf("answer  curl http://%s: %s\n", ip, answer)
	fmt.Printf("look    crictl --runtime-endpoint %s pods\n", d.socket)
	state := filepath.Dir(strings.TrimPrefix(d.socket, "unix://")) // as run.sh has it
	fmt.Printf("        bin/berth --root %s/root --state %s explain %.13s\n", filepath.Dir(state), state, pod)
	return nil
}

// get fetches url. A server that is not up yet refuses; it has just written its
// line of log and listens a moment later, which no event tells.
func get(ctx context.Context, url string) (string, error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return "", err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			defer resp.Body.Close()
			body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
			return strings.TrimSpace(string(body)), err
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// firstLine waits for a file to hold a whole line and returns that.
func firstLine(ctx context.Context, file string) (string, error) {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		return "", err
	}
	defer watch.Close() //nolint:errcheck // only read from
	if err := watch.Add(filepath.Dir(file)); err != nil {
		return "", err
	}
	for {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if line, _, ok := bytes.Cut(text, []byte("\n")); ok {
			return string(line), nil
		}
		select {
		case <-watch.Events:
		case err := <-watch.Errors:
			return "", err
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}
