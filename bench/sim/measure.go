package sim

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

// Row is one strategy on one instance.
type Row struct {
	Instance   string  `json:"instance"`
	Class      string  `json:"class,omitempty"`
	Strategy   string  `json:"strategy"`
	Makespan   float64 `json:"makespan_s"`
	LowerBound float64 `json:"lower_bound_s"`
	Gap        float64 `json:"gap"`
	// Proven is set when no plan is shorter.
	Proven bool `json:"proven"`
	// Duplicated is the work done more than once, Executed all of it.
	Duplicated float64 `json:"duplicated_s"`
	Executed   float64 `json:"executed_s"`
	Planning   float64 `json:"planning_s"`
	// Ran is set when the plan was also run.
	Ran *Outcome `json:"run,omitempty"`
	// Contest is set when transfers share links.
	Contest *Contest `json:"links,omitempty"`
}

// ReadInstance reads one file.
func ReadInstance(path string) (schedfile.Instance, error) {
	f, err := os.Open(path)
	if err != nil {
		return schedfile.Instance{}, err
	}
	defer f.Close()
	in, err := schedfile.Read(f)
	if err != nil {
		return in, fmt.Errorf("%s: %w", path, err)
	}
	if in.Name == "" {
		in.Name = filepath.Base(path)
	}
	return in, nil
}

// ReadDir reads all *.json files below dir, by path.
func ReadDir(dir string) ([]schedfile.Instance, error) {
	var out []schedfile.Instance
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".json" {
			return err
		}
		in, err := ReadInstance(path)
		out = append(out, in)
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("no instances below %s", dir)
	}
	return out, err
}

// Measure plans an instance with one strategy.
func Measure(ctx context.Context, in schedfile.Instance, s partition.Strategy, o partition.Options) (Row, partition.Plan, error) {
	began := time.Now()
	plan, err := s.Plan(ctx, in.Problem, o)
	if err != nil {
		return Row{}, plan, fmt.Errorf("%s: %w", in.Name, err)
	}
	took := time.Since(began)
	return Row{
		Instance: in.Name, Class: in.Class, Strategy: s.Name(),
		Makespan: float64(plan.Schedule.Makespan), LowerBound: float64(plan.Bound.Max), Gap: plan.Gap(),
		Proven:     plan.Proven,
		Duplicated: float64(plan.Schedule.Duplicated), Executed: float64(plan.Schedule.Executed),
		Planning: took.Seconds(),
	}, plan, nil
}

// Summary is one strategy over all instances.
type Summary struct {
	Strategy string `json:"strategy"`
	// Gap is the geometric mean of makespan / lower bound, Worst the largest.
	Gap   float64 `json:"gap"`
	Worst float64 `json:"worst_gap"`
	// Best is the geometric mean of makespan / the shortest of any strategy, and
	// Shortest on how many instances it was 1.
	Best     float64 `json:"to_best"`
	Shortest int     `json:"shortest"`
	// Duplicated is the mean share of work done more than once.
	Duplicated float64 `json:"duplicated"`
	// Planning is the longest planning time in seconds.
	Planning  float64 `json:"planning_s"`
	Instances int     `json:"instances"`
}

// Bounds gives all rows of an instance the best lower bound any strategy proved.
func Bounds(rows []Row) {
	best := map[string]float64{}
	for _, r := range rows {
		best[r.Instance] = max(best[r.Instance], r.LowerBound)
	}
	for i := range rows {
		r := &rows[i]
		r.LowerBound = best[r.Instance]
		if r.LowerBound > 0 {
			r.Gap = r.Makespan / r.LowerBound
		}
		r.Proven = r.Proven || r.Makespan <= r.LowerBound*(1+1e-9)
	}
}

// Summarise sums up by strategy, in order of first appearance.
func Summarise(rows []Row) []Summary {
	best := map[string]float64{}
	var names []string
	for _, r := range rows {
		if b, ok := best[r.Instance]; !ok || r.Makespan < b {
			best[r.Instance] = r.Makespan
		}
		if !slices.Contains(names, r.Strategy) {
			names = append(names, r.Strategy)
		}
	}
	var out []Summary
	for _, name := range names {
		s := Summary{Strategy: name}
		var gap, toBest float64
		for _, r := range rows {
			if r.Strategy != name {
				continue
			}
			s.Instances++
			gap += math.Log(r.Gap)
			s.Worst = max(s.Worst, r.Gap)
			if b := best[r.Instance]; b > 0 {
				toBest += math.Log(r.Makespan / b)
			}
			if r.Makespan <= best[r.Instance]*(1+1e-9) {
				s.Shortest++
			}
			if r.Executed > 0 {
				s.Duplicated += r.Duplicated / r.Executed
			}
			s.Planning = max(s.Planning, r.Planning)
		}
		n := float64(s.Instances)
		s.Gap, s.Best, s.Duplicated = math.Exp(gap/n), math.Exp(toBest/n), s.Duplicated/n
		out = append(out, s)
	}
	return out
}
