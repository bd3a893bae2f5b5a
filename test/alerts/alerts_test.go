package alerts

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"

	"berth/image"
	"berth/server/metrics"
)

const (
	folder = "../../hack/monitoring/"
	// interval is how often the metrics are read and the rules asked.
	interval = 30 * time.Second
	// watched is for how long; longer than any rule's range and wait together.
	watched = 40 * time.Minute
)

// daemon is a berthd as its metrics show it, on a machine whose clock a test turns.
type daemon struct {
	*metrics.Instruments
	state metrics.State
	down  bool
	fix   map[string]float64 // of the kernel's figures, which no test can provoke
}

func newDaemon() *daemon {
	d := &daemon{Instruments: metrics.New("1.2.3"), fix: map[string]float64{"process_max_fds": 1 << 20}}
	d.Watch(func() metrics.State { return d.state })
	return d
}

// quiet is what happens all the time on a node that is well.
func (d *daemon) quiet(step int) {
	d.Call("RunPodSandbox", "OK", 60*time.Millisecond)
	d.Call("StopContainer", "NotFound", time.Millisecond)
	d.Network("add", 40*time.Millisecond, nil)
	d.Pull(image.Pulled{Registry: "docker.io", Took: time.Second})
	if step%20 == 0 {
		d.Pull(image.Pulled{Registry: "docker.io", Err: image.ErrNotFound})
		d.Call("CreateContainer", "Unknown", time.Millisecond)
	}
	d.state.InFlight = step % 7
	d.state.OOMKilled = uint64(step / 50)
}

// troubles provoke each alert; they are asked at each step.
var troubles = map[string]func(d *daemon, step int){
	"BerthDown": func(d *daemon, _ int) { d.down = true },
	"BerthCallsFail": func(d *daemon, _ int) {
		d.Call("CreateContainer", "Internal", time.Second)
		d.Call("CreateContainer", "Internal", time.Second)
	},
	"BerthPodsStartSlowly": func(d *daemon, _ int) { d.Call("RunPodSandbox", "OK", 20*time.Second) },
	"BerthCallsHang":       func(d *daemon, _ int) { d.state.InFlight = 30 },
	"BerthNetworkFails":    func(d *daemon, _ int) { d.Network("add", time.Second, errors.New("no address is left")) },
	"BerthPullsFail": func(d *daemon, _ int) {
		d.Pull(image.Pulled{Registry: "registry.example", Err: image.ErrUnauthorized})
	},
	"BerthDiskFull":                  func(d *daemon, _ int) { d.Pull(image.Pulled{Registry: "docker.io", Err: image.ErrNoSpace}) },
	"BerthShimReplaced":              func(d *daemon, _ int) { d.state.Shims.Replacements = 1 },
	"BerthContainersKilledForMemory": func(d *daemon, step int) { d.state.OOMKilled = uint64(step) },
	"BerthEventsLost":                func(d *daemon, _ int) { d.state.SubscribersCut = 1 },
	"BerthDescriptorsRunOut":         func(d *daemon, _ int) { d.fix["process_max_fds"] = 4 },
}

// read gives the series of one reading, by the daemon's own text.
func (d *daemon) read(t *testing.T) map[string]float64 {
	t.Helper()
	if d.down {
		return map[string]float64{`up`: 0}
	}
	answer := httptest.NewRecorder()
	d.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, values(families)...)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{`up`: 1}
	for _, s := range samples {
		v := float64(s.Value)
		if fixed, ok := d.fix[string(s.Metric[model.MetricNameLabel])]; ok {
			v = fixed
		}
		out[s.Metric.String()] = v
	}
	return out
}

func values[K comparable, V any](m map[K]V) (out []V) {
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// firing are the names of the rules that fire at any time while trouble goes on, from the
// tenth minute on; nil is no trouble.
func firing(t *testing.T, trouble func(*daemon, int)) map[string]string {
	t.Helper()
	storage := teststorage.New(t)
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: exprs})
	all, d, fired := load(t), newDaemon(), map[string]string{}
	start := time.Unix(1_800_000_000, 0)
	for step := range int(watched / interval) {
		now := start.Add(time.Duration(step) * interval)
		d.quiet(step)
		if trouble != nil && now.Sub(start) >= 10*time.Minute {
			trouble(d, step)
		}
		app := storage.Appender(t.Context())
		for name, v := range d.read(t) {
			metric, err := exprs.ParseMetric(name)
			if err != nil {
				t.Fatal(err)
			}
			b := labels.NewBuilder(metric)
			b.Set("job", "berth").Set("instance", "node-1")
			if _, err := app.Append(0, b.Labels(), now.UnixMilli(), v); err != nil {
				t.Fatal(err)
			}
		}
		if err := app.Commit(); err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			if _, err := r.Eval(t.Context(), 0, now, rules.EngineQueryFunc(engine, storage), nil, 0); err != nil {
				t.Fatalf("%s: %v", r.Name(), err)
			}
			for _, a := range r.ActiveAlerts() {
				if a.State == rules.StateFiring {
					fired[r.Name()] = a.Annotations.String()
				}
			}
		}
	}
	return fired
}

var exprs = parser.NewParser(parser.Options{})

func load(t *testing.T) (out []*rules.AlertingRule) {
	t.Helper()
	groups, errs := rulefmt.ParseFile(folder+"alerts.yaml", false, model.UTF8Validation, exprs, nil)
	if len(errs) > 0 {
		t.Fatal(errors.Join(errs...))
	}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			expr, err := exprs.ParseExpr(r.Expr)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, rules.NewAlertingRule(r.Alert, expr, time.Duration(r.For), time.Duration(r.KeepFiringFor),
				labels.FromMap(r.Labels), labels.FromMap(r.Annotations), labels.EmptyLabels(), "", true, nil))
		}
	}
	return out
}

// Each alert fires when it is provoked, its text can be read, and no alert fires on a node
// that is well.
func TestEachAlertFires(t *testing.T) {
	if fired := firing(t, nil); len(fired) > 0 {
		t.Errorf("on a node that is well these fire: %v", fired)
	}
	for _, r := range load(t) {
		trouble := troubles[r.Name()]
		if trouble == nil {
			t.Errorf("no test provokes %s", r.Name())
			continue
		}
		fired := firing(t, trouble)
		text, ok := fired[r.Name()]
		if !ok {
			t.Errorf("%s does not fire; these do: %v", r.Name(), fired)
		}
		if strings.Contains(text, "<error") || strings.Contains(text, "<no value>") {
			t.Errorf("%s says %s", r.Name(), text)
		}
	}
}

// The dashboard asks for nothing that the daemon does not have.
func TestDashboard(t *testing.T) {
	data, err := os.ReadFile(folder + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	d := newDaemon()
	d.state = metrics.State{Pods: map[string]int{"ready": 1}, Containers: map[string]int{"running": 1}, Streams: map[string]int{"exec": 0}}
	for _, trouble := range troubles {
		trouble(d, 1)
	}
	d.quiet(0)
	d.Received("docker.io", 1)
	d.down = false
	have := map[string]bool{}
	for name := range d.read(t) {
		have[regexp.MustCompile(`^[a-z_]+`).FindString(name)] = true
	}
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			expr, err := exprs.ParseExpr(strings.NewReplacer("$__rate_interval", "5m").Replace(target.Expr))
			if err != nil {
				t.Errorf("panel %q: %v", panel.Title, err)
				continue
			}
			parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
				if s, ok := n.(*parser.VectorSelector); ok && !have[s.Name] {
					t.Errorf("panel %q asks for %s, which berthd does not have", panel.Title, s.Name)
				}
				return nil
			})
		}
	}
	if len(board.Panels) < 5 {
		t.Errorf("the dashboard has %d panels", len(board.Panels))
	}
}
