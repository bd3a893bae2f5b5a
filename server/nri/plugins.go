package nri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/containerd/ttrpc"
	"k8s.io/klog/v2"

	"berth/oci"
	"berth/sandbox"
)

// Options say how plugins are served.
type Options struct {
	Version string // of berth
	// Socket is where plugins connect; "": none can.
	Socket string
	// PluginDir holds programs that are started as plugins, ConfigDir their configurations.
	// "" or a directory that is missing: none are started.
	PluginDir, ConfigDir string
	// RegistrationTimeout bounds the wait for a plugin that connects to say its name,
	// RequestTimeout the wait for each answer; see the package documentation.
	RegistrationTimeout, RequestTimeout time.Duration
	Validator                           Validator
	Host                                oci.Host
}

// Node is what plugins may look at and change.
type Node interface {
	// Known is what a plugin that connects has to know.
	Known() ([]*sandbox.PodStatus, []*sandbox.ContainerStatus)
	SetLimits(ctx context.Context, id string, limits sandbox.NewLimits) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
}

// Plugins are the plugins of a node. It implements [sandbox.Plugins].
type Plugins struct {
	relay   *adaptation.Adaptation
	node    Node // set by Start
	host    oci.Host
	timeout time.Duration // of one request
	// validates: the library's validator is among the plugins.
	validates bool
	served    counters
	guard     *guard
}

// New makes plugins of which none is there before Start. The timeouts hold for the whole
// process: the library keeps them in variables.
func New(opt Options) (*Plugins, error) {
	p := &Plugins{host: opt.Host, timeout: opt.RequestTimeout}
	p.guard = &guard{patience: opt.RequestTimeout, evict: p.evict}
	nrilog.Set(logger{})
	adaptation.SetPluginRegistrationTimeout(opt.RegistrationTimeout)
	adaptation.SetPluginRequestTimeout(opt.RequestTimeout)
	options := []adaptation.Option{
		adaptation.WithPluginPath(opt.PluginDir), adaptation.WithPluginConfigPath(opt.ConfigDir),
		adaptation.WithMetrics(&p.served),
		adaptation.WithTTRPCOptions(
			[]ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(p.guard.call)},
			[]ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(p.guard.answer), ttrpc.WithServerHandshaker(inTurns{})}),
	}
	if opt.Socket == "" {
		options = append(options, adaptation.WithDisabledExternalConnections())
	} else {
		options = append(options, adaptation.WithSocketPath(opt.Socket))
	}
	if v, wanted := opt.Validator.config(); wanted {
		options = append(options, adaptation.WithDefaultValidator(v))
		p.validates = true
	}
	relay, err := adaptation.New("berth", opt.Version, p.synchronise, p.updateContainers, options...)
	if err != nil {
		return nil, fmt.Errorf("NRI: %w", err)
	}
	p.relay = relay
	return p, nil
}

// Start starts the plugins of the plugin directory, one after the other, and lets others
// connect. It is called once, when the node's pods are known.
func (p *Plugins) Start(node Node) error {
	p.node = node
	if err := p.relay.Start(); err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	return nil
}

// Stop ends the plugins that Start has started and lets no more connect.
func (p *Plugins) Stop() { p.relay.Stop() }

// holdTime is how long a verb that hangs keeps plugins that connect waiting, and behind
// them all other verbs.
const holdTime = 10 * time.Second

// Hold implements [sandbox.Plugins].
func (p *Plugins) Hold() func() {
	block := p.relay.BlockPluginSync()
	var once sync.Once
	release := func() { once.Do(block.Unblock) }
	timer := time.AfterFunc(holdTime, release)
	return func() {
		timer.Stop()
		release()
	}
}

// none tells that nobody would hear a notice, which is then not even made.
func (p *Plugins) none() bool { return p.served.plugins.Load() == 0 }

// Validator is what the default validator refuses, whichever plugin asks for it.
type Validator struct {
	// Reject are kinds of changes, see [Rejections].
	Reject []string
	// Required are plugins, as INDEX-NAME or NAME, without which no container is created,
	// unless its pod has the annotation Tolerate with a true value.
	Required []string
	Tolerate string
}

// Rejections are the kinds of changes that [Validator] can refuse: OCI hooks, the seccomp
// filter of a container whose profile is RuntimeDefault, Unconfined or Localhost,
// namespaces and sysctls.
var Rejections = []string{"hooks", "seccomp-default", "seccomp-unconfined", "seccomp-custom", "namespaces", "sysctls"}

// config is the validator's configuration, and whether there is anything to validate.
func (v Validator) config() (*validator.DefaultValidatorConfig, bool) {
	c := &validator.DefaultValidatorConfig{Enable: true, RequiredPlugins: v.Required, TolerateMissingAnnotation: v.Tolerate}
	flags := []*bool{
		&c.RejectOCIHookAdjustment, &c.RejectRuntimeDefaultSeccompAdjustment, &c.RejectUnconfinedSeccompAdjustment,
		&c.RejectCustomSeccompAdjustment, &c.RejectNamespaceAdjustment, &c.RejectSysctlAdjustment,
	}
	for i, kind := range Rejections {
		for _, r := range v.Reject {
			*flags[i] = *flags[i] || r == kind
		}
	}
	return c, len(v.Reject)+len(v.Required) > 0
}

// logger hands what the library logs to berth's log.
type logger struct{}

// Debugf implements [nrilog.Logger].
func (logger) Debugf(_ context.Context, format string, args ...any) { said(6, format, args) }

// Infof implements [nrilog.Logger].
func (logger) Infof(_ context.Context, format string, args ...any) { said(2, format, args) }

// Warnf implements [nrilog.Logger].
func (logger) Warnf(_ context.Context, format string, args ...any) { said(0, format, args) }

// Errorf implements [nrilog.Logger].
func (logger) Errorf(_ context.Context, format string, args ...any) {
	err := fmt.Errorf(format, args...)
	isNoWASM := func(a any) bool { err, _ := a.(error); return errors.Is(err, adaptation.ErrWasmDisabled) }
	if slices.ContainsFunc(args, isNoWASM) {
		return // every start says so; a plugin that needs it has an error of its own
	}
	klog.Background().Error(err, "NRI")
}

func said(level int, format string, args []any) {
	if l := klog.Background().V(level); l.Enabled() {
		l.Info("NRI", "says", fmt.Sprintf(format, args...))
	}
}

// maxRefusals is how many errors of plugins are remembered. One is asked for right after
// it was returned, and requests come one at a time.
const maxRefusals = 32

// counters hear from the library how many plugins there are, and which plugin an error
// came from, which the error itself does not say.
type counters struct {
	plugins atomic.Int64

	mu       sync.Mutex
	refusals []refusal // the latest last
}

type refusal struct {
	plugin, operation string
	err               error
}

// UpdatePluginCount implements [adaptation.Metrics].
func (c *counters) UpdatePluginCount(n int) { c.plugins.Store(int64(n)) }

// RecordPluginInvocation implements [adaptation.Metrics].
func (c *counters) RecordPluginInvocation(plugin, operation string, err error) {
	if err == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusals = append(c.refusals, refusal{plugin, operation, err})
	if len(c.refusals) > maxRefusals {
		c.refusals = c.refusals[1:]
	}
}

// RecordPluginLatency implements [adaptation.Metrics].
func (*counters) RecordPluginLatency(string, string, time.Duration) {}

// RecordPluginAdjustments implements [adaptation.Metrics].
func (*counters) RecordPluginAdjustments(string, string, *api.ContainerAdjustment, int, int) {}

// named adds to an error which plugin it came from, if it came from one.
func (c *counters) named(err error) error {
	if err == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.refusals) - 1; i >= 0; i-- {
		if r := c.refusals[i]; isOf(err, r.err) {
			return fmt.Errorf("NRI plugin %s refuses %s: %w", r.plugin, r.operation, err)
		}
	}
	return fmt.Errorf("NRI: %w", err)
}

// isOf tells whether err is the very error of, or wraps it. [errors.Is] would take any
// error of the same code and text for it.
func isOf(err, of error) bool {
	for err != nil {
		if err == of { //nolint:errorlint // see above
			return true
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		err = u.Unwrap()
	}
	return false
}
