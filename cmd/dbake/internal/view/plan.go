package view

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"

	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/local"
)

// Plan prints a plan as tables: what each node builds and when, what is shared and
// how often it is built, and how long it all takes beside the best there could be.
func Plan(w io.Writer, p *plan.Plan) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "NODE\tTARGET\tDONE AT\tOWN\tSHARED\tSTEPS\tHELD\tCOSTS FROM")
	for n, node := range p.Nodes {
		if len(p.Shares[n].Partitions) == 0 {
			fmt.Fprintf(tw, "%s\t-\t\t\t\t\t\t\n", node.Name)
			continue
		}
		name := node.Name
		for _, part := range p.Shares[n].Partitions {
			for _, j := range part {
				job := p.Jobs[j]
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", name, job.Name, seconds(job.Done), seconds(job.Own), seconds(job.Shared), job.Steps, job.Warm, sources(job.From))
				name = ""
			}
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(p.Stages) > 0 {
		fmt.Fprintln(w)
		fmt.Fprintln(tw, "SHARED STAGE\tSTEPS\tCOST\tUSED BY\tBUILT ON")
		for _, s := range p.Stages {
			fmt.Fprintf(tw, "%s\t%d\t%s\t%s\t%s\n", ellipsis(s.Name, 60), s.Steps, seconds(s.Cost), some(s.Jobs, 4), strings.Join(s.Nodes, ", "))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	fmt.Fprintln(w)
	for n, node := range p.Nodes {
		fmt.Fprintf(tw, "%s\tbusy %s\tends at %s\n", node.Name, seconds(p.Shares[n].Busy), seconds(p.Shares[n].Finish))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\npredicted makespan %s, lower bound %s%s", seconds(p.Makespan), seconds(p.Bound), gap(p))
	if p.Single > 0 && len(p.Nodes) > 1 {
		fmt.Fprintf(w, "; %s alone would take %s", p.Nodes[0].Name, seconds(p.Single))
	}
	fmt.Fprintf(w, " (strategy %s)\n", p.Strategy)
	if len(p.Assumed) > 0 {
		fmt.Fprintf(w, "assumed, because nothing is known of them: %s\n", strings.Join(p.Assumed, ", "))
	}
	return nil
}

func gap(p *plan.Plan) string {
	switch {
	case p.Proven:
		return ", no plan is better"
	case p.Bound > 0:
		return fmt.Sprintf(", at most %.1f%% above the best plan", 100*(float64(p.Makespan)/float64(p.Bound)-1))
	}
	return ""
}

// sources says where the costs of a job's steps came from: "3 measured, 2 prior".
func sources(from map[cost.Source]int) string {
	var list []string
	for _, s := range []cost.Source{cost.Measured, cost.Similar, cost.Prior} {
		if n := from[s]; n > 0 {
			list = append(list, fmt.Sprintf("%d %s", n, s))
		}
	}
	return strings.Join(list, ", ")
}

// some lists at most n names and counts the others.
func some(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(slices.Clone(names[:n-1]), ", "), len(names)-n+1)
}

// ellipsis cuts s to at most n characters.
func ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// Status prints the state of the local cluster.
func Status(w io.Writer, st *local.Status) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "NAME\tADDRESS\tSTATE\tVERSION\tPLATFORMS\tCACHE")
	state := func(alive bool, problem string) string {
		if alive {
			return "running"
		}
		if problem != "" {
			return problem
		}
		return "not running"
	}
	if st.Registry.Addr != "" {
		fmt.Fprintf(tw, "registry\t%s\t%s\t\t\t\n", st.Registry.Addr, state(st.Registry.Alive, ""))
	}
	for _, n := range st.Nodes {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Addr, state(n.Alive, n.Problem), n.Version, some(n.Platforms, 3), units.BytesSize(float64(n.CacheSize)))
	}
	return tw.Flush()
}
