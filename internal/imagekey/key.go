package imagekey

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/redact"
)

// format is the first line of every key: another one makes all keys other ones.
const format = "dbake image key 1"

// Line is one thing that goes into an image.
type Line struct {
	Label string `json:"label"`
	Value string `json:"value"`
	// Attested is set when only attestations show it; Part that it is a part of the line
	// that follows, which covers it.
	Attested bool `json:"attested,omitempty"`
	Part     bool `json:"part,omitempty"`
}

// Key names the image of a target by what goes into it.
type Key struct {
	Target string `json:"target"`
	// Digest covers the lines that are not Attested; Attested covers those that are,
	// and is "" where the target asks for no attestation.
	Digest   digest.Digest `json:"key"`
	Attested digest.Digest `json:"attested,omitempty"`
	Lines    []Line        `json:"lines"`
	// Unknown says why the image may be another one tomorrow; "" when it may not.
	Unknown string `json:"always_built,omitempty"`
	// Anew is set when the target asks to be built whatever is known.
	Anew bool `json:"no_cache,omitempty"`
}

// Output is an output of a target in BuildKit's terms.
type Output struct {
	Type  string
	Attrs map[string]string
}

// ForJob returns the key of a job. m is the makeup of its build.
func ForJob(m *plan.Makeup, job plan.Job, outputs []Output) (Key, error) {
	k := Key{Target: job.Target.Name, Lines: []Line{{Label: "format", Value: format}}}
	for _, u := range job.Units {
		if err := k.unit(m, u, len(job.Units) > 1); err != nil {
			return Key{}, fmt.Errorf("key of target %s: %w", k.Target, err)
		}
	}
	for i, o := range outputs {
		k.output(o, i, len(outputs))
	}
	for i, c := range job.Target.CacheTo {
		var attrs []string
		for _, name := range ir.SortedKeys(c.Attrs) {
			attrs = append(attrs, name+"="+c.Attrs[name])
		}
		k.add(fmt.Sprintf("cache-to %d %s", i+1, c.Type), hash(strings.Join(attrs, "\n")))
	}
	k.seal(asks(job.Target))
	return k, nil
}

// asks reports whether a target asks for attestations itself.
func asks(t *ir.Target) bool {
	return slices.ContainsFunc(t.Attest, func(a ir.Attest) bool { return !a.Disabled })
}

func (k *Key) add(label, value string) { k.Lines = append(k.Lines, Line{Label: label, Value: value}) }

func (k *Key) attest(label, value string) {
	k.Lines = append(k.Lines, Line{Label: label, Value: value, Attested: true})
}

func (k *Key) part(label, value string) {
	k.Lines = append(k.Lines, Line{Label: label, Value: value, Part: true})
}

// hash stands for a value that is long, or that may be a secret.
func hash(value string) string { return digest.FromString(value).String() }

// unit adds the lines of one platform.
func (k *Key) unit(m *plan.Makeup, u *frontend.Unit, several bool) error {
	of := ""
	if several {
		of = platforms.FormatAll(u.ExportPlatform) + " "
	}
	result, parts := m.Unit(u.ID)
	for _, p := range parts {
		k.vertex(of, p)
	}
	k.add(of+"steps", result.String())
	k.add(of+"platform", platforms.FormatAll(u.ExportPlatform))
	if u.MultiPlatform {
		k.add(of+"index", "true")
	}
	k.add(of+"config", hash(string(u.Config)))
	for _, name := range ir.SortedKeys(u.Metadata) {
		k.add(of+"metadata "+name, hash(string(u.Metadata[name])))
	}
	for i, a := range u.Attestations {
		scan, err := m.Definition(a.Ref)
		if err != nil {
			return err
		}
		about := fmt.Sprintf("%v %s %v %v", a.Kind, a.Path, a.InToto.PredicateType, slices.Sorted(maps.Keys(a.Metadata)))
		k.add(fmt.Sprintf("%sattestation %d", of, i+1), hash(about+"\n"+scan.String()))
	}
	k.attrs(of, u, asks(u.Target))
	switch {
	case u.Frontend != "":
		k.unknown("it is compiled by the frontend " + u.Frontend)
	case len(u.Assumed) > 0:
		k.unknown("nothing is known of " + strings.Join(u.Assumed, ", "))
	}
	return nil
}

func (k *Key) unknown(why string) {
	if k.Unknown == "" {
		k.Unknown = why
	}
}

// vertex adds the lines of one vertex.
func (k *Key) vertex(of string, p plan.Ingredient) {
	if p.Unknown != "" {
		k.unknown(p.Unknown)
	}
	k.Anew = k.Anew || p.Anew
	if base := redact.Text(p.Base); base != "" {
		name, _, _ := strings.Cut(base, "@sha256:")
		k.part(of+"source "+name, base)
	} else if p.Kind.IsStep() {
		k.part(of+"step "+p.Step, p.Does.String())
	}
	if p.Files != "" {
		k.part(of+"files of "+p.Step, p.Files.String())
	}
}

// attrs adds what the options of the frontend say that is not in the graph.
func (k *Key) attrs(of string, u *frontend.Unit, asked bool) {
	for _, name := range ir.SortedKeys(u.FrontendAttrs) {
		value := u.FrontendAttrs[name]
		arg, isArg := strings.CutPrefix(name, "build-arg:")
		switch {
		case name == "no-cache", name == "image-resolve-mode", name == "platform", name == "frontend.caps", isArg && proxies[strings.ToLower(arg)]:
		case isArg && (arg == "SOURCE_DATE_EPOCH" || strings.HasPrefix(arg, "BUILDKIT_")):
			k.add(of+"arg "+arg, hash(value))
		case strings.HasPrefix(name, "attest:") && !asked:
			k.add(of+"attestation by default", strings.TrimPrefix(name, "attest:")+" "+value)
		case strings.HasPrefix(name, "attest:"):
			k.add(of+"attestation", strings.TrimPrefix(name, "attest:"))
			k.attest(of+"attestation "+strings.TrimPrefix(name, "attest:"), hash(value))
		case isArg:
			k.attest(of+"arg "+arg, hash(value))
		case name == "dockerfilekey", strings.HasPrefix(name, "context:"), strings.HasPrefix(name, "input-metadata:"):
			// Names of directories and of targets; what they hold is in the graph.
		default:
			k.attest(of+"option "+name, hash(value))
		}
	}
}

// proxies are the args by which steps reach the network, which leave no trace.
var proxies = map[string]bool{"http_proxy": true, "https_proxy": true, "ftp_proxy": true, "no_proxy": true, "all_proxy": true}

// placing are the attributes of an image output that say where the image goes, and not
// what it is.
var placing = map[string]bool{
	"push": true, "unpack": true, "store": true, "registry.insecure": true, "dangling-name-prefix": true,
	string(exptypes.OptKeyPushByDigest): true, string(exptypes.OptKeyNameCanonical): true,
}

// output adds the lines of one output.
func (k *Key) output(o Output, i, of int) {
	label := "output"
	if of > 1 {
		label = fmt.Sprintf("output %d", i+1)
	}
	k.add(label, o.Type)
	for _, name := range ir.SortedKeys(o.Attrs) {
		switch {
		case placing[name]:
		case name == "name":
			names := strings.Split(o.Attrs[name], ",")
			slices.Sort(names)
			k.attest(label+" names", strings.Join(names, ","))
		default:
			k.add(label+" "+name, o.Attrs[name])
		}
	}
}

// seal computes the digests from the lines.
func (k *Key) seal(asked bool) {
	all, attested := sha256.New(), sha256.New()
	for _, l := range k.Lines {
		switch {
		case l.Part:
		case l.Attested:
			fmt.Fprintf(attested, "%q %q\n", l.Label, l.Value)
		default:
			fmt.Fprintf(all, "%q %q\n", l.Label, l.Value)
		}
	}
	k.Digest = digest.NewDigest(digest.SHA256, all)
	k.Attested = ""
	if asked {
		k.Attested = digest.NewDigest(digest.SHA256, attested)
	}
}

// Same reports whether k and other stand for one image.
func (k Key) Same(other Key) bool { return k.Digest == other.Digest && k.Attested == other.Attested }

// Difference is a line that two keys do not share; "" is a value of one that the other
// lacks.
type Difference struct {
	Label string `json:"label"`
	Then  string `json:"then,omitempty"`
	Now   string `json:"now,omitempty"`
}

// Compare returns what differs between the lines of two keys, in the order of the lines
// of now and then of those that only then has.
func Compare(then, now []Line) []Difference {
	have := map[string][]string{}
	for _, l := range then {
		have[l.Label] = append(have[l.Label], l.Value)
	}
	var list []Difference
	for _, l := range now {
		if i := slices.Index(have[l.Label], l.Value); i >= 0 {
			have[l.Label] = slices.Delete(have[l.Label], i, i+1)
		} else {
			list = append(list, Difference{Label: l.Label, Now: l.Value})
		}
	}
	for i := range list {
		// A line of the same name that is gone is what this one was.
		if values := have[list[i].Label]; len(values) > 0 {
			list[i].Then = values[0]
			have[list[i].Label] = values[1:]
		}
	}
	for _, l := range then {
		if i := slices.Index(have[l.Label], l.Value); i >= 0 {
			have[l.Label] = slices.Delete(have[l.Label], i, i+1)
			list = append(list, Difference{Label: l.Label, Then: l.Value})
		}
	}
	return list
}
