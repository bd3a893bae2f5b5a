package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// witness is a pod that lives as long as its phase. Its container counts in its log.
type witness struct {
	cri            *client.Client
	podID, counter string
	logDir         string
}

// watch makes the witness, whose image is that of all containers.
func (p *phase) watch(ctx context.Context) error {
	var err error
	if p.cri, err = p.dial(); err != nil {
		return err
	}
	if _, err := p.cri.PullMissing(ctx, client.Busybox); err != nil {
		return err
	}
	return p.watchAgain(ctx)
}

// watchAgain replaces the witness after its processes were lost.
func (p *phase) watchAgain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if p.podID != "" {
		if err := p.cri.RemovePod(ctx, p.podID); err != nil {
			return fmt.Errorf("the witness: %w", err)
		}
	}
	config, err := p.podConfig("witness", fmt.Sprint("witness-", p.bothDead.Load()), false)
	if err != nil {
		return err
	}
	p.logDir = config.GetLogDirectory()
	if p.podID, err = p.cri.RunPod(ctx, config); err != nil {
		return fmt.Errorf("the witness: %w", err)
	}
	p.counter, err = p.cri.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.podID, Config: client.Shell("counter", client.Counter), SandboxConfig: config,
	})
	if err == nil {
		err = p.cri.StartContainer(ctx, p.counter)
	}
	if err != nil {
		return fmt.Errorf("the witness: %w", err)
	}
	return nil
}

// answers waits until an exec in the witness succeeds: until then a shim's replacement
// holds nothing.
func (p *phase) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := p.cri.Exec(ctx, p.counter, "true")
		if err == nil {
			return nil
		}
		if st, serr := p.cri.ContainerStatus(ctx, p.counter); serr == nil && st.GetState() == exited {
			return fmt.Errorf("the witness has ended: %v", st)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the witness does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// checkWitness: it runs, and no line of its log is missing, whatever was killed.
func (p *phase) checkWitness(ctx context.Context) {
	if err := p.answers(ctx); err != nil {
		p.Problem("%v", err)
		return
	}
	data, err := os.ReadFile(filepath.Join(p.logDir, "counter.log"))
	if err == nil {
		err = countedOn(string(data))
	}
	if err != nil {
		p.Problem("the log of the witness: %v", err)
	}
}

// countedOn checks that a log has the lines of a counter, each once.
func countedOn(log string) error {
	next := 0
	for line := range strings.Lines(log) {
		_, rest, _ := strings.Cut(line, " ")
		number := -1
		if _, err := fmt.Sscanf(rest, "stdout F %d\n", &number); err != nil {
			return fmt.Errorf("line %q is torn", line)
		}
		if number != next {
			return fmt.Errorf("line %q, want %d", line, next)
		}
		next++
	}
	if next == 0 {
		return errors.New("it is empty")
	}
	return nil
}
