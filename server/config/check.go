package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// maxSocketPath is what sockaddr_un can hold with its final NUL (unix(7)).
const maxSocketPath = 107

// shimSocketSuffix is the longest path a shim's socket has below State.
const shimSocketSuffix = "/shims/0123456789abcdef/shim.sock"

// Check tells everything that is wrong with c, each error with the key and
// what to change; nil when nothing is. It looks at c alone, not at the machine.
func (c Config) Check() error {
	var errs []error
	wrong := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{key}, args...)...))
	}
	c.checkPaths(wrong)
	c.checkListen(wrong)
	c.checkStreams(wrong)
	c.checkMetrics(wrong)
	c.checkTraces(wrong)
	c.checkSizes(wrong)
	c.checkDevices(wrong)
	c.checkWords(wrong)
	c.checkRuntimes(wrong)
	c.checkNRI(wrong)
	if c.LogLevel < 0 || c.LogLevel > 10 {
		wrong("log_level", "want 0 to 10, not %d", c.LogLevel)
	}
	if c.PodsPerShim < 0 {
		wrong("pods_per_shim", "want 0 (all pods share one shim) or more, not %d", c.PodsPerShim)
	}
	if c.MaxParallelDownloads < 0 || c.MaxParallelDownloads > 64 {
		wrong("max_parallel_downloads", "want 0 (by the processors) to 64, not %d", c.MaxParallelDownloads)
	}
	if _, err := c.TimeBounds(); err != nil {
		wrong("timeouts", "%w", err)
	}
	return errors.Join(errs...)
}

// unlistable are directories of /dev in which others than root may make files, or which
// are different for each process.
var unlistable = regexp.MustCompile(`^/dev/(shm|mqueue|pts|fd)(/|$)`)

// checkDevices wants paths of which a pod's annotation can name each.
func (c Config) checkDevices(wrong func(key, format string, args ...any)) {
	for _, p := range c.AllowedDevices {
		if !isListable(p) {
			wrong("allowed_devices", wantDevice, p)
		}
	}
}

const wantDevice = "want a device below /dev such as /dev/fuse, without .. or a / at its end, a colon or a comma, and not in /dev/shm, mqueue, pts or fd, not %q"

func isListable(p string) bool {
	return strings.HasPrefix(p, "/dev/") && filepath.Clean(p) == p && !strings.ContainsAny(p, ":,") && !unlistable.MatchString(p)
}

// checkWords wants values that are one of a few words.
func (c Config) checkWords(wrong func(key, format string, args ...any)) {
	switch c.CgroupDriver {
	case "", "cgroupfs", "systemd":
	default:
		wrong("cgroup_driver", `want "cgroupfs", "systemd" or "" (look at the host), not %q`, c.CgroupDriver)
	}
	if c.LogFormat != "text" && c.LogFormat != "json" {
		wrong("log_format", `want "text" or "json", not %q`, c.LogFormat)
	}
}

// checkPaths wants every path absolute and the two state directories apart:
// one of them is erased by a reboot, the other must not be.
func (c Config) checkPaths(wrong func(key, format string, args ...any)) {
	absolute := func(key string, paths ...string) {
		for _, p := range paths {
			if !filepath.IsAbs(p) || filepath.Clean(p) != p {
				wrong(key, "want an absolute path without .. or a / at its end, not %q", p)
			}
		}
	}
	absolute("root", c.Root)
	absolute("state", c.State)
	absolute("cni_conf_dir", c.CNIConfDir)
	absolute("cni_bin_dir", c.CNIBinDir...)
	absolute("certs_dir", c.CertsDir...)
	absolute("seccomp_root", c.SeccompRoot)
	absolute("cdi_spec_dirs", c.CDISpecDirs...)
	for key, path := range map[string]string{"nri_plugin_dir": c.NRIPluginDir, "nri_plugin_config_dir": c.NRIPluginConfigDir, "shim_binary": c.ShimBinary, "debug_socket": c.DebugSocket, "trust_policy": c.TrustPolicy, "seed_dir": c.SeedDir, "seccomp_default": c.SeccompDefault, "cni_conf_template": c.CNIConfTemplate} {
		if path != "" {
			absolute(key, path)
		}
	}
	if len(c.CNIBinDir) == 0 {
		wrong("cni_bin_dir", "name at least one directory")
	}
	if within(c.State, c.Root) || within(c.Root, c.State) {
		wrong("state", "%s and root %s must not lie inside each other", c.State, c.Root)
	}
	if n := len(c.State) + len(shimSocketSuffix); n > maxSocketPath {
		wrong("state", "the path is %d bytes too long for the sockets below it; use a shorter one", n-maxSocketPath)
	}
}

func (c Config) checkListen(wrong func(key, format string, args ...any)) {
	if n := len(c.DebugSocket); n > maxSocketPath {
		wrong("debug_socket", "a socket's path may have %d bytes, this one has %d; use a shorter one", maxSocketPath, n)
	}
	path := c.SocketPath()
	switch {
	case path == "":
		wrong("listen", "want unix:///PATH, not %q", c.Listen)
	case len(path) > maxSocketPath:
		wrong("listen", "a socket's path may have %d bytes, this one has %d; use a shorter one", maxSocketPath, len(path))
	}
	for key, path := range map[string]string{"containerd_socket": c.ContainerdSocket, "nri_socket": c.NRISocket} {
		switch {
		case path == Auto, path == Off:
		case !filepath.IsAbs(path) || filepath.Clean(path) != path:
			wrong(key, "want auto, off or an absolute path, not %q", path)
		case len(path) > maxSocketPath:
			wrong(key, "a socket's path may have %d bytes, this one has %d; use a shorter one", maxSocketPath, len(path))
		}
	}
}

// nriChanges are the words of nri_reject.
var nriChanges = []string{"hooks", "seccomp-default", "seccomp-unconfined", "seccomp-custom", "namespaces", "sysctls"}

func (c Config) checkNRI(wrong func(key, format string, args ...any)) {
	for _, word := range c.NRIReject {
		if !slices.Contains(nriChanges, word) {
			wrong("nri_reject", "want some of %s, not %q", strings.Join(nriChanges, ", "), word)
		}
	}
	if _, _, err := c.NRIBounds(); err != nil {
		wrong("nri_timeouts", "%w", err)
	}
}

// NRISocketPath is where NRI plugins connect, "" for nowhere.
func (c Config) NRISocketPath() string {
	switch {
	case c.NRISocket == Off:
		return ""
	case c.NRISocket != Auto:
		return c.NRISocket
	case c.State == Default().State:
		return "/var/run/nri/nri.sock"
	default:
		return filepath.Join(c.State, "nri.sock")
	}
}

func (c Config) checkStreams(wrong func(key, format string, args ...any)) {
	if _, _, err := net.SplitHostPort(c.StreamAddress); err != nil {
		wrong("stream_address", "want host:port (port 0: any free one), not %q", c.StreamAddress)
	}
	if _, _, err := c.StreamCertificate(); err != nil {
		wrong("stream_tls", "%w", err)
	}
	if c.StreamIdleTimeout <= 0 {
		wrong("stream_idle_timeout", "want more than 0s, not %s; a stream without an end would be kept for a client that is gone", c.StreamIdleTimeout)
	}
}

// StreamCertificate is stream_tls in its parts: [SelfSigned] alone, one file or two, or
// nothing; and the oldest version of TLS that is spoken, 1.2 or 1.3.
func (c Config) StreamCertificate() (files []string, oldest string, err error) {
	files, oldest = c.StreamTLS, "1.2"
	if n := len(files); n > 0 && strings.HasPrefix(files[n-1], "min=") {
		files, oldest = files[:n-1], strings.TrimPrefix(files[n-1], "min=")
	}
	switch n := len(files); {
	case oldest != "1.2" && oldest != "1.3":
		return nil, "", fmt.Errorf("want min=1.2 or min=1.3, not %q", oldest)
	case n == 0 && len(c.StreamTLS) > 0:
		return nil, "", fmt.Errorf("want a certificate before min=%s, or %q", oldest, SelfSigned)
	case n > 2:
		return nil, "", fmt.Errorf("want a certificate's file and its key's, one file with both, or %q, not %d values", SelfSigned, n)
	}
	for _, file := range files {
		if !filepath.IsAbs(file) && (file != SelfSigned || len(files) != 1) {
			return nil, "", fmt.Errorf("want absolute paths, or %q alone, and then at most one min=VERSION, not %q", SelfSigned, file)
		}
	}
	return files, oldest, nil
}

// checkMetrics wants an address that only this machine can reach: the text names images
// and registries, and nobody has to say who he is.
func (c Config) checkMetrics(wrong func(key, format string, args ...any)) {
	if c.MetricsAddress == "" {
		return
	}
	if rest, ok := strings.CutPrefix(c.MetricsAddress, "unix://"); ok {
		if !filepath.IsAbs(rest) || len(rest) > maxSocketPath {
			wrong("metrics_address", "want unix:///PATH with a path of at most %d bytes, not %q", maxSocketPath, c.MetricsAddress)
		}
		return
	}
	host, _, err := net.SplitHostPort(c.MetricsAddress)
	if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		wrong("metrics_address", "want unix:///PATH or host:port of the loopback, such as 127.0.0.1:9723, not %q; a proxy that authenticates can serve it to others", c.MetricsAddress)
	}
}

func (c Config) checkTraces(wrong func(key, format string, args ...any)) {
	if c.TraceEndpoint != "" && !isCollector(c.TraceEndpoint) {
		wrong("trace_endpoint", "want http://HOST:PORT, https://HOST:PORT or unix:///PATH, not %q", c.TraceEndpoint)
	}
	if c.TraceSampling < 0 || c.TraceSampling > 1e6 {
		wrong("trace_sampling", "want 0 to 1000000 in a million, not %d", c.TraceSampling)
	}
}

func isCollector(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "http", "https":
		return u.Port() != "" && strings.Trim(u.Path, "/") == ""
	case "unix":
		return u.Host == "" && filepath.IsAbs(u.Path)
	}
	return false
}

// SocketPath is the path in Listen, or "" when that is no unix:///PATH.
func (c Config) SocketPath() string {
	path, ok := strings.CutPrefix(c.Listen, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return ""
	}
	return filepath.Clean(path)
}

// within tells whether path is dir or below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
