package cri

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"berth/cri/operator"
)

func TestOperator(t *testing.T) {
	f := newFake()
	s, conn := serve(t, options(f))
	client := operator.NewClient(conn)
	var lines []string
	progress := func(l string) { lines = append(lines, l) }

	size := 5<<20 + 3
	images, err := client.Load(t.Context(), bytes.NewReader(make([]byte, size)), progress)
	if err != nil || len(images) != 1 || images[0] != "loaded:5242883" || len(lines) != 1 {
		t.Errorf("load: %v, %v, %v", images, lines, err)
	}
	if _, err := client.Load(t.Context(), strings.NewReader("bad"), nil); status.Code(err) != codes.DataLoss {
		t.Errorf("load of a damaged archive: %v", err)
	}
	broken := errors.New("disk on fire")
	if _, err := client.Load(t.Context(), io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)), nil); !errors.Is(err, broken) {
		t.Errorf("load of an unreadable file: %v", err)
	}
	var out bytes.Buffer
	if err := client.Export(t.Context(), []string{"a", "b"}, &out); err != nil || out.Len() != 3<<20 {
		t.Errorf("export: %d bytes, %v", out.Len(), err)
	}
	if err := client.Export(t.Context(), nil, io.Discard); status.Code(err) != codes.InvalidArgument {
		t.Errorf("export of nothing: %v", err)
	}
	if id, err := client.Pull(t.Context(), "busybox", progress); err != nil || id != f.images[0].ID {
		t.Errorf("pull: %q, %v", id, err)
	}
	want := "loaded sha256:ff; layer 1 of 2: 0% of 0.0 MiB; layer 1 of 2: 50% of 0.0 MiB; layer 1 of 2: 100% of 0.0 MiB; commit busybox"
	if got := strings.Join(lines, "; "); got != want {
		t.Errorf("progress: %s", got)
	}
	report, err := client.Check(t.Context(), true)
	if err != nil || len(report) == 0 {
		t.Errorf("check: %s, %v", report, err)
	}
	info, err := client.Info(t.Context())
	if err != nil || !info.Ready || info.Version != "1.2.3" || info.Images != 1 || info.Streaming != s.StreamAddress() || len(info.RPCs) == 0 {
		t.Errorf("info: %+v, %v", info, err)
	}
}

func TestOperatorWithoutArchives(t *testing.T) {
	opt := options(newFake())
	opt.Archive = nil
	_, conn := serve(t, opt)
	if _, err := operator.NewClient(conn).Check(t.Context(), false); status.Code(err) != codes.Unimplemented {
		t.Error(err)
	}
}

func TestInfoBeforeRecovery(t *testing.T) {
	s, err := NewServer(options(newFake()))
	if err != nil {
		t.Fatal(err)
	}
	client := operator.NewClient(dial(t, s))
	if info, err := client.Info(t.Context()); err != nil || info.Ready {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := client.Pull(t.Context(), "x", nil); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
}

var _ Archive = fakeImages{}
