package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"berth/cmd/berth/explain"
	"berth/cmd/berth/printable"
)

func explainOne(_ context.Context, env environment, args []string) error {
	args, asJSON := takeJSON(args)
	if len(args) != 1 {
		return fmt.Errorf("%w: explain takes one pod or container", errUsage)
	}
	pods, err := openRecords(env)
	if err != nil {
		return err
	}
	report, err := pods.Explain(args[0])
	if errors.Is(err, explain.ErrNotFound) {
		return fmt.Errorf("%w; the records of %s were searched, --root and --state name those of another daemon", err, env.cfg.Root)
	}
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(env.out, report)
	}
	return report.Write(env.out)
}

func auditAll(_ context.Context, env environment, args []string) error {
	args, asJSON := takeJSON(args)
	if len(args) > 0 {
		return fmt.Errorf("%w: audit takes no argument but --json", errUsage)
	}
	pods, err := openRecords(env)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(env.out, pods.Audit())
	}
	return explain.WriteAudit(env.out, pods.Audit())
}

// takeJSON takes --json out of args, wherever it stands.
func takeJSON(args []string) (rest []string, asJSON bool) {
	i := slices.Index(args, "--json")
	if i < 0 {
		return args, false
	}
	return slices.Delete(slices.Clone(args), i, i+1), true
}

func openRecords(env environment) (*explain.Pods, error) {
	pods, err := explain.Open(env.cfg.Root, env.cfg.State)
	if err != nil {
		return nil, err
	}
	for _, broken := range pods.Broken {
		fmt.Fprintln(os.Stderr, "berth: a record can't be read:", printable.Text(broken))
	}
	return pods, nil
}

func writeJSON(w io.Writer, v any) error {
	document, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeDocument(w, document)
}

// writeDocument prints JSON that a terminal may be shown.
func writeDocument(w io.Writer, document []byte) error {
	_, err := fmt.Fprintf(w, "%s\n", printable.JSON(document))
	return err
}
