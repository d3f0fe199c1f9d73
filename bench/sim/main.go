package sim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

// Main is the sim command.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	flags.SetOutput(stderr)
	instance := flags.String("instance", "", "instance `FILE`")
	name := flags.String("strategy", partition.DefaultStrategy, "strategy, or all")
	asJSON := flags.Bool("json", false, "print the result in the dbake-sched/1 format")
	budget := flags.Int("budget", 0, "tasks to schedule while searching; 0 = default")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *instance == "" {
		return errors.New("-instance is missing")
	}
	f, err := os.Open(*instance)
	if err != nil {
		return err
	}
	defer f.Close()
	in, err := schedfile.Read(f)
	if err != nil {
		return err
	}
	strategies := partition.Strategies()
	if *name != "all" {
		s, err := partition.Lookup(*name)
		if err != nil {
			return err
		}
		strategies = []partition.Strategy{s}
	}
	for _, s := range strategies {
		began := time.Now()
		plan, err := s.Plan(ctx, in.Problem, partition.Options{Budget: *budget})
		if err != nil {
			return err
		}
		took := time.Since(began)
		if *asJSON {
			if err := json.NewEncoder(stdout).Encode(schedfile.NewResult(in.Problem, plan)); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(stdout, "%-12s makespan %.3f bound %.3f gap %.4f proven %v dup %.1f steps %d took %v\n", s.Name(),
			plan.Schedule.Makespan, plan.Bound.Max, plan.Gap(), plan.Proven, plan.Schedule.Duplicated, plan.Steps, took.Round(time.Millisecond))
	}
	return nil
}
