package shimv2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"

	"berth/oci/shimapi"
)

// Describe asks the shim of a [shimapi.Runtime], which it reads as JSON, what its runtime can
// do, and writes the answer: the features of the runtime-spec (features.md), {} when the
// runtime does not tell. The error is also about options that the shim does not know.
func Describe(ctx context.Context, question io.Reader, answer io.Writer) error {
	var r shimapi.Runtime
	if err := json.NewDecoder(question).Decode(&r); err != nil {
		return err
	}
	options, err := encodeOptions(r)
	if err != nil {
		return err
	}
	input, err := proto.Marshal(options)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, r.Shim, "-info")
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s -info: %w", r.Shim, errors.Join(err, errors.New(stderr.String())))
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(stdout.Bytes(), &info); err != nil {
		return fmt.Errorf("%s -info: %w", r.Shim, err)
	}
	told := info.GetFeatures().GetValue()
	if len(told) == 0 {
		told = []byte("{}")
	}
	_, err = answer.Write(told)
	return err
}
