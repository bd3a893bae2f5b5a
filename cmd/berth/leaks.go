package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"berth/cmd/berth/leaks"
	"berth/cmd/berth/printable"
)

func leaksNode(env environment) *leaks.Node {
	bounds, _ := env.cfg.TimeBounds() // an error leaves the defaults; the daemon tells of it
	return &leaks.Node{
		Root: env.cfg.Root, State: env.cfg.State, CNIConfDir: env.cfg.CNIConfDir, CNIBinDirs: env.cfg.CNIBinDir,
		CNIDelTimeout: bounds.CNIDel,
	}
}

// checkLeaks fails when something belongs to nobody, and stays.
func checkLeaks(ctx context.Context, env environment, args []string) error {
	repair := slices.Equal(args, []string{"--repair"})
	if len(args) > 0 && !repair {
		return fmt.Errorf("%w: the check for leaks takes --repair or nothing", errUsage)
	}
	n := leaksNode(env)
	if repair {
		unlock, err := n.Lock()
		if errors.Is(err, leaks.ErrRunning) {
			return fmt.Errorf("%w; it removes what is surely its own as it starts: restart it, or stop it and repeat this", err)
		}
		if err != nil {
			return err
		}
		defer unlock()
	}
	found, err := n.Find()
	if perr := printThings(env.out, found); perr != nil {
		return errors.Join(err, perr)
	}
	if repair {
		return errors.Join(err, n.Repair(ctx, found))
	}
	if len(found) > 0 {
		err = errors.Join(err, fmt.Errorf("%d things belong to no pod, container or image", len(found)))
	}
	return err
}

func printThings(to io.Writer, things []leaks.Thing) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	for _, t := range things {
		fmt.Fprintf(w, "%s\t%s\t%s\n", t.Kind, printable.Text(t.Name), printable.Text(t.Why))
	}
	return w.Flush()
}

// wipeNode removes all pods and containers, and images when asked to, without berthd.
func wipeNode(ctx context.Context, env environment, args []string) error {
	yes, images := false, false
	for _, a := range args {
		switch a {
		case "--yes":
			yes = true
		case "--images":
			images = true
		default:
			return fmt.Errorf("%w: wipe takes --yes and --images", errUsage)
		}
	}
	n := leaksNode(env)
	unlock, err := n.Lock()
	if errors.Is(err, leaks.ErrRunning) {
		return fmt.Errorf("%w: stop it, or let it remove its pods: berth pods remove", err)
	}
	if err != nil {
		return err
	}
	defer unlock()
	all, err := n.Everything(images)
	if err != nil {
		return err
	}
	if err := printThings(env.out, all); err != nil {
		return err
	}
	if !yes && !agreed(env.out, os.Stdin) {
		return errors.New("nothing was removed")
	}
	return n.Wipe(ctx, all)
}

// agreed asks whether to go on.
func agreed(to io.Writer, from io.Reader) bool {
	fmt.Fprint(to, "Remove all of this? Type yes: ") //nolint:errcheck // without an answer nothing happens
	answer, _ := bufio.NewReader(io.LimitReader(from, 100)).ReadString('\n')
	return strings.TrimSpace(answer) == "yes"
}
