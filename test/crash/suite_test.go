package crash

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"berth/test/client"
	"berth/test/registry"
)

// Names under which the registry has its images.
const (
	busybox = client.Busybox
	layered = "docker.io/library/layered:latest" // three small layers
	volume  = "docker.io/library/volume:latest"  // for image volumes: /file
)

var patience = client.Patience

var seed = flag.Uint64("seed", 0, "of the random kills; 0: a new one")

// images serves every test.
var images *registry.Registry

func TestMain(m *testing.M) {
	startTracers()
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	if reason := cannotRun(); reason != "" {
		fmt.Println("crash tests are skipped:", reason)
		return 0
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	fmt.Printf("random kills: -seed %d\n", *seed)
	var err error
	if images, err = registry.Start(); err == nil {
		err = pushImages(images)
	}
	if err != nil {
		fmt.Println("crash:", err)
		return 1
	}
	code = m.Run()
	fmt.Print(points.String(), powerCutsSummary())
	if err := images.Close(); err != nil {
		fmt.Println("crash: after all tests:", err)
		return 1
	}
	return code
}

func cannotRun() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, bin := range []string{"berthd", "berth-shim"} {
		if _, err := os.Stat(filepath.Join("..", "..", "bin", bin)); err != nil {
			return "no bin/" + bin + ": run make build first"
		}
	}
	return ""
}

func pushImages(r *registry.Registry) error {
	box, err := registry.Busybox()
	if err != nil {
		return err
	}
	var layers []v1.Layer
	for i := range 3 {
		l, lerr := registry.Layer(registry.File{Path: fmt.Sprintf("/%d", i), Mode: 0o644, Data: make([]byte, 100_000)})
		layers, err = append(layers, l), errors.Join(err, lerr)
	}
	if err != nil {
		return err
	}
	img, err := registry.Build(v1.Config{Cmd: []string{"/none"}}, layers...)
	if err != nil {
		return err
	}
	l, err := registry.Layer(registry.File{Path: "/file", Mode: 0o644, Data: []byte("from the volume\n")})
	if err != nil {
		return err
	}
	vol, err := registry.Build(v1.Config{}, l)
	if err != nil {
		return err
	}
	return r.PushAll(map[string]registry.Image{busybox: box, layered: img, volume: vol})
}

// random gives each test its own numbers, whatever ran before it.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	var salt uint64
	for _, c := range []byte(t.Name()) {
		salt = salt*131 + uint64(c)
	}
	return rand.New(rand.NewPCG(*seed, salt))
}
