package plan

import (
	"fmt"
	"math"
	"time"

	"github.com/dbake/dbake/internal/memory/transfer"
	"github.com/dbake/dbake/partition"
)

// Way is how results go from node to node. The zero value is the client, as long as nothing is known.
type Way struct {
	// Registry is the host of the registry that they go through; "" is the client.
	Registry string
	// Past are the transfers that went the same way before, Now is when they are to predict.
	Past transfer.Past
	Now  time.Time
}

// assumed is what a transfer is taken to cost, in each direction, until some were measured. To send
// a result takes a solve of its own, of about a second, and the layers are compressed on the way
// out, at what gzip does on one core.
var assumed = transfer.Estimate{Bandwidth: 40e6, Latency: time.Second}

// clientLinks is how many transfers the client is taken to carry at once in each direction, until
// they were seen to slow each other, or not to. A sender that compresses on one core fills a third
// of a line of 1 Gbit/s; but the client writes to one disk what it is sent, reads from that what it
// sends, and sends directories to nodes meanwhile.
const clientLinks = 2

// Through returns b with results that go another way.
func Through(b *Build, w Way) *Build {
	out := *b
	out.way = w
	return &out
}

// Transfers is what a plan counts on for results that nodes send each other. The zero value counts
// on nothing.
type Transfers struct {
	Registry  string        // as in Way
	Bandwidth float64       // bytes per second, in one direction
	Latency   time.Duration // of each, in one direction
	// Samples is the number of earlier transfers that this rests on; with 0 it is assumed.
	Samples int
	// Links is how many are carried at once in each direction, 0 = no limit. Seen is set when
	// transfers have shown that, and it is no assumption.
	Links int
	Seen  bool
}

// transfers returns what the way promises. Numbers are rounded to two digits, so that what changes
// little from run to run leaves plans as they are.
func (w Way) transfers() Transfers {
	e := w.Past.Predict(assumed, w.Now)
	t := Transfers{
		Registry: w.Registry, Samples: e.Samples, Links: e.Links, Seen: e.Links > 0,
		Bandwidth: twoDigits(e.Bandwidth), Latency: time.Duration(twoDigits(float64(e.Latency))),
	}
	if t.Seen || w.Registry != "" {
		return t // how much a registry bears differs too much for a guess
	}
	if t.Links, t.Seen = e.Carried, e.Carried > clientLinks; !t.Seen {
		t.Links = clientLinks
	}
	return t
}

// twoDigits rounds a positive number to two significant digits.
func twoDigits(x float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(x))-1)
	return math.Round(x/unit) * unit
}

// network returns that as the partitioner sees it.
func (t Transfers) network() partition.Network {
	return partition.Network{Bandwidth: t.Bandwidth, Latency: partition.SecondsOf(t.Latency), Links: t.Links}
}

// String says in a sentence what is counted on, and whether it was measured.
func (t Transfers) String() string {
	through := "this machine"
	if t.Registry != "" {
		through = t.Registry
	}
	source := "assumed"
	if t.Samples > 0 {
		source = fmt.Sprintf("measured %d×", t.Samples)
	}
	text := fmt.Sprintf("%s: results go from node to node through %s, at %.3g MB/s after %.2g s each", source, through, t.Bandwidth/1e6, t.Latency.Seconds())
	switch {
	case t.Seen:
		return fmt.Sprintf("%s, %d at once in each direction", text, t.Links)
	case t.Links > 0 && t.Samples > 0:
		return fmt.Sprintf("%s; that it carries %d at once in each direction is assumed", text, t.Links)
	case t.Links > 0:
		return fmt.Sprintf("%s, %d at once in each direction", text, t.Links)
	}
	return text + ", however many at once"
}
