package peers

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dbake/dbake/partition"
)

// settings are the flags.
type settings struct {
	dbake, buildx, buildkitd string
	dir, bases               string
	storefront, isle         string
	nodes, slots, rounds     int
	cpus                     float64
	projects, scenarios      string
	strategies, contenders   string
	csv, json, chart, logs   string
	readme, with             string
	quick                    bool
	phases                   bool
}

// Main is the peers command.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	var s settings
	if err := s.parse(args, stderr); err != nil {
		return err
	}
	runs, err := earlier(s.with)
	if err != nil {
		return err
	}
	if s.rounds == 0 {
		if len(runs) == 0 {
			return errors.New("no rounds to measure, and none in files named by -with")
		}
		return s.write(stdout, runs)
	}
	m, err := s.measurement()
	if err != nil {
		return err
	}
	if m.dir, err = os.MkdirTemp(s.parent(), "dbake-peers-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(m.dir)) }()
	source, err := filepath.Abs(s.bases)
	if err != nil {
		return err
	}
	fmt.Fprintln(stderr, "making the base images")
	if m.bases, err = openBases(ctx, m.dir, source, s.dbake, m.programs, m.projects); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.bases.registry.close()) }()
	commit := commitHere()
	m.before = rounds(runs)
	m.report = func(r Run) {
		r.Commit = commit
		r.Round += m.before[r.Project]
		runs = append(runs, r)
		fmt.Fprintf(stderr, "%s, %s, %s, round %d: %.1f s, %d steps\n", r.Project, r.Scenario, r.Contender, r.Round, r.Seconds, r.Steps)
		if r.Error != "" {
			fmt.Fprintf(stderr, "FAILED: %s\n", r.Error)
		}
	}
	measured := m.measure(ctx) // what there is is written also when it was cut short
	return errors.Join(measured, s.write(stdout, runs))
}

func (s *settings) parse(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.dbake, "dbake", filepath.Join("bin", "dbake"), "the dbake `FILE` to measure")
	flags.StringVar(&s.buildx, "buildx", os.Getenv("BUILDX"), "compare with this docker-buildx `FILE` (default: $BUILDX; without one, only strategies of dbake are compared)")
	flags.StringVar(&s.buildkitd, "buildkitd", os.Getenv("DBAKE_BUILDKITD"), "start nodes with this `FILE` (default: $DBAKE_BUILDKITD, else bin/buildkitd)")
	flags.StringVar(&s.dir, "dir", "", "keep all state in a new directory below `DIR` (default: /dev/shm where there is one, since daemons wait for their disk)")
	flags.StringVar(&s.storefront, "storefront", filepath.Join("testdata", "bakefiles", "storefront"), "the storefront's `DIR`")
	flags.StringVar(&s.isle, "isle", filepath.Join("testdata", "bakefiles", "Islandora-Devops-isle-buildkit", "files"), "the `DIR` of isle-buildkit's bake file")
	flags.StringVar(&s.bases, "bases", filepath.Join("testdata", "bases"), "make the base images with the bake file in `DIR`")
	flags.IntVar(&s.nodes, "nodes", 4, "`number` of nodes")
	flags.IntVar(&s.slots, "slots", 2, "steps that a node runs at once, for projects on nodes with a limit")
	flags.Float64Var(&s.cpus, "cpus", 0, "processors that a node may use, as 0.5, where control groups allow it; 0 is no limit")
	flags.IntVar(&s.rounds, "rounds", 5, "rounds; contenders take turns within each")
	flags.StringVar(&s.projects, "project", "", "build only the projects `NAME,...`")
	flags.StringVar(&s.scenarios, "scenario", "", "measure only the scenarios `NAME,...`; cold is always among them")
	flags.StringVar(&s.contenders, "contender", "", "measure only the contenders `NAME;...`")
	flags.StringVar(&s.strategies, "strategy", partition.DefaultStrategy, "strategies `NAME,...` of dbake; the first is what all others are compared with")
	flags.StringVar(&s.csv, "csv", "", "write every build to `FILE` as CSV")
	flags.StringVar(&s.json, "json", "", "write every build to `FILE` as JSON, one object a line")
	flags.StringVar(&s.with, "with", "", "count in the rounds of these `FILE`s, which -json wrote, so that a run can be made in parts; with -rounds 0 nothing is measured")
	flags.StringVar(&s.chart, "chart", "", "draw the ratios in `FILE` (.svg or .png)")
	flags.StringVar(&s.readme, "readme", "", "put the tables into `FILE`, between the lines that mark their place, with the command, the commit and the machine")
	flags.StringVar(&s.logs, "logs", "", "keep what each build prints in a file in `DIR`, for dbake with the timings of its phases")
	flags.BoolVar(&s.phases, "phases", false, "print where the time of dbake went, too")
	flags.BoolVar(&s.quick, "quick", false, "one round of the small projects, without slow node and second cold build: under ten minutes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if s.cpus < 0 {
		return errors.New("-cpus must not be negative")
	}
	if s.nodes < 1 || s.slots < 1 || s.rounds < 0 {
		return errors.New("-nodes and -slots must be at least 1, and -rounds not negative")
	}
	if s.quick {
		s.rounds = 1
		if s.projects == "" {
			s.projects = "independent,small,services"
		}
		if s.scenarios == "" {
			s.scenarios = strings.Join([]string{cold, noChange, oneFile, replaced}, ",")
		}
	}
	return nil
}

// parent is the directory below which all state is kept.
func (s *settings) parent() string {
	if s.dir != "" {
		return s.dir
	}
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// measurement turns the flags into what is to be done.
func (s *settings) measurement() (*measurement, error) {
	m := &measurement{nodes: s.nodes, slots: s.slots, cpus: s.cpus, rounds: s.rounds, logs: s.logs, scenarios: map[string]bool{cold: true}}
	if s.logs != "" {
		if err := os.MkdirAll(s.logs, 0o755); err != nil {
			return nil, err
		}
	}
	if s.buildkitd == "" {
		s.buildkitd = filepath.Join("bin", "buildkitd")
	}
	for _, f := range []*string{&s.dbake, &s.buildkitd, &s.buildx} {
		if *f == "" {
			continue
		}
		path, err := exec.LookPath(*f)
		if err != nil {
			return nil, fmt.Errorf("%w; run make build buildkitd first", err)
		}
		if *f, err = filepath.Abs(path); err != nil {
			return nil, err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return nil, fmt.Errorf("%w; run make install-deps first", err)
	}
	m.programs = programs{buildkitd: s.buildkitd, runc: runc}
	wanted := func(list, sep, name string) bool {
		return list == "" || slices.Contains(strings.Split(list, sep), name)
	}
	for _, name := range scenarios {
		if wanted(s.scenarios, ",", name) {
			m.scenarios[name] = true
		}
	}
	storefront, err := filepath.Abs(s.storefront)
	if err != nil {
		return nil, err
	}
	isle, err := filepath.Abs(s.isle)
	if err != nil {
		return nil, err
	}
	all := projects(storefront, isle)
	for _, p := range all {
		if wanted(s.projects, ",", p.name) {
			m.projects = append(m.projects, p)
		}
	}
	strategies := strings.Split(s.strategies, ",")
	for _, name := range strategies {
		if _, err := partition.Lookup(name); err != nil {
			return nil, err
		}
	}
	for _, c := range contenders(s.dbake, s.buildx, strategies) {
		if wanted(s.contenders, ";", c.name) {
			m.contenders = append(m.contenders, c)
		}
	}
	if len(m.projects) == 0 || len(m.contenders) == 0 {
		return nil, errors.New("no project or contender of that name")
	}
	return m, nil
}

// earlier returns the runs in files that -json wrote. Their rounds go on from file to file.
func earlier(files string) ([]Run, error) {
	var runs []Run
	for name := range strings.SplitSeq(files, ",") {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		more, err := readJSON(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		after := rounds(runs)
		for _, r := range more {
			r.Round += after[r.Project]
			runs = append(runs, r)
		}
	}
	return runs, nil
}

// rounds returns how many rounds there are of each project.
func rounds(runs []Run) map[string]int {
	last := map[string]int{}
	for _, r := range runs {
		last[r.Project] = max(last[r.Project], r.Round)
	}
	return last
}

func readJSON(r io.Reader) ([]Run, error) {
	var runs []Run
	for dec := json.NewDecoder(r); ; {
		var run Run
		switch err := dec.Decode(&run); {
		case errors.Is(err, io.EOF):
			return runs, nil
		case err != nil:
			return nil, err
		}
		runs = append(runs, run)
	}
}

// write prints the tables and writes the files that were asked for.
func (s *settings) write(stdout io.Writer, runs []Run) error {
	if len(runs) == 0 {
		return nil
	}
	errs := []error{writeTables(stdout, runs)}
	if s.phases {
		errs = append(errs, writePhases(stdout, runs))
	}
	if s.csv != "" {
		errs = append(errs, create(s.csv, func(w io.Writer) error { return writeCSV(w, runs) }))
	}
	if s.json != "" {
		errs = append(errs, create(s.json, func(w io.Writer) error { return writeJSON(w, runs) }))
	}
	if s.readme != "" {
		errs = append(errs, writeReadme(s.readme, runs, machine(s.about())))
	}
	if s.chart != "" {
		errs = append(errs, drawChart(s.chart, runs))
	}
	return errors.Join(errs...)
}

// create writes a file.
func create(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

func writeJSON(w io.Writer, runs []Run) error {
	enc := json.NewEncoder(w)
	for _, r := range runs {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

func writeCSV(w io.Writer, runs []Run) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"project", "scenario", "contender", "round", "seconds", "bound_seconds", "steps", "cache_get", "cache_head", "cache_write", "cache_manifests", "image_requests", "bytes_in", "bytes_out", "bytes_sent", "layers", "step_seconds", "longest_step_seconds", "slots", "base_blobs", "base_blobs_distinct", "error"}) // Flush reports
	for _, r := range runs {
		q := r.Requests
		row := []string{r.Project, r.Scenario, r.Contender}
		for _, v := range []any{r.Round, fmt.Sprintf("%.3f", r.Seconds), fmt.Sprintf("%.3f", r.Bound), r.Steps, q.Get, q.Head, q.Write, q.Manifests, q.Images, q.In, q.Out, r.Sent, r.Layers, fmt.Sprintf("%.3f", r.StepSeconds), fmt.Sprintf("%.3f", r.Longest), r.Slots, r.Pulls.Blobs, r.Pulls.Distinct, r.Error} {
			row = append(row, fmt.Sprint(v))
		}
		_ = c.Write(row) // Flush reports
	}
	c.Flush()
	return c.Error()
}
