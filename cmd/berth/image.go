package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func listImages(ctx context.Context, env environment, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: image list takes no argument", errUsage)
	}
	list, err := env.client.Images().ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(env.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE")
	for _, img := range list.GetImages() {
		names := img.GetRepoTags()
		if len(names) == 0 {
			names = append(img.GetRepoDigests(), "-")[:1]
		}
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%.19s\t%s\n", name, img.GetId(), size(img.GetSize()))
		}
	}
	return w.Flush()
}

// size shows bytes for a person to read.
func size(bytes uint64) string {
	const unit = 1024
	value, prefix := float64(bytes), ""
	for _, p := range []string{"Ki", "Mi", "Gi", "Ti"} {
		if value < unit {
			break
		}
		value, prefix = value/unit, p
	}
	return fmt.Sprintf("%.4g %sB", value, prefix)
}

func pullImage(ctx context.Context, env environment, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%w: image pull takes one reference", errUsage)
	}
	id, err := env.client.Pull(ctx, args[0], env.verbose)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, id)
	return err
}

func loadImages(ctx context.Context, env environment, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%w: image load takes one file", errUsage)
	}
	archive := os.Stdin
	if args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		archive = f
	}
	names, err := env.client.Load(ctx, archive, env.verbose)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, strings.Join(names, "\n"))
	return err
}

func exportImages(ctx context.Context, env environment, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%w: image export takes a file and the images to put in it", errUsage)
	}
	if args[0] == "-" {
		return env.client.Export(ctx, args[1:], env.out)
	}
	return writeWhole(args[0], func(w io.Writer) error { return env.client.Export(ctx, args[1:], w) })
}

// writeWhole makes file of what write gives, or leaves what was there when that fails.
func writeWhole(file string, write func(io.Writer) error) error {
	part := file + ".part"
	f, err := os.Create(part)
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(part, file)
	}
	if err != nil {
		os.Remove(part)
	}
	return err
}

func checkImages(ctx context.Context, env environment, args []string) error {
	repair := len(args) == 1 && args[0] == "--repair"
	if len(args) > 0 && !repair {
		return fmt.Errorf("%w: image check takes --repair or nothing", errUsage)
	}
	report, err := env.client.Check(ctx, repair)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, string(report))
	return err
}
