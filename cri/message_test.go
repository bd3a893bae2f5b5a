package cri

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A request that is larger than MaxMessage is refused before it is decoded, and one that is
// not is answered.
func TestMaxMessage(t *testing.T) {
	for most, works := range map[int]map[int]bool{
		0:        {15 << 20: true, 17 << 20: false},
		4 << 20:  {3 << 20: true, 5 << 20: false},
		20 << 20: {17 << 20: true, 21 << 20: false},
	} {
		opt := options(newFake())
		opt.MaxMessage = most
		_, conn := serve(t, opt)
		for size, want := range works {
			_, err := runtimeapi.NewRuntimeServiceClient(conn).Version(t.Context(), &runtimeapi.VersionRequest{Version: strings.Repeat("x", size)})
			if (err == nil) != want || !want && status.Code(err) != codes.ResourceExhausted {
				t.Errorf("a request of %d bytes where at most %d are taken: %v", size, most, err)
			}
		}
	}
}
