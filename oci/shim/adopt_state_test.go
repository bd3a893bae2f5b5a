package shim

import (
	"os"
	"path/filepath"
	"testing"

	"berth/oci/shimapi"
)

// A state that was read and is none is of a container that is lost, as one that is missing. One
// that can't be read may be readable later.
func TestAStateThatIsNoneIsALoss(t *testing.T) {
	for content, want := range map[string]shimapi.Kind{
		"missing": shimapi.KindNotFound,
		"":        shimapi.KindNotFound,
		`{"id":`:  shimapi.KindNotFound,
		`[1]`:     shimapi.KindNotFound,
		"unread":  shimapi.KindInternal,
	} {
		cs := containers{state: stateDir(t.TempDir())}
		file := filepath.Join(string(cs.state), "c", "state.json")
		err := os.Mkdir(filepath.Dir(file), 0o700)
		switch {
		case err != nil || content == "missing":
		case content == "unread":
			err = os.Mkdir(file, 0o700) // which read(2) refuses
		default:
			err = os.WriteFile(file, []byte(content), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := cs.takeOver(&container{id: "c"}, shimapi.AdoptRequest{}, nil); err == nil || asWireError(err).Kind != want {
			t.Errorf("%q: the error is %v, want one of the kind %s", content, err, want)
		}
	}
}
