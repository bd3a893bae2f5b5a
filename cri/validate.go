package cri

import (
	"math"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of what a request may hold, in bytes. Kubernetes' own are smaller (a
// name 253, annotations 256 KiB); these keep records and lists within reason.
const (
	maxName        = 1 << 10
	maxID          = 256
	maxAnnotations = 512 << 10
)

// checkID refuses empty and overlong IDs. Whether there is such an ID is for the domain
// to look up.
func checkID(field, id string) error {
	switch {
	case id == "":
		return invalid("%s is empty; give the ID or an unambiguous prefix of it", field)
	case len(id) > maxID:
		return invalid("%s is %d bytes long; an ID has 64 characters", field, len(id))
	}
	return nil
}

func checkName(field, name string) error {
	if len(name) > maxName {
		return invalid("%s is %d bytes long; use at most %d", field, len(name), maxName)
	}
	if strings.ContainsAny(name, "\x00\n/") {
		return invalid("%s contains a slash, a line break or a zero byte; take it out", field)
	}
	return nil
}

// checkPodName is of what travels to the network's plugins in CNI_ARGS, a list
// NAME=VALUE;NAME=VALUE. They refuse a broken one when the pod goes as well: it
// could never be removed.
func checkPodName(field, name string) error {
	if strings.ContainsAny(name, ";=") {
		return invalid("%s contains a semicolon or an equals sign, which network plugins can't be told; take it out", field)
	}
	return checkName(field, name)
}

func checkPairs(field string, pairs map[string]string) error {
	size := 0
	for k, v := range pairs {
		size += len(k) + len(v)
	}
	if size > maxAnnotations {
		return invalid("%s take %d bytes; use at most %d in all", field, size, maxAnnotations)
	}
	return nil
}

// seconds turns a request's timeout into a duration; 0 stays 0.
func seconds(n int64) (time.Duration, error) {
	if n < 0 {
		return 0, invalid("timeout is %d seconds; give 0 or more", n)
	}
	if n > int64(math.MaxInt64/time.Second) {
		return math.MaxInt64, nil
	}
	return time.Duration(n) * time.Second, nil
}

func firstError(checks ...error) error {
	for _, err := range checks {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkPodConfig looks at the form of a pod's configuration, as [checkContainerConfig]
// does.
func checkPodConfig(c *runtimeapi.PodSandboxConfig) error {
	if c == nil {
		return invalid("config is missing; give the pod sandbox's configuration")
	}
	m := c.GetMetadata()
	if m.GetName() == "" {
		return invalid("config.metadata.name is empty; give the pod's name")
	}
	return firstError(
		checkPodName("config.metadata.name", m.GetName()),
		checkPodName("config.metadata.namespace", m.GetNamespace()),
		checkPodName("config.metadata.uid", m.GetUid()),
		checkPairs("config.labels", c.GetLabels()),
		checkPairs("config.annotations", c.GetAnnotations()),
	)
}
