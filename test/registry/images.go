package registry

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"berth/test/program"
)

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
`

const group = `root:x:0:
daemon:x:1:
www-data:x:33:
nogroup:x:65534:
`

// pgrep lists processes by a part of their name. Debian's needs ten libraries.
const pgrep = `#!/bin/sh
found=1
for p in /proc/[0-9]*; do
	read -r name <"$p/comm" || continue
	case $name in *"$1"*) echo "${p#/proc/}"; found=0 ;; esac
done 2>/dev/null
exit $found
`

// httpd says its name, as Apache does, and serves what nginx serves.
const httpd = `#!/bin/sh
echo "httpd: serving /srv/www on port 80"
exec httpd -f -p 80 -h /srv/www
`

const page = "<!DOCTYPE html><title>test</title>It works.\n"

// Busybox is an image with a shell and the common commands. Its shell runs
// what is in PATH, see doc.go.
var Busybox = sync.OnceValues(func() (v1.Image, error) {
	files, err := busyboxFiles()
	if err != nil {
		return nil, fmt.Errorf("busybox image: %w", err)
	}
	l, err := Layer(files...)
	if err != nil {
		return nil, err
	}
	return Build(v1.Config{Env: []string{searchPath}, Cmd: []string{"sh"}}, l)
})

func busyboxFiles() ([]File, error) {
	d, unlock, err := openDebian()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := d.unpack("busybox", "util-linux"); err != nil {
		return nil, err
	}
	files, err := d.program("bin/busybox", "/bin/busybox")
	if err != nil {
		return nil, err
	}
	ipcs, err := d.program("usr/bin/ipcs", "/usr/bin/ipcs")
	if err != nil {
		return nil, err
	}
	files = merge(files, ipcs...)
	applets, err := exec.Command(d.at("bin/busybox"), "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			// Hard links as in the upstream image: masking /bin/ls must not mask them all.
			files = append(files, File{Path: "/bin/" + applet, Mode: 0o755, Hard: "/bin/busybox"})
		}
	}
	return append(files,
		File{Path: "/bin/pgrep", Mode: 0o755, Data: []byte(pgrep)},
		File{Path: "/etc/passwd", Mode: 0o644, Data: []byte(passwd)},
		File{Path: "/etc/group", Mode: 0o644, Data: []byte(group)},
		File{Path: "/tmp", Mode: os.ModeDir | os.ModeSticky | 0o777},
		File{Path: "/home", Mode: os.ModeDir | 0o755, UID: 65534, GID: 65534},
		File{Path: "/root", Mode: os.ModeDir | 0o700},
		File{Path: "/var/www", Mode: os.ModeDir | 0o755, UID: 33, GID: 33},
	), nil
}

// merge adds files whose paths are not there yet.
func merge(files []File, more ...File) []File {
	have := map[string]bool{}
	for _, f := range files {
		have[f.Path] = true
	}
	for _, f := range more {
		if !have[f.Path] {
			files = append(files, f)
		}
	}
	return files
}

// Nginx is an image of Debian's nginx that serves one page at port.
func Nginx(port int) (v1.Image, error) {
	base, err := Busybox()
	if err != nil {
		return nil, err
	}
	files, err := nginxFiles(port)
	if err != nil {
		return nil, fmt.Errorf("nginx image: %w", err)
	}
	return Extend(base, func(c *v1.Config) {
		c.Cmd = []string{"nginx", "-g", "daemon off;"}
		c.ExposedPorts = map[string]struct{}{fmt.Sprintf("%d/tcp", port): {}}
		c.StopSignal = "SIGTERM" // upstream's SIGQUIT waits for idle connections
	}, files...)
}

func nginxFiles(port int) ([]File, error) {
	d, unlock, err := openDebian()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := d.unpack("nginx"); err != nil {
		return nil, err
	}
	files, err := d.program("usr/sbin/nginx", "/usr/sbin/nginx")
	if err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`user www-data;
worker_processes 1;
pid /var/run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 128; }
http {
	access_log /dev/stdout;
	server {
		listen %d;
		location / { root /usr/share/nginx/html; index index.html; }
	}
}
`, port)
	dir := File{Mode: os.ModeDir | 0o755}
	for _, p := range []string{"/var/run", "/var/log/nginx", "/var/lib/nginx"} {
		dir.Path = p
		files = append(files, dir)
	}
	return append(files,
		File{Path: "/etc/nginx/nginx.conf", Mode: 0o644, Data: []byte(conf)},
		File{Path: "/usr/share/nginx/html/index.html", Mode: 0o644, Data: []byte(page)},
	), nil
}

// Httpd is an image that serves one page at port 80 and logs its name.
func Httpd() (v1.Image, error) {
	base, err := Busybox()
	if err != nil {
		return nil, err
	}
	return Extend(base, func(c *v1.Config) { c.Cmd = []string{"/srv/start"} },
		File{Path: "/srv/start", Mode: 0o755, Data: []byte(httpd)},
		File{Path: "/srv/www/index.html", Mode: 0o644, Data: []byte(page)})
}

// probe builds the static program of test/registry/probe.
var probe = sync.OnceValues(func() ([]byte, error) {
	_, unlock, err := openDebian()
	if err != nil {
		return nil, err
	}
	defer unlock()
	cache, err := cacheDir()
	if err != nil {
		return nil, err
	}
	out := filepath.Join(cache, "probe")
	if err := program.Build("test/registry/probe", out); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
})

// Scratch is an image whose only file is the probe, under the name of its task
// (see test/registry/probe), which it runs.
func Scratch(task string, mode os.FileMode) (v1.Image, error) {
	data, err := probe()
	if err != nil {
		return nil, err
	}
	l, err := Layer(File{Path: "/" + task, Mode: mode, Data: data})
	if err != nil {
		return nil, err
	}
	return Build(v1.Config{Entrypoint: []string{"/" + task}, Env: []string{searchPath}}, l)
}

// Fixed is an image that is the same bytes on every machine of one
// architecture, and so has a digest that can be known before.
func Fixed() (v1.Image, error) {
	var buf bytes.Buffer
	if err := Tar(&buf, File{Path: "/fixed", Mode: 0o644, Data: []byte("the same everywhere\n")}); err != nil {
		return nil, err
	}
	l := static.NewLayer(buf.Bytes(), types.OCIUncompressedLayer)
	return Build(v1.Config{Cmd: []string{"/fixed"}}, l)
}

const staging = "gcr.io/k8s-staging-cri-tools/"

// FixedName is the repository of [Fixed] in [Critest].
const FixedName = staging + "test-image-digest"

// hostNetPort is where critest expects the nginx of the host network.
const hostNetPort = 12003

// Critest makes every image that critest v1.36.0 uses, by full name.
func Critest() (map[string]Image, error) {
	busybox, err := Busybox()
	if err != nil {
		return nil, err
	}
	c := &collection{base: busybox, images: map[string]Image{}}
	e2e := "registry.k8s.io/e2e-test-images/"
	c.add(e2e+"busybox:1.29-2", busybox, nil)
	c.addMade(e2e+"nginx:1.14-2", func() (v1.Image, error) { return Nginx(80) })
	c.addMade(e2e+"httpd:2.4.39-4", Httpd)
	c.addMade(e2e+"nonewprivs:1.3", func() (v1.Image, error) { return Scratch("nonewprivs", os.ModeSetuid|0o755) })
	c.addMade(staging+"hostnet-nginx-"+runtime.GOARCH, func() (v1.Image, error) { return Nginx(hostNetPort) })
	c.addMade("registry.k8s.io/pause:3.9", func() (v1.Image, error) { return Scratch("pause", 0o755) })
	c.addMade(FixedName, Fixed)
	for name, user := range map[string]string{
		"user-uid": "1002", "user-username": "www-data", "user-uid-group": "1003:1004", "user-username-group": "www-data:1004",
	} {
		c.with(staging+"test-image-"+name, func(conf *v1.Config) { conf.User = user })
	}
	c.with(staging+"test-image-predefined-group", func(conf *v1.Config) { conf.User = "1000" },
		File{Path: "/etc/passwd", Mode: 0o644, Data: []byte(passwd + "default-user:x:1000:1000::/home/default-user:/bin/sh\n")},
		File{Path: "/etc/group", Mode: 0o644, Data: []byte(group + "default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")})
	for ref, file := range map[string]string{
		"test-image-1": "1", "test-image-2": "2", "test-image-3": "3", "test-image-latest": "latest",
		"test-image-tag:test": "test", "test-image-tag:all": "all",
		"test-image-tags:1": "same", "test-image-tags:2": "same", "test-image-tags:3": "same",
	} {
		c.indexed(staging+ref, File{Path: "/test-image-" + file, Mode: 0o644})
	}
	c.images["docker.io/library/busybox:latest"] = busybox
	return c.images, c.err
}

// collection gathers images and the errors of making them.
type collection struct {
	base   v1.Image
	images map[string]Image
	err    error
}

func (c *collection) add(ref string, img Image, err error) {
	if err != nil {
		c.err = errors.Join(c.err, fmt.Errorf("%s: %w", ref, err))
		return
	}
	c.images[ref] = img
}

func (c *collection) addMade(ref string, make func() (v1.Image, error)) {
	img, err := make()
	c.add(ref, img, err)
}

func (c *collection) with(ref string, change func(*v1.Config), files ...File) {
	img, err := Extend(c.base, change, files...)
	c.add(ref, img, err)
}

// indexed adds an image behind an index of two platforms, as upstream's are.
func (c *collection) indexed(ref string, files ...File) {
	img, err := Extend(c.base, nil, files...)
	if err != nil {
		c.add(ref, nil, err)
		return
	}
	index, err := ManyPlatforms(img)
	c.add(ref, index, err)
}
