package view

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"

	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/report"
)

// node is a node as it is shown. Sizes are in bytes, times in milliseconds.
type node struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Source says where the node was found: "--nodes" or "builder NAME".
	Source string `json:"source,omitempty"`
	// Usable is set when a build would use the node; Health describes its state.
	Usable   bool    `json:"usable"`
	Health   string  `json:"health"`
	Version  string  `json:"version,omitempty"` // of its BuildKit
	Answered float64 `json:"answeredMs,omitempty"`
	// Native is the platform of its machine, Platforms are all whose steps it runs.
	Native    string   `json:"native,omitempty"`
	Platforms []string `json:"platforms"`
	Speed     float64  `json:"speed"`
	// Slots is how many steps it is counted on to run at once; SlotsAssumed, that
	// nobody said so.
	Slots        int  `json:"slots"`
	SlotsAssumed bool `json:"slotsAssumed"`
	// Tenants is how many others build there: runs of dbake, and other clients.
	Tenants int `json:"tenants,omitempty"`
	Disk    *struct {
		Used  int64 `json:"used"`
		InUse int64 `json:"inUse"`
		Most  int64 `json:"most,omitempty"`
	} `json:"disk,omitempty"`
	// Holds is how many of the steps of the definition it holds.
	Holds *struct {
		Steps int `json:"steps"`
		Of    int `json:"of"`
	} `json:"holds,omitempty"`
}

func shownNode(n engine.NodeState) node {
	out := node{
		Name: n.Spec.Name, Address: n.Spec.Addr, Source: n.Spec.Source, Usable: n.Usable(), Health: n.Health(),
		Version: n.Info.Version, Answered: float64(n.Took.Microseconds()) / 1000,
		Platforms: []string{}, Speed: n.Spec.Speed, Slots: n.Slots, SlotsAssumed: n.SlotsAssumed, Tenants: n.Tenants,
	}
	if n.Info.Native.Architecture != "" {
		out.Native = platforms.Format(n.Info.Native)
	}
	for _, p := range n.Info.Platforms {
		out.Platforms = append(out.Platforms, platforms.Format(p))
	}
	if len(out.Platforms) == 0 && len(n.Spec.Platforms) > 0 {
		out.Platforms = n.Spec.Platforms // as far as it is known
	}
	if n.Known {
		out.Disk = &struct {
			Used  int64 `json:"used"`
			InUse int64 `json:"inUse"`
			Most  int64 `json:"most,omitempty"`
		}{n.Disk, n.InUse, n.DiskMost}
	}
	if n.Steps > 0 {
		out.Holds = &struct {
			Steps int `json:"steps"`
			Of    int `json:"of"`
		}{n.Held, n.Steps}
	}
	return out
}

// NodesJSON prints nodes as JSON, one list.
func NodesJSON(w io.Writer, list []engine.NodeState) error {
	shown := []node{}
	for _, n := range list {
		shown = append(shown, shownNode(n))
	}
	return report.WriteJSON(w, shown)
}

// Nodes prints nodes as a table, and below it remarks on their health.
func Nodes(w io.Writer, list []engine.NodeState) error {
	t := newTable(4, 5, 6, 7)
	var said []string
	t.row("NODE", "ADDRESS", "BUILDKIT", "PLATFORMS", "SLOTS", "SPEED", "DISK", "HOLDS", "HEALTH")
	for _, state := range list {
		n := shownNode(state)
		slots := strconv.Itoa(n.Slots)
		if n.SlotsAssumed {
			slots = "~" + slots
		}
		disk, holds := "-", "-"
		if n.Disk != nil {
			disk = units.BytesSize(float64(n.Disk.Used))
			if n.Disk.Most > 0 {
				disk += "/" + units.BytesSize(float64(n.Disk.Most))
			}
		}
		if n.Holds != nil {
			holds = fmt.Sprintf("%d/%d", n.Holds.Steps, n.Holds.Of)
		}
		health := "ok"
		switch {
		case state.Drained != "":
			health = "drained"
		case state.Rests:
			health = "rests"
		case !n.Usable:
			health = "away"
		case n.Health != health:
			health = "limited"
		}
		if n.Health != health {
			said = append(said, fmt.Sprintf("%s %s: %s", n.Name, health, n.Health))
		}
		if n.Tenants > 0 {
			said = append(said, fmt.Sprintf("%s: %s on it", n.Name, count(n.Tenants, "other build")))
		}
		t.row(n.Name, n.Address, cmp.Or(n.Version, "-"), n.offers(), slots, fmt.Sprintf("%g", n.Speed), disk, holds, health)
	}
	if err := t.write(w); err != nil || len(said) == 0 {
		return err
	}
	fmt.Fprintln(w)
	for _, line := range said {
		paragraph(w, "  ", line)
	}
	return nil
}

// offers names the platform of the machine, and then how many it emulates.
func (n node) offers() string {
	var native, emulated []string
	for _, p := range n.Platforms {
		if n.Native == "" || p == n.Native || strings.HasPrefix(p, n.Native+"/") || ofFamily(n.Native, p) {
			native = append(native, p)
		} else {
			emulated = append(emulated, p)
		}
	}
	text := Some(native, 2)
	if len(emulated) > 0 {
		text += " (emulates " + Some(emulated, 2) + ")"
	}
	return cmp.Or(text, "-")
}

// ofFamily reports whether a machine of a platform runs another by itself, as an
// amd64 one does 386.
func ofFamily(native, other string) bool {
	n, err := platforms.Parse(native)
	if err != nil {
		return false
	}
	o, err := platforms.Parse(other)
	return err == nil && platforms.Only(n).Match(o)
}
