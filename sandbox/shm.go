package sandbox

import (
	"cmp"
	"regexp"
	"strconv"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ShmAnnotation on a pod asks for a size of its /dev/shm, such as 256Mi.
const ShmAnnotation = "berth/shm-size"

const (
	// defaultShmSize is what both peers give, in bytes.
	defaultShmSize = 64 << 20
	// minShmSize is a page; the kernel rounds up to one.
	minShmSize = 4 << 10
)

var shmQuantity = regexp.MustCompile(`^([0-9]{1,9})(Ki|Mi|Gi)?$`)

// shmSize is the size of a pod's /dev/shm in bytes: the node's, 0 being the peers', or what
// the pod asks for. A tmpfs is memory that no OOM kill gives back, so a pod gets more than
// the node's size only within its memory limit, to which the pages are charged.
func shmSize(cfg *runtimeapi.PodSandboxConfig, node int64) (int64, error) {
	node = cmp.Or(node, defaultShmSize)
	asked, ok := cfg.GetAnnotations()[ShmAnnotation]
	if !ok {
		return node, nil
	}
	m := shmQuantity.FindStringSubmatch(asked)
	if m == nil {
		return 0, failed(ErrInvalid, "annotation %s is %.40q; give a size such as 256Mi", ShmAnnotation, asked)
	}
	n, _ := strconv.ParseInt(m[1], 10, 64) // nine digits
	n <<= map[string]int{"Ki": 10, "Mi": 20, "Gi": 30}[m[2]]
	limit := cfg.GetLinux().GetResources().GetMemoryLimitInBytes()
	switch {
	case n < minShmSize:
		return 0, failed(ErrInvalid, "annotation %s is %.40q; give at least a page, 4Ki", ShmAnnotation, asked)
	case n > node && limit <= 0:
		return 0, failed(ErrInvalid, "annotation %s asks for %.40q, more than this node's shm_size of %d bytes: that needs a memory limit of each container of the pod, which shared memory counts against", ShmAnnotation, asked, node)
	case n > node && n > limit:
		return 0, failed(ErrInvalid, "annotation %s asks for %.40q, more than the pod's memory limit of %d bytes, which shared memory counts against", ShmAnnotation, asked, limit)
	}
	return n, nil
}
