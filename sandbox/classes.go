package sandbox

import (
	"maps"
	"slices"
	"strings"
)

// classAnnotations are the keys and, with a dot at the end, the beginnings of keys by which
// both peers choose a class of cache and memory bandwidth (RDT) or of block I/O. They are
// those of goresctrl, the library that the peers have of it; of each three the first is for all
// containers of a pod, the second for one of them, the third a container's own.
var classAnnotations = []string{
	"rdt.resources.beta.kubernetes.io/pod", "rdt.resources.beta.kubernetes.io/container.", "io.kubernetes.cri.rdt-class",
	"blockio.resources.beta.kubernetes.io/pod", "blockio.resources.beta.kubernetes.io/container.", "io.kubernetes.cri.blockio-class",
}

// checkClasses refuses a class: berth has none, and without its class a container would
// use more than whoever chose it reckons with.
func checkClasses(annotations map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		for _, known := range classAnnotations {
			if key == known || strings.HasSuffix(known, ".") && strings.HasPrefix(key, known) {
				return failed(ErrUnsupported, "annotation %.256s asks for a class of RDT or block I/O, which this runtime does not have; leave it out and limit CPU, memory and cpuset instead", key)
			}
		}
	}
	return nil
}
