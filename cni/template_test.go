package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const dualStack = `{"cniVersion":"1.0.0","name":"of-{{.PodCIDR}}","plugins":[{"type":"fault","ipam":{"type":"fault",
"ranges":[{{range $i, $c := .PodCIDRs}}{{if $i}},{{end}}[{"subnet":"{{$c}}"}]{{end}}],
"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}}]}`

// The pod CIDR makes a configuration of a template, once, and never over one that works.
func TestPodCIDR(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	conf, file := filepath.Join(dir, "net.d"), filepath.Join(dir, "template")
	write(t, file, []byte(dualStack))
	n := open(t, Options{ConfDir: conf, BinDirs: []string{f.bin}, Template: file})
	made := filepath.Join(conf, templateFile)
	if err := n.SetPodCIDR(nil); err != nil {
		t.Error(err)
	}
	if err := n.SetPodCIDR([]string{"10.1.2.0"}); err == nil {
		t.Error("an address is a range")
	}
	if _, err := os.Stat(made); err == nil {
		t.Error("a configuration was made of no range")
	}
	if err := n.SetPodCIDR([]string{"10.1.2.0/24", "fd00:1::/64"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"of-10.1.2.0/24"`, `[{"subnet":"10.1.2.0/24"}],[{"subnet":"fd00:1::/64"}]`, `{"dst":"0.0.0.0/0"},{"dst":"::/0"}`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the configuration lacks %s:\n%s", want, text)
		}
	}
	if err := n.Ready(); err != nil {
		t.Errorf("with the configuration that was made: %v", err)
	}
	if err := n.SetPodCIDR([]string{"10.9.9.0/24"}); err != nil {
		t.Error(err)
	}
	if again, err := os.ReadFile(made); err != nil || string(again) != string(text) {
		t.Errorf("a configuration that works was replaced: %v\n%s", err, again)
	}
}

func TestBadTemplates(t *testing.T) {
	f := newFault(t)
	dir := t.TempDir()
	for text, want := range map[string]string{
		"{{.PodCIDR": "unclosed action", "{{.Pod}}": "can't evaluate field Pod", "{": "makes no configuration", "": "makes no configuration",
	} {
		file := filepath.Join(dir, "template")
		write(t, file, []byte(text))
		n := open(t, Options{ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{f.bin}, Template: file})
		if err := n.SetPodCIDR([]string{"10.1.2.0/24"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the template %q gives %v, want …%s…", text, err, want)
		}
	}
	n := open(t, Options{ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{f.bin}, Template: filepath.Join(dir, "none")})
	if err := n.SetPodCIDR([]string{"10.1.2.0/24"}); err == nil {
		t.Error("a template that is not there is no error")
	}
}
