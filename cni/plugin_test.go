package cni

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary is also a CNI plugin: linked into a plugin directory
// and started with CNI_COMMAND it does what its configuration's "fault" object says and notes
// every call in a file.

type faultConf struct {
	CNIVersion    string          `json:"cniVersion"`
	Name          string          `json:"name"`
	PrevResult    json.RawMessage `json:"prevResult"`
	RuntimeConfig json.RawMessage `json:"runtimeConfig"`
	Attachments   json.RawMessage `json:"cni.dev/valid-attachments"`
	Mark          string          `json:"mark"` // tells configurations apart
	Fault         struct {
		Log    string `json:"log"`
		Add    string `json:"add"` // fail, hang, result
		Del    string `json:"del"` // fail
		Status string `json:"status"`
		Born   string `json:"born"` // FIFO where the child of "orphan" tells its PID
		Child  string `json:"child"`
		Result json.RawMessage
	} `json:"fault"`
}

type faultCall struct {
	Command, ContainerID, NetNS, Args, Mark     string
	PrevResult, RuntimeConfig, ValidAttachments any
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == ipamArg {
		os.Exit(ipamChild(os.Args[2]))
	}
	if os.Getenv("CNI_COMMAND") != "" {
		os.Exit(faultPlugin())
	}
	if conf := os.Getenv(daemonEnv); conf != "" {
		os.Exit(addAsDaemon(conf))
	}
	if reason := cannotRun(); reason != "" {
		fmt.Println("cni: tests with plugins are skipped:", reason)
	}
	os.Exit(m.Run())
}

func faultPlugin() int {
	var c faultConf
	data, _ := io.ReadAll(os.Stdin)
	if err := json.Unmarshal(data, &c); err != nil {
		return refuse(6, err.Error())
	}
	cmd := os.Getenv("CNI_COMMAND")
	note(c, cmd)
	switch {
	case cmd == "VERSION":
		fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}`)
	case cmd == "ADD" && c.Fault.Add == "hang":
		child := exec.Command("/proc/self/exe") // holds our pipes, as an IPAM plugin would
		child.Args[0], child.Stdout, child.Stderr = os.Args[0], os.Stdout, os.Stderr
		child.Stdin, _, _ = os.Pipe()
		_ = child.Start()
		_ = unix.Pause()
	case cmd == "ADD" && c.Fault.Born != "":
		return orphan(c)
	case cmd == "ADD" && c.Fault.Add == "fail":
		return refuse(11, "told to fail")
	case cmd == "DEL" && c.Fault.Del == "fail":
		return refuse(11, "told to fail")
	case cmd == "STATUS" && c.Fault.Status != "":
		return refuse(50, c.Fault.Status)
	case cmd == "ADD" && c.PrevResult != nil:
		os.Stdout.Write(c.PrevResult)
	case cmd == "ADD":
		os.Stdout.Write(c.Fault.Result)
	}
	return 0
}

func refuse(code int, msg string) int {
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"cniVersion": "1.0.0", "code": code, "msg": msg})
	return 1
}

func note(c faultConf, cmd string) {
	if c.Fault.Log == "" {
		return
	}
	orNil := func(m json.RawMessage) any {
		if m == nil {
			return nil
		}
		return m
	}
	line, _ := json.Marshal(faultCall{Command: cmd, ContainerID: os.Getenv("CNI_CONTAINERID"), NetNS: os.Getenv("CNI_NETNS"),
		Args: os.Getenv("CNI_ARGS"), Mark: c.Mark, PrevResult: orNil(c.PrevResult), RuntimeConfig: orNil(c.RuntimeConfig), ValidAttachments: orNil(c.Attachments)})
	f, err := os.OpenFile(c.Fault.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = f.Write(append(line, '\n'))
}

// fault is a fault plugin set up for one test.
type fault struct {
	t        *testing.T
	bin, log string
}

func newFault(t *testing.T) fault {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f := fault{t: t, bin: t.TempDir(), log: filepath.Join(t.TempDir(), "calls")}
	if err := os.Symlink(self, filepath.Join(f.bin, "fault")); err != nil {
		t.Fatal(err)
	}
	return f
}

// plainResult gives the pod an address and tells no more.
const plainResult = `{"cniVersion":"1.0.0","ips":[{"address":"10.231.1.2/24"}]}`

// conf is the plugin's object in a conflist; faults are pairs as in faultConf.Fault.
func (f fault) conf(mark string, faults map[string]any) map[string]any {
	all := map[string]any{"log": f.log, "Result": json.RawMessage(plainResult)}
	for k, v := range faults {
		all[k] = v
	}
	return map[string]any{"type": "fault", "mark": mark, "fault": all,
		"capabilities": map[string]bool{"portMappings": true}}
}

func (f fault) calls() []faultCall {
	f.t.Helper()
	file, err := os.Open(f.log)
	if err != nil {
		return nil
	}
	defer file.Close()
	var out []faultCall
	for s := bufio.NewScanner(file); s.Scan(); {
		var c faultCall
		if err := json.Unmarshal(s.Bytes(), &c); err != nil {
			f.t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func conflist(t *testing.T, version, name string, plugins ...map[string]any) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{"cniVersion": version, "name": name, "plugins": plugins})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// open makes a Network over a fresh configuration directory.
func open(t *testing.T, opt Options) *Network {
	t.Helper()
	if opt.ConfDir == "" {
		opt.ConfDir = t.TempDir()
	}
	if opt.CacheDir == "" {
		opt.CacheDir = filepath.Join(t.TempDir(), "cache")
	}
	n, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}
