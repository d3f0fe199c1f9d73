package sim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/dbake/dbake/bench/gen"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

// Main is the sim command.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var f settings
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&f.instance, "instance", "", "plan one instance `FILE`")
	flags.StringVar(&f.dir, "dir", "", "compare strategies on all instances below `DIR`")
	flags.StringVar(&f.strategy, "strategy", partition.DefaultStrategy, "strategy `NAME`, or all")
	flags.BoolVar(&f.json, "json", false, "print JSON: with one strategy the result in the "+schedfile.Format+" format, else rows")
	flags.StringVar(&f.plot, "plot", "", "where to write the SVG plot of gap by strategy; with -dir the default is gap.svg")
	flags.IntVar(&f.options.Budget, "budget", 0, "tasks to schedule while searching; 0 = the strategy's default")
	flags.Uint64Var(&f.options.Seed, "seed", 0, "seed of all random choices")
	flags.StringVar(&f.duplicates, "duplicates", "any", "`RULE` for vertices that several targets share: any may be executed on several nodes; never none; reproducible only those that cost less than a second, as copies do")
	flags.StringVar(&f.bandwidths, "compare-duplicates", "", "compare the rules for duplicates at these bandwidths, a `LIST` in bytes per second")
	flags.BoolVar(&f.run, "run", false, "run the plan on virtual nodes, with and without stealing")
	flags.BoolVar(&f.conditions.Errors, "errors", false, "run with costs misjudged by a random factor in [0.3, 3]")
	flags.Float64Var(&f.conditions.Lose, "lose", 0, "run and lose the busiest node after this `share` of the makespan")
	flags.Float64Var(&f.conditions.Sag, "sag", 0, "run and let the busiest node fall to a fifth of its speed after this `share` of the makespan")
	flags.Float64Var(&f.conditions.Slow, "slow", 0, "run with transfers that take this many `times` as long")
	flags.IntVar(&f.links, "links", 0, "let the registry carry `N` transfers at full bandwidth at once in each direction, and compare plans that know of it with plans that do not; 0 = no limit")
	flags.DurationVar(&f.late, "late", 0, "run with all nodes but the first coming this `time` after the start: with new plans then, and in place of no stealing with that alone; the perfect plan knows when they come")
	flags.BoolVar(&f.conditions.Assumed, "assumed", false, "run with nodes whose slots the scheduler does not keep to")
	flags.StringVar(&f.generate, "generate", "", "write random instances of all classes below `DIR` instead")
	flags.IntVar(&f.count, "count", 1, "instances of each class and size to generate")
	if err := flags.Parse(args); err != nil {
		return err
	}
	f.conditions.Seed = f.options.Seed
	f.run = f.run || f.conditions.Errors || f.conditions.Assumed || f.conditions.Lose > 0 || f.conditions.Sag > 0 || f.conditions.Slow > 0
	switch {
	case f.links < 0:
		return errors.New("-links must not be negative")
	case flags.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case f.generate != "":
		return generate(f.generate, f.count, f.options.Seed)
	case (f.instance == "") == (f.dir == ""):
		return errors.New("give either -instance FILE or -dir DIR")
	}
	return f.compare(ctx, stdout, stderr)
}

type settings struct {
	instance, dir, strategy string
	json, run               bool
	plot                    string
	options                 partition.Options
	conditions              Conditions
	generate                string
	count                   int
	duplicates, bandwidths  string
	late                    time.Duration
	links                   int
}

func (f settings) compare(ctx context.Context, stdout, stderr io.Writer) error {
	strategies := partition.Strategies()
	if f.strategy != "all" {
		s, err := partition.Lookup(f.strategy)
		if err != nil {
			return err
		}
		strategies = []partition.Strategy{s}
	}
	var instances []schedfile.Instance
	var err error
	if f.dir != "" {
		instances, err = ReadDir(f.dir)
	} else {
		instances = make([]schedfile.Instance, 1)
		instances[0], err = ReadInstance(f.instance)
	}
	if err != nil {
		return err
	}
	if f.bandwidths != "" {
		return f.compareDuplicates(ctx, instances, strategies[0], stdout)
	}
	var rows []Row
	for _, in := range instances {
		if in.Problem, err = Bind(in.Problem, f.duplicates); err != nil {
			return err
		}
		if f.links > 0 {
			in.Problem.Network.Links = f.links
		}
		for _, s := range strategies {
			if s.Name() == "exact" && len(strategies) > 1 && len(in.Problem.Targets) > smallTargets {
				continue
			}
			row, plan, err := Measure(ctx, in, s, f.options)
			if err != nil {
				return err
			}
			if in.Problem.Network.Links > 0 {
				if row.Contest, err = f.contest(ctx, in, s, plan); err != nil {
					return fmt.Errorf("%s: %w", in.Name, err)
				}
			}
			if f.late > 0 {
				out, ok, err := TryLate(ctx, in.Problem, f.late, s, f.options)
				if err != nil {
					return fmt.Errorf("%s: %w", in.Name, err)
				}
				if ok {
					row.Ran = &out
				}
			}
			if f.run {
				if plan, err = f.try(ctx, in, s, plan, &row); err != nil {
					return fmt.Errorf("%s: %w", in.Name, err)
				}
			}
			rows = append(rows, row)
			if f.json && f.dir == "" && len(strategies) == 1 {
				return json.NewEncoder(stdout).Encode(schedfile.NewResult(in.Problem, plan))
			}
		}
		if f.dir != "" {
			fmt.Fprintf(stderr, "%s\n", in.Name)
		}
	}
	Bounds(rows)
	return f.print(rows, stdout, stderr)
}

// smallTargets is up to how many targets "all" includes exact, which takes minutes
// on larger instances.
const smallTargets = 12

// try runs the plan under the conditions and returns the plan that resulted.
func (f settings) try(ctx context.Context, in schedfile.Instance, s partition.Strategy, plan partition.Plan, row *Row) (partition.Plan, error) {
	seen, perfect := in.Problem, float64(plan.Schedule.Makespan)
	var factor []float64
	if f.conditions.Errors {
		var err error
		seen, factor = Misjudge(in.Problem, f.conditions.Seed)
		if plan, err = s.Plan(ctx, seen, f.options); err != nil {
			return plan, err
		}
	}
	out, err := Try(seen, plan, f.conditions.world(seen, plan, factor))
	if err != nil {
		return plan, err
	}
	out.Perfect = perfect
	row.Ran = &out
	return resulting(in.Problem, plan, out.node)
}

func (f settings) print(rows []Row, stdout, stderr io.Writer) error {
	if f.json {
		e := json.NewEncoder(stdout)
		for _, r := range rows {
			if err := e.Encode(r); err != nil {
				return err
			}
		}
	} else if f.dir != "" {
		if err := WriteTable(stdout, rows); err != nil {
			return err
		}
		if f.run || f.late > 0 {
			writeRuns(stdout, rows)
		}
		writeContests(stdout, rows)
	} else {
		for _, r := range rows {
			WriteRow(stdout, r)
		}
		writeContests(stdout, rows)
	}
	if f.plot == "" && f.dir != "" {
		f.plot = "gap.svg"
	}
	if f.plot == "" {
		return nil
	}
	w, err := os.Create(f.plot)
	if err != nil {
		return err
	}
	if err := WritePlot(w, rows, "Gap to the lower bound by strategy"); err != nil {
		w.Close()
		return err
	}
	fmt.Fprintf(stderr, "plot: %s\n", f.plot)
	return w.Close()
}

// generate writes count small and medium instances of every class.
func generate(dir string, count int, seed uint64) error {
	for _, size := range []gen.Size{gen.Small, gen.Medium} {
		sub := filepath.Join(dir, size.Name)
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for i, class := range gen.Classes() {
			for k := range count {
				in, err := gen.New(class, size, seed+uint64(1000*i+k))
				if err != nil {
					return err
				}
				f, err := os.Create(filepath.Join(sub, in.Name+".json"))
				if err != nil {
					return err
				}
				if err := schedfile.Write(f, in); err != nil {
					f.Close()
					return err
				}
				if err := f.Close(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
