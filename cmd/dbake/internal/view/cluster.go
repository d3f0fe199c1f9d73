package view

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/docker/go-units"

	"github.com/dbake/dbake/runtime/local"
)

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
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.Addr, state(n.Alive, n.Problem), n.Version, Some(n.Platforms, 3), units.BytesSize(float64(n.CacheSize)))
	}
	return tw.Flush()
}
