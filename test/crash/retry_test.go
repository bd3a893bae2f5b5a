package crash

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
	"berth/test/node"
)

// leavings are the ways in which a client goes away in the middle of a call.
var leavings = map[string]struct {
	leave func(cancel context.CancelFunc, own *client.Client)
	code  codes.Code
}{
	"cancels": {func(cancel context.CancelFunc, _ *client.Client) { cancel() }, codes.Canceled},
	"dies":    {func(_ context.CancelFunc, own *client.Client) { _ = own.Close() }, codes.Canceled},
}

// client makes a connection of its own, as another process would have.
func (d *daemon) client() *client.Client {
	d.t.Helper()
	c, err := dial(d.Endpoint)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = c.Close() })
	return c
}

// abandoned makes a call whose client goes away once it is under way, and retries
// it twice: while the first call runs and after it. All three are one.
type abandoned struct {
	call     func(context.Context, *client.Client) (string, error)
	underWay func() // returns when the call is where it can't go on
	goOn     func() // lets it
}

func (d *daemon) abandon(how string, a abandoned) string {
	d.t.Helper()
	ctx, cancel := context.WithCancel(within(d.t))
	defer cancel()
	first := make(chan error, 1)
	own := d.client()
	go func() {
		_, err := a.call(ctx, own)
		first <- err
	}()
	a.underWay()
	l := leavings[how]
	l.leave(cancel, own)
	if err := <-first; status.Code(err) != l.code {
		d.t.Errorf("the client that %s hears %v", how, err)
	}
	eventually(d.t, "the daemon knows that the client is gone", func() bool { return d.logged("client gave up") })
	type answer struct {
		id  string
		err error
	}
	second := make(chan answer, 1)
	go func() {
		id, err := a.call(within(d.t), d.client())
		second <- answer{id, err}
	}()
	select {
	case got := <-second:
		d.t.Errorf("the retry did not wait for the first call: %+v", got)
	case <-time.After(50 * time.Millisecond): // it waits
	}
	a.goOn()
	got := <-second
	if got.err != nil || got.id == "" {
		d.t.Fatalf("retry: %q, %v", got.id, got.err)
	}
	if id, err := a.call(within(d.t), d.client()); err != nil || id != got.id {
		d.t.Errorf("retry after the first call has ended: %q, %v; want %q", id, err, got.id)
	}
	return got.id
}

func TestRetriedRunPodSandbox(t *testing.T) {
	for how := range leavings {
		t.Run(how, func(t *testing.T) {
			d, g := withGates(t)
			d.watch()
			before, calls := d.facts(), g.calls("ADD")
			gt := g.shut("before-ADD")
			c := d.podConfig("retried")
			id := d.abandon(how, abandoned{
				call: func(ctx context.Context, own *client.Client) (string, error) { return own.RunPod(ctx, c) },
				underWay: func() {
					gt.await()
					gt.remove()
				},
				goOn: gt.open,
			})
			if all := d.find(c); len(all) != 1 || all[0].GetId() != id || all[0].GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
				t.Errorf("pods: %v", all)
			}
			if n := g.calls("ADD") - calls; n != 1 {
				t.Errorf("the network was attached %d times", n)
			}
			p := d.podOf(id, c)
			p.IP = p.Status().GetNetwork().GetIp()
			p.works()
			p.Remove()
			d.settled("the pod is removed", before)
			d.unnoticed()
		})
	}
}

func TestRetriedCreateContainer(t *testing.T) {
	for how := range leavings {
		t.Run(how, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true})
			d.watch()
			p := d.pod("retried")
			p.works()
			before := d.facts()
			req := p.Request(client.Shell("c", "echo once; sleep 1000"))
			shim := d.shimPID()
			t.Cleanup(func() { _ = unix.Kill(shim, unix.SIGCONT) })
			if err := unix.Kill(shim, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			id := d.abandon(how, abandoned{
				call: func(ctx context.Context, own *client.Client) (string, error) { return own.CreateContainer(ctx, req) },
				underWay: func() {
					eventually(t, "the container has a record", func() bool {
						found, _ := filepath.Glob(filepath.Join(d.Root, "pods", p.ID, "containers", "*", "container.json"))
						return len(found) == 1
					})
				},
				goOn: func() {
					if err := unix.Kill(shim, unix.SIGCONT); err != nil {
						t.Fatal(err)
					}
				},
			})
			if all := p.wantContainers(runtimeapi.ContainerState_CONTAINER_CREATED); len(all) != 1 {
				t.Errorf("containers: %v", all)
			}
			c := p.ctr(id)
			c.start()
			c.saidOnce()
			c.Remove()
			d.settled("the container is removed", before)
			p.Remove()
			d.unnoticed()
		})
	}
}

// shimPID is the process of the only shim.
func (d *daemon) shimPID() int {
	d.t.Helper()
	var identity struct {
		PID int `json:"pid"`
	}
	shims := d.shims()
	if len(shims) != 1 {
		d.t.Fatalf("shims: %v", shims)
	}
	data, err := os.ReadFile(filepath.Join(d.State, "shims", shims[0], "shim.json"))
	if err == nil {
		err = json.Unmarshal(data, &identity)
	}
	if err != nil || identity.PID <= 1 {
		d.t.Fatalf("shim.json: %q, %v", data, err)
	}
	return identity.PID
}

func TestRetriedPullImage(t *testing.T) {
	for how := range leavings {
		t.Run(how, func(t *testing.T) {
			d := start(t, node.Options{Tmpfs: true})
			before := d.facts()
			first := images.Blobs()
			held := holdBlob(2)
			id := d.abandon(how, abandoned{
				call:     func(ctx context.Context, own *client.Client) (string, error) { return own.Pull(ctx, layered) },
				underWay: func() { <-held.reached },
				goOn:     held.release,
			})
			if n := images.Blobs() - first; n != 4 {
				t.Errorf("%d blobs were fetched, the image has a configuration and three layers", n)
			}
			if got := d.image(layered); got.GetId() != id {
				t.Errorf("the image is %q, the retry said %q", got.GetId(), id)
			}
			d.wholeImage()
			d.removeImage(layered)
			d.settled("the image is removed", before)
		})
	}
}
