package shimv2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"

	"berth/oci/shimapi"
)

// ErrOptions is wrapped by the error of [Describe] about options that no pod can be run with.
var ErrOptions = errors.New("the options are not understood")

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
		return errors.Join(ErrOptions, err)
	}
	input, err := proto.Marshal(options)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout) // whoever asks may be gone
	defer cancel()
	output, err := output(ctx, groupCommand(ctx, r.Shim, "-info"), input, nil)
	if err != nil {
		return fmt.Errorf("%s -info: %w", r.Shim, err)
	}
	var info types.RuntimeInfo
	if err := proto.Unmarshal(output, &info); err != nil {
		return fmt.Errorf("%s -info says %.200q, which is not what it can do: %w", r.Shim, output, err)
	}
	told := info.GetFeatures().GetValue()
	if len(told) == 0 {
		told = []byte("{}")
	}
	if !json.Valid(told) {
		return fmt.Errorf("%s -info: the features %.200q are not JSON", r.Shim, told)
	}
	_, err = answer.Write(told)
	return err
}
