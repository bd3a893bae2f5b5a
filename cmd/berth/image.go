package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/cmd/berth/explain"
	"berth/cmd/berth/printable"
)

func listImages(ctx context.Context, env environment, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%w: image list takes no argument", errUsage)
	}
	list, err := env.client.Images().ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	return writeImages(env.out, list.GetImages())
}

func writeImages(out io.Writer, images []*runtimeapi.Image) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tSIZE")
	for _, img := range images {
		names := img.GetRepoTags()
		if len(names) == 0 {
			names = append(img.GetRepoDigests(), "-")[:1]
		}
		for _, name := range names {
			fmt.Fprintf(w, "%s\t%.19s\t%s\n", printable.Text(name), printable.Text(img.GetId()), explain.Bytes(img.GetSize()))
		}
	}
	return w.Flush()
}

func pullImage(ctx context.Context, env environment, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%w: image pull takes one reference", errUsage)
	}
	id, err := env.client.Pull(ctx, args[0], env.progress.line)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, printable.Text(id))
	return err
}

func loadImages(ctx context.Context, env environment, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%w: image load takes one file", errUsage)
	}
	archive, total := os.Stdin, int64(0)
	if args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return err
		}
		defer f.Close()
		archive = f
	}
	if st, err := archive.Stat(); err == nil && st.Mode().IsRegular() {
		total = st.Size()
	}
	names, err := env.client.Load(ctx, countingReader{archive, env.progress.count("archive", total)}, env.progress.line)
	if err != nil {
		return err
	}
	for _, name := range names { // the archive's words
		if _, err := fmt.Fprintln(env.out, printable.Text(name)); err != nil {
			return err
		}
	}
	return nil
}

func exportImages(ctx context.Context, env environment, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("%w: image export takes a file and the images to put in it", errUsage)
	}
	passed := env.progress.count("archive", 0)
	write := func(w io.Writer) error {
		defer passed(0)
		return env.client.Export(ctx, args[1:], countingWriter{w, passed})
	}
	if args[0] == "-" {
		return write(env.out)
	}
	return writeWhole(args[0], write)
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
		return fmt.Errorf("%w: the check of the store takes --repair or nothing", errUsage)
	}
	raw, err := env.client.Check(ctx, repair)
	if err != nil {
		return err
	}
	var report struct{ Problems []struct{ Repaired bool } }
	if err := json.Unmarshal(raw, &report); err != nil {
		return fmt.Errorf("the daemon's report: %w", err)
	}
	if err := writeDocument(env.out, raw); err != nil {
		return err
	}
	left := 0
	for _, p := range report.Problems {
		if !p.Repaired {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d problems; with --repair what is broken is dropped, to be pulled again", left)
	}
	return nil
}
