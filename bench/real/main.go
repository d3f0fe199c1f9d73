package real

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
)

type settings struct {
	project, bases string
	buildkitd, dir string
	nodes, slots   int
	rounds         int
	strategies     []string
	duplicates     plan.Duplicates
	json           bool
}

// Main is the real command.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var s settings
	var strategies, duplicates string
	flags := flag.NewFlagSet("real", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.project, "project", filepath.Join("testdata", "bakefiles", "storefront"), "build the default targets of the bake file in `DIR`")
	flags.StringVar(&s.bases, "bases", filepath.Join("testdata", "bases"), "make the base images with the bake file in `DIR`")
	flags.StringVar(&s.buildkitd, "buildkitd", os.Getenv("DBAKE_BUILDKITD"), "start nodes with this `FILE` (default: $DBAKE_BUILDKITD, else from PATH)")
	flags.StringVar(&s.dir, "dir", "", "keep the nodes' state in a new directory below `DIR` (default: /dev/shm where there is one, since daemons wait for their disk)")
	flags.IntVar(&s.nodes, "nodes", 2, "`number` of nodes")
	flags.IntVar(&s.slots, "slots", 2, "steps that a node is planned to run at once")
	flags.IntVar(&s.rounds, "rounds", 5, "cold builds of each strategy")
	flags.StringVar(&strategies, "strategy", partition.DefaultStrategy, "strategies `NAME,...` to compare; the first is what the others are compared with")
	flags.StringVar(&duplicates, "duplicates", "", "which steps several nodes may execute: `RULE` never, reproducible (default) or any")
	flags.BoolVar(&s.json, "json", false, "print one JSON object for each build instead of a table")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.duplicates, err = plan.ParseDuplicates(duplicates); err != nil {
		return err
	}
	s.strategies = strings.Split(strategies, ",")
	for _, name := range s.strategies {
		if _, err := partition.Lookup(name); err != nil {
			return err
		}
	}
	if s.buildkitd == "" {
		if s.buildkitd, err = exec.LookPath("buildkitd"); err != nil {
			return err
		}
	}
	for _, dir := range []*string{&s.project, &s.bases} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	parent := s.dir
	if info, err := os.Stat("/dev/shm"); parent == "" && err == nil && info.IsDir() {
		parent = "/dev/shm"
	}
	if s.dir, err = os.MkdirTemp(parent, "dbake-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	return s.measure(ctx, stdout, stderr)
}

// measure does all builds and prints what they took.
func (s settings) measure(ctx context.Context, stdout, stderr io.Writer) error {
	w, err := open(ctx, world{dir: s.dir, nodes: s.nodes, buildkitd: s.buildkitd, slots: s.slots, duplicates: s.duplicates}, s.bases)
	if err != nil {
		return err
	}
	build := func(strategy string) (Build, error) {
		if err := w.renew(); err != nil {
			return Build{}, err
		}
		p, r, err := w.build(ctx, s.project, nil, strategy)
		if err != nil {
			return Build{}, fmt.Errorf("strategy %s: %w", strategy, err)
		}
		return newBuild(p, r), nil
	}
	first, err := build(s.strategies[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "learned from a build of %s\n", first.Measured.Round(time.Millisecond))
	w.frozen = true
	var builds []Build
	for round := range s.rounds {
		for _, strategy := range s.strategies {
			b, err := build(strategy)
			if err != nil {
				return err
			}
			b.Round = round + 1
			builds = append(builds, b)
			fmt.Fprintf(stderr, "round %d, %s: predicted %s, took %s\n", b.Round, b.Strategy, b.Predicted.Round(time.Millisecond), b.Measured.Round(time.Millisecond))
			if s.json {
				if err := json.NewEncoder(stdout).Encode(b); err != nil {
					return err
				}
			}
		}
	}
	if s.json {
		return nil
	}
	return writeTable(stdout, builds, s.strategies)
}
