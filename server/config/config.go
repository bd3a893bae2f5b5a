package config

import (
	"time"
)

// DefaultFile is read when no other is named; it alone may be absent.
const DefaultFile = "/etc/berth/config.toml"

// What keys may say instead of a value.
const (
	Auto = "auto"
	Off  = "off"
	// SelfSigned is of stream_tls.
	SelfSigned = "self-signed"
)

// Config is everything that can be told to berthd. The zero value is of no
// use; start from [Default].
type Config struct {
	Root                 string        `toml:"root" help:"durable state: records of pods and containers, images, layers"`
	State                string        `toml:"state" help:"state that dies with the boot: sockets, namespaces, mounts; needs a filesystem that is empty after a reboot"`
	Listen               string        `toml:"listen" help:"where the CRI is served: unix:///PATH"`
	ContainerdSocket     string        `toml:"containerd_socket" help:"where the kubelet's cAdvisor finds the containers, and the CRI is served too: auto is /run/containerd/containerd.sock while no containerd has it, off, or a path; say off beside a dockerd that starts its own containerd, since it would take berth for one"`
	LogLevel             int           `toml:"log_level" reload:"yes" help:"0 what an operator must know, 2 one line a change, 4 one line a call, 6 everything"`
	LogFormat            string        `toml:"log_format" help:"text, or json: one object a line"`
	CNIConfDir           string        `toml:"cni_conf_dir" help:"CNI network configurations; the first in lexical order is used"`
	CNIBinDir            []string      `toml:"cni_bin_dir" help:"where CNI plugins are looked for, in order"`
	DefaultNetwork       bool          `toml:"default_network" help:"use a built-in bridge network while cni_conf_dir holds none"`
	CertsDir             []string      `toml:"certs_dir" help:"registry mirrors and certificates, HOST/hosts.toml; the first directory that exists is the one read"`
	StreamAddress        string        `toml:"stream_address" help:"host:port of the exec, attach and port-forward server; it should be reachable by the kubelet only"`
	StreamTLS            []string      `toml:"stream_tls" help:"the streaming server's certificate and key, PEM files that may be one, read again when they change; or self-signed: one made at each start, STATE/streams.crt; and min=1.3 to refuse TLS 1.2; the kubelet trusts what its machine's CA certificates vouch for; empty: no TLS, which is for the loopback"`
	MaxMessageSize       string        `toml:"max_message_size" help:"largest request of the CRI that is taken, 4MiB to 64MiB; each call in flight may hold as much memory; answers are cut to what the kubelet takes, 16MiB"`
	StreamIdleTimeout    time.Duration `toml:"stream_idle_timeout" help:"after how long without any data exec, attach and port-forward are closed"`
	MetricsAddress       string        `toml:"metrics_address" reload:"yes" help:"where Prometheus reads the daemon's own metrics, /metrics: unix:///PATH, or host:port of the loopback; empty: nowhere"`
	TraceEndpoint        string        `toml:"trace_endpoint" help:"where spans are sent to, by OTLP over gRPC: http://HOST:PORT without TLS, https://HOST:PORT, or unix:///PATH; empty: nothing is traced"`
	TraceSampling        int           `toml:"trace_sampling" help:"how many of a million calls are traced of a client that does not trace; the kubelet decides of its own by its tracing configuration"`
	DebugSocket          string        `toml:"debug_socket" help:"path of a unix socket, for root only, at which Go's profiles are served: curl --unix-socket PATH http://berth/debug/pprof/heap; empty: nowhere"`
	CgroupDriver         string        `toml:"cgroup_driver" help:"cgroupfs or systemd; empty looks at the host"`
	ShimBinary           string        `toml:"shim_binary" help:"path of berth-shim; empty: beside berthd, then in PATH"`
	PodsPerShim          int           `toml:"pods_per_shim" help:"pods that share one shim process: 0 all, 1 a shim each, n at most n"`
	PinnedImages         []string      `toml:"pinned_images" reload:"yes" help:"images the kubelet is asked not to collect; * matches anything"`
	TrustPolicy          string        `toml:"trust_policy" reload:"yes" help:"file of [[rule]] tables that say which images may be pulled: match, reject, require_digest, digests, keys; empty: all may"`
	SeedDir              string        `toml:"seed_dir" help:"image archives (docker or OCI, tar or directory) that are loaded at start; empty: none"`
	MaxParallelDownloads int           `toml:"max_parallel_downloads" help:"layers fetched at the same time, over all pulls; a pull that waits in vain for 3s gets one more; 0: twice the processors, 4 to 12"`
	SeccompRoot          string        `toml:"seccomp_root" help:"where Localhost seccomp profiles with a relative path start"`
	SeccompDefault       string        `toml:"seccomp_default" help:"file of the seccomp profile that RuntimeDefault means; empty: the built-in one, which is Docker's"`
	DefaultCapabilities  []string      `toml:"default_capabilities" help:"capabilities of containers, which their add and drop start from; fewer than these may keep images from working, and more is given to all pods"`
	DefaultUlimits       []string      `toml:"default_ulimits" help:"limits of containers' processes, for which pods have no field: NAME=SOFT:HARD or NAME=BOTH, such as nofile=1024:524288 or core=0; others are those of the shims"`
	OwnDevices           bool          `toml:"device_ownership_from_security_context" help:"give a container's devices to its runAsUser and runAsGroup, so that it need not run as root to use them; not in user namespaces"`
	AllowedDevices       []string      `toml:"allowed_devices" help:"device nodes below /dev, by their exact paths, that a pod may ask for in its containers by the annotation berth/devices: HOST[:CONTAINER][:ACCESS], with commas between, such as /dev/fuse:/dev/fuse:rw (or CRI-O's io.kubernetes.cri-o.Devices); whoever may make a pod gets these; empty: none, and a pod that asks is refused"`
	ShmSize              string        `toml:"shm_size" help:"size of a pod's /dev/shm; a pod with a memory limit may ask for more, up to that limit, by the annotation berth/shm-size"`
	LogLimits            []string      `toml:"log_limits" help:"limits of each container's log: size=1GiB drops what is written after that until the kubelet rotates the file, which it looks at every 10s only; rate=10MiB makes a container that writes more in a second wait; empty: none"`
	CNIConfTemplate      string        `toml:"cni_conf_template" help:"text/template of a CNI configuration with {{.PodCIDR}}, {{.PodCIDRs}} and {{.Routes}}, written to cni_conf_dir as 10-berth.conflist when the kubelet tells the node's pod CIDR and no network is ready; empty: networks come from elsewhere"`
	CreateHostPaths      bool          `toml:"create_host_paths" help:"a hostPath volume without a type whose path is missing gets a directory there (root, 0755), which stays; false refuses its container"`
	CDISpecDirs          []string      `toml:"cdi_spec_dirs" help:"where CDI files are looked for; of two that define a device the one in the later directory counts; they are read anew for each container that asks for a device"`
	NRISocket            string        `toml:"nri_socket" help:"where NRI plugins connect: auto is /var/run/nri/nri.sock, or nri.sock in state when that is not the default, so that daemons side by side have one each; off, or a path"`
	NRIPluginDir         string        `toml:"nri_plugin_dir" help:"NRI plugins that are started with the daemon, INDEX-NAME; empty: none"`
	NRIPluginConfigDir   string        `toml:"nri_plugin_config_dir" help:"configurations of these: INDEX-NAME.conf, else NAME.conf"`
	NRITimeouts          []string      `toml:"nri_timeouts" help:"how long an NRI plugin may take to register=, while no other connects, and to answer a request=; the pod waits for that, and goes on without a plugin that takes longer, which is cut off; what is not named has its default"`
	NRIReject            []string      `toml:"nri_reject" help:"changes that no NRI plugin may make to a container: hooks, seccomp-default, seccomp-unconfined, seccomp-custom, namespaces, sysctls"`
	NRIRequiredPlugins   []string      `toml:"nri_required_plugins" help:"NRI plugins without which no container is created; static pods too, unless they have the next key's annotation"`
	NRITolerateMissing   string        `toml:"nri_tolerate_missing_annotation" help:"annotation of pods that do without nri_required_plugins, as NAME: \"true\"; empty: none do"`
	Timeouts             []string      `toml:"timeouts" reload:"drain" help:"how long may take: cni-add= and cni-del= to attach a pod to its network and to detach it; stop= a container's end after SIGKILL, before its stop fails; drain= the calls in flight after SIGTERM, which touches no container; what is not named has its default"`
	// Runtimes is the last key: what follows a table belongs to it.
	Runtimes map[string]Runtime `toml:"runtime" help:"a table for each handler that a RuntimeClass may name; pods that name another are refused, those that name none get the built-in runtime; type is builtin (libcontainer), or shim.v2 for a shim of containerd: runc, crun, gVisor, Kata, runwasi"`
}

// Default is the configuration of a machine that has no file.
func Default() Config {
	return Config{
		Root:             "/var/lib/berth",
		State:            "/run/berth",
		Listen:           "unix:///run/berth/berth.sock",
		ContainerdSocket: Auto,
		LogLevel:         2,
		LogFormat:        "text",
		CNIConfDir:       "/etc/cni/net.d",
		CNIBinDir:        []string{"/opt/cni/bin", "/usr/lib/cni"},
		CertsDir:         []string{"/etc/berth/certs.d", "/etc/containerd/certs.d"},
		StreamAddress:    "127.0.0.1:0",
		PinnedImages:     []string{},
		SeccompRoot:      "/var/lib/kubelet/seccomp",
		CreateHostPaths:  true,
		CDISpecDirs:      []string{"/etc/cdi", "/var/run/cdi"},
		NRISocket:        Auto, NRIPluginDir: "/opt/nri/plugins", NRIPluginConfigDir: "/etc/nri/conf.d",
		NRITimeouts: []string{"register=5s", "request=2s"},
		NRIReject:   []string{}, NRIRequiredPlugins: []string{},
		Timeouts: defaultBounds().list(),

		DefaultCapabilities: []string{
			"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE",
			"NET_RAW", "SYS_CHROOT", "MKNOD", "AUDIT_WRITE", "SETFCAP",
		},
		DefaultUlimits: []string{},
		AllowedDevices: []string{},
		ShmSize:        "64MiB",
		LogLimits:      []string{},

		StreamTLS:         []string{},
		MaxMessageSize:    "16MiB",
		StreamIdleTimeout: 4 * time.Hour,
		Runtimes:          map[string]Runtime{},
	}
}
