// Package tool names what the build of critest needs, so that go.mod and go.sum
// keep it. critest's own package has only test files and can't be imported.
package tool

import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
