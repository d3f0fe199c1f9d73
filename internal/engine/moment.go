package engine

import (
	crand "crypto/rand"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/internal/report"
)

// Moment is the state of files and environment that a planned definition sees. It is kept
// with the plan, so that the plan is built as it was shown.
type Moment struct {
	now    time.Time
	seed   [32]byte
	env    map[string]*string // what replaces the environment; nil is not set
	looked map[string]bool
}

// NewMoment returns the present moment.
func NewMoment() *Moment {
	m := &Moment{now: time.Now(), looked: map[string]bool{}}
	crand.Read(m.seed[:]) // never fails
	return m
}

// SavedMoment returns when a plan was made.
func SavedMoment(p *report.World) (*Moment, error) {
	m := &Moment{now: p.Time, env: maps.Clone(p.Env), looked: map[string]bool{}}
	if copy(m.seed[:], p.Seed) != len(m.seed) || len(p.Seed) != len(m.seed) {
		return nil, fmt.Errorf("the plan is damaged: its seed has %d bytes instead of %d", len(p.Seed), len(m.seed))
	}
	for name := range m.env {
		// Settings of dbake itself are for the command to choose.
		if strings.HasPrefix(name, "BUILDX_") || name == "HOME" {
			delete(m.env, name)
		}
	}
	return m, nil
}

// apply sets the options of the moment. env is the present environment.
func (m *Moment) apply(o *compiler.Options) {
	if m == nil {
		return
	}
	o.Now = func() time.Time { return m.now }
	o.Random = rand.NewChaCha8(m.seed)
	o.Looked = func(name string) { m.looked[name] = true }
	if len(m.env) > 0 {
		o.Env = maps.Clone(o.Env)
		for name, v := range m.env {
			if v == nil {
				delete(o.Env, name)
			} else {
				o.Env[name] = *v
			}
		}
	}
}

// secretName is how variables with secrets are usually called.
var secretName = regexp.MustCompile(`(?i)token|secret|passw|pwd|credential|private|auth|_key$|apikey`)

// World is the form in which the world is saved with the plan of p. env is what the
// user has set.
func (m *Moment) World(p *ir.Project, env map[string]string) *report.World {
	f := &report.World{Time: m.now, Seed: m.seed[:], Env: map[string]*string{}}
	looked := maps.Clone(m.looked)
	for _, t := range p.Targets {
		for name, v := range t.Args {
			// Compose files take build args from the environment by name.
			if have, ok := env[name]; ok && have == v {
				looked[name] = true
			}
		}
	}
	for _, name := range ir.SortedKeys(looked) {
		v, set := env[name]
		switch {
		case name == registryVar && !set:
			// The local registry may be elsewhere in every run.
		case !set:
			f.Env[name] = nil
		case secretName.MatchString(name) || redact.Text(name+"="+v) != name+"="+v:
			f.Withheld = append(f.Withheld, name)
		default:
			f.Env[name] = &v
		}
	}
	return f
}

// Note lists the differences between the moment of a saved plan and now, for people.
func (m *Moment) Note(env map[string]string) string {
	text := fmt.Sprintf("building the plan of %s: timestamp() and uuidv4() give what they gave then", m.now.Local().Format(time.DateTime))
	var changed []string
	for name, v := range m.env {
		now, set := env[name]
		if set != (v != nil) || v != nil && now != *v {
			changed = append(changed, name)
		}
	}
	if slices.Sort(changed); len(changed) > 0 {
		text += ", and these variables of the environment are those of then: " + strings.Join(changed, ", ")
	}
	return text
}
