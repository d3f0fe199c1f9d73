package sim

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/partition/schedfile"
)

// carrier is the registry, or the client, in one direction. So many transfers as it has links it
// carries at full bandwidth. When there are more, they share it in equal parts, as connections to
// one server do; a plan counts with one after the other.
type carrier struct {
	c     *Cluster
	links int // 0 = no limit
	under []*carriage
	since time.Duration // until when left is counted down
	token int           // of the happening that ends the next of them
}

// carriage is a transfer under way.
type carriage struct {
	m    *machine
	left float64 // nanoseconds at full bandwidth
	done func()
}

// carry begins a transfer of m that takes d at full bandwidth. A node has one in each direction.
func (k *carrier) carry(m *machine, d time.Duration, done func()) {
	if k.links == 0 {
		k.c.after(d, done)
		return
	}
	k.count()
	k.under = append(k.under, &carriage{m, float64(d), done})
	k.expect()
}

// fetch begins to bring v to m.
func (k *carrier) fetch(m *machine, v partition.VertexID, w *want) {
	k.c.seq++
	w.token = k.c.seq
	k.carry(m, k.c.transfer(v), func() { k.c.endVertex(m, v, w) })
}

// drop ends what is under way for m, which nobody waits for any more.
func (k *carrier) drop(m *machine) {
	k.count()
	if k.remove(func(x *carriage) bool { return x.m == m }) {
		k.expect()
	}
}

// remove takes what matches out of what is under way, and reports whether there was any.
func (k *carrier) remove(match func(*carriage) bool) bool {
	before := len(k.under)
	k.under = slices.DeleteFunc(k.under, match)
	return len(k.under) < before
}

func (k *carrier) rate() float64 {
	return min(1, float64(k.links)/float64(max(1, len(k.under))))
}

// count takes from what is left what was carried since the last time.
func (k *carrier) count() {
	carried := float64(k.c.now-k.since) * k.rate()
	for _, x := range k.under {
		x.left -= carried
	}
	k.since = k.c.now
}

// expect has the next end come to pass.
func (k *carrier) expect() {
	k.token = 0
	if len(k.under) == 0 {
		return
	}
	next := k.under[0]
	for _, x := range k.under[1:] {
		if x.left < next.left {
			next = x
		}
	}
	var token int
	token = k.c.after(time.Duration(math.Ceil(max(0, next.left)/k.rate())), func() {
		if k.token != token {
			return // something has begun or ended since
		}
		k.count()
		k.remove(func(x *carriage) bool { return x == next })
		k.expect()
		next.done()
	})
	k.token = token
}

// Contest compares, where transfers share links, the plan that knows of them with the one made
// as if each node had the registry to itself. All in seconds.
type Contest struct {
	Links int `json:"links"`
	// Promised is the makespan that the plan made in ignorance predicts, Blind that which it leads
	// to; that of the plan that knows is Row.Makespan.
	Promised float64 `json:"promised_s"`
	Blind    float64 `json:"blind_s"`
	// BlindRan is how long the plan made in ignorance took, Ran the one that knows, both with
	// stealing; 0 = they were not run.
	BlindRan float64 `json:"blind_ran_s,omitempty"`
	Ran      float64 `json:"ran_s,omitempty"`
}

// contest plans in, whose network has so many links, without knowledge of them as well.
func (f settings) contest(ctx context.Context, in schedfile.Instance, s partition.Strategy, knowing partition.Plan) (*Contest, error) {
	ignorant := in.Problem
	ignorant.Network.Links = 0
	blind, err := s.Plan(ctx, ignorant, f.options)
	if err != nil {
		return nil, err
	}
	really, err := partition.Evaluate(in.Problem, blind.Assignment)
	if err != nil {
		return nil, err
	}
	out := &Contest{Links: in.Problem.Network.Links, Promised: float64(blind.Schedule.Makespan), Blind: float64(really.Makespan)}
	if !f.run {
		return out, nil
	}
	world := World{Links: in.Problem.Network.Links, Slow: f.conditions.Slow}
	ran, err := Execute(ignorant, blind, world, true)
	if err != nil {
		return nil, err
	}
	out.BlindRan = ran.Makespan.Seconds()
	if ran, err = Execute(in.Problem, knowing, world, true); err != nil {
		return nil, err
	}
	out.Ran = ran.Makespan.Seconds()
	return out, nil
}

// writeContests prints, for each instance, both plans as multiples of what the plan made in
// ignorance predicts, and their geometric means.
func writeContests(w io.Writer, rows []Row) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "\nlinks\tinstance\tstrategy\tpromised\tin ignorance\tknown\tran in ignorance\tran known\t")
	ratio := func(x, of float64) string {
		if x == 0 || of == 0 {
			return "-"
		}
		return fmt.Sprintf("%.3f", x/of)
	}
	var sums [4]float64
	n := 0.0
	for _, r := range rows {
		o := r.Contest
		if o == nil || o.Promised == 0 {
			continue
		}
		columns := [4]float64{o.Blind, r.Makespan, o.BlindRan, o.Ran}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%.1f s\t", o.Links, r.Instance, r.Strategy, o.Promised)
		for i, x := range columns {
			fmt.Fprintf(tw, "%s\t", ratio(x, o.Promised))
			sums[i] += math.Log(x / o.Promised)
		}
		fmt.Fprintln(tw)
		n++
	}
	if n == 0 {
		return
	}
	fmt.Fprint(tw, "\tgeo. mean\t\t\t")
	for _, sum := range sums {
		fmt.Fprintf(tw, "%s\t", ratio(math.Exp(sum/n), 1))
	}
	fmt.Fprintln(tw)
	tw.Flush()
}
