package compiler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/compiler/ir"
)

// Options are what a command line asks of the compiler. The zero value of every
// field but Dir and Platform is "not given".
type Options struct {
	// Dir is the absolute working directory, from which relative paths start.
	Dir string
	// Env is the whole environment the compiler may see.
	Env map[string]string
	// Platform is the platform of the command in the form "linux/amd64", the value
	// of BAKE_LOCAL_PLATFORM.
	Platform string
	// Stdin is read for the file "-".
	Stdin io.Reader
	// Terminal is true when standard output is a terminal, to which no result of a
	// build may be written.
	Terminal bool
	// Remote fetches definitions given as a URL; nil refuses them.
	Remote RemoteReader

	// Now and Random are what timestamp and uuidv4 are made of; nil is the clock and
	// the generator of the system.
	Now    func() time.Time
	Random io.Reader
	// Looked takes the names that the definition asks the environment for, those that
	// are not set too; nil for nobody.
	Looked func(name string)

	Files   []string // -f
	Targets []string // positional: [URL [CONTEXT-URL]] TARGET...
	Vars    []string // --var NAME=VALUE

	Overrides []string // --set
	// SetName returns what messages call the flag that a KEY or KEY.NAME of Overrides
	// comes from; nil calls it "--set KEY".
	SetName    func(path string) string
	Push, Load bool
	NoCache    *bool
	Pull       *bool
	Call       string // --call METHOD[,format=...][,ignorestatus=...]
	SBOM       string
	Provenance string
	Policy     []string

	// Platforms are those of the targets that name none.
	Platforms []string
	// DeferFaults leaves what is missing on this machine, as the file of a secret, to
	// the targets that need it: they get a Fault, and there is no error.
	DeferFaults bool
	// Profiles limit the group "default" of compose files to the services of these
	// profiles and those without any. Empty takes all, as docker buildx does.
	Profiles []string
	// Exclude names targets, groups or patterns, each item one or several separated
	// by commas, that are not to be built, unless another target reads them.
	Exclude []string
	// WithDeps treats the targets that the requested ones link to or depend on, in
	// bake files or as services of compose files, as if they were requested too.
	WithDeps bool
	// Gates add gates to targets: each is TARGET=TEST[,TEST].
	Gates []string
	// Strict fills Project.Warnings.
	Strict bool
}

// The environment that changes how files are read.
const (
	envNoLookup      = "BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP"
	envRelativePaths = "BUILDX_BAKE_FILE_RELATIVE_PATHS"
	envEpoch         = "SOURCE_DATE_EPOCH"
)

// Compile resolves the targets that the options ask for. Problems in the files
// are [ir.SourceError]s, joined when there are several.
func Compile(ctx context.Context, o Options) (*ir.Project, error) {
	req := parseRequest(o.Targets)
	args, err := o.overrides()
	if err != nil {
		return nil, err
	}
	def, err := o.load(ctx, req)
	if err != nil {
		return nil, err
	}

	var p *ir.Project
	at := &place{}
	err = guard(ctx, at, def.sources, func() (err error) {
		p, err = o.resolve(at, def, req, args)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// resolve selects and resolves the targets of a definition.
func (o *Options) resolve(at *place, def *loaded, req request, args arguments) (*ir.Project, error) {
	names, asked, err := def.request(req.targets)
	if err != nil {
		return nil, err
	}
	excluded, err := def.exclusions(o.Exclude, o.path)
	if err != nil {
		return nil, err
	}
	r := &resolver{at: at, config: def.config, sources: def.sources, asked: asked, path: o.path, memo: map[string]*definition{}}
	if r.overrides, err = parseOverrides(args, def.config, o.environment()); err != nil {
		return nil, err
	}
	s, err := r.selectTargets(names, excluded, o.WithDeps)
	if err != nil {
		return nil, err
	}
	if err := r.addGates(s, o.Gates); err != nil {
		return nil, err
	}
	if err := r.link(s); err != nil {
		return nil, err
	}
	targets, err := s.sort(def.config)
	if err != nil {
		return nil, err
	}

	given, err := parseGiven(args.set)
	if err != nil {
		return nil, err
	}
	p := &ir.Project{Dir: o.Dir, Given: given}
	for _, name := range ir.SortedKeys(s.groups) {
		p.Groups = append(p.Groups, *s.groups[name])
	}
	lowered := make(map[string]*ir.Target, len(targets))
	checks := o.checks(def.remote)
	for _, name := range s.order {
		d := s.targets[name]
		at.enter(fileRange(d.origin("")))
		if args.noPolicy {
			d.policy = []ir.Policy{{Disabled: true}}
		}
		o.noteLookup(envEpoch)
		d.setEpoch(o.Env[envEpoch])
		if err := d.placeContext(o.Dir, def.remote); err != nil {
			return nil, def.sources.at(d.origin(""), err)
		}
		t := d.lower(s, def.remote, o.isDir)
		if len(t.PlatformList()) == 0 {
			t.Platforms = slices.Clone(o.Platforms)
		}
		if err := validateTarget(t, checks); err != nil {
			return nil, def.sources.show(err)
		}
		if t.Fault != nil {
			t.Fault = def.sources.show(t.Fault)
		}
		lowered[name] = t
	}
	for _, d := range targets {
		p.Targets = append(p.Targets, lowered[d.name])
	}
	if o.Strict {
		if p.Warnings, err = def.warnings(p); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// checks returns the options of the checks of targets.
func (o *Options) checks(remote *RemoteDefinition) checkOptions {
	c := checkOptions{Dir: o.Dir, Terminal: o.Terminal, Defer: o.DeferFaults, Lookup: func(name string) (string, bool) {
		v, ok := o.Env[name]
		return v, ok
	}}
	if remote != nil {
		c.URL = remote.URL
	}
	return c
}

// setFlag begins what messages call a key of --set.
const setFlag = "--set "

// arguments are the options that come down to overrides.
type arguments struct {
	set []string
	// name returns what messages call the flag that set[i], which is about path, comes
	// from.
	name     func(i int, path string) string
	noPolicy bool
}

// overrides returns the values of --set followed by those that other options
// stand for.
func (o *Options) overrides() (arguments, error) {
	var a arguments
	a.set = slices.Clone(o.Overrides)
	a.name = func(i int, path string) string {
		switch {
		case i < len(o.Overrides) && o.SetName != nil:
			return o.SetName(path)
		case i < len(o.Overrides):
			return setFlag + path
		case path == "attest" && strings.HasPrefix(a.set[i], "*.attest=type=sbom"):
			return "--sbom"
		case path == "attest":
			return "--provenance"
		}
		return "--" + path
	}
	method, err := callMethod(o.Call)
	if err != nil {
		return a, err
	}
	if o.Push {
		a.set = append(a.set, "*.push=true")
	}
	if o.Load {
		a.set = append(a.set, "*.load=true")
	}
	if method != nil {
		a.set = append(a.set, "*.call="+*method)
	}
	if o.NoCache != nil {
		a.set = append(a.set, "*.no-cache="+strconv.FormatBool(*o.NoCache))
	}
	if o.Pull != nil {
		a.set = append(a.set, "*.pull="+strconv.FormatBool(*o.Pull))
	}
	if o.SBOM != "" {
		a.set = append(a.set, "*.attest="+attestShorthand("sbom", o.SBOM))
	}
	if o.Provenance != "" {
		a.set = append(a.set, "*.attest="+attestShorthand("provenance", o.Provenance))
	}

	policies := make([]ir.Policy, len(o.Policy))
	for i, text := range o.Policy {
		if policies[i], err = parsePolicy(text); err != nil {
			return a, err
		}
	}
	for i, p := range policies {
		switch {
		case p.Filename != "":
			return a, errors.New("--policy does not accept filename; define policy files in the bake definition")
		case p.Reset:
			return a, errors.New("--policy does not accept reset; define policy composition in the bake definition")
		case p.Disabled && (p.Strict != nil || p.LogLevel != nil || len(policies) > 1):
			return a, errors.New("disabled policy cannot be combined with other policy flags")
		case p.Disabled:
			a.noPolicy = true
			return a, nil
		}
		a.set = append(a.set, "*.policy+="+o.Policy[i])
	}
	return a, nil
}

// callMethod returns the frontend method that --call names, nil for a plain
// build.
func callMethod(call string) (*string, error) {
	if call == "" {
		return nil, nil
	}
	fields, err := csvvalue.Fields(call, nil)
	if err != nil {
		return nil, fmt.Errorf("parse --call: %w", err)
	}
	var name string
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		switch {
		case !ok && name != "":
			return nil, fmt.Errorf("invalid print value: %s", call)
		case !ok:
			name = f
		case key == "ignorestatus":
			if _, err := strconv.ParseBool(value); err != nil {
				return nil, fmt.Errorf("invalid ignorestatus print value: %s: %w", value, err)
			}
		case key != "format":
			return nil, fmt.Errorf("invalid print field: %s", f)
		}
	}
	switch name {
	case "build":
		return nil, nil
	case "check":
		name = "lint"
	}
	return &name, nil
}

// environment returns what looks names up in the environment, nil if files may
// not see it.
func (o *Options) environment() func(string) (string, bool) {
	if off, err := strconv.ParseBool(o.Env[envNoLookup]); err == nil && off {
		return nil
	}
	return func(name string) (string, bool) {
		o.noteLookup(name)
		v, ok := o.Env[name]
		return v, ok
	}
}

func (o *Options) noteLookup(name string) {
	if o.Looked != nil {
		o.Looked(name)
	}
}

// interpolated finds variables in a compose file; two dollars stand for one.
var interpolated = pattern(`\$\$|\$\{?([A-Za-z_][A-Za-z0-9_]*)`)

// variables returns the values of --var by name.
func (o *Options) variables() (map[string]string, error) {
	vars := make(map[string]string, len(o.Vars))
	for _, v := range o.Vars {
		if v == "" {
			continue
		}
		name, value, ok := strings.Cut(v, "=")
		switch {
		case !ok:
			return nil, fmt.Errorf("invalid variable %q, expected key=value", v)
		case name == "":
			return nil, fmt.Errorf("invalid variable %q, key is empty", v)
		}
		vars[name] = value
	}
	return vars, nil
}

// relativePaths reports whether local paths start from the files that hold them.
func (o *Options) relativePaths() (bool, error) {
	v := strings.TrimSpace(o.Env[envRelativePaths])
	if v == "" {
		return false, nil
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("failed to parse %s value %q: %w", envRelativePaths, v, err)
	}
	return on, nil
}

// loaded is a definition with everything evaluated and nothing selected.
type loaded struct {
	config    *config
	evaluator *evaluator
	files     classified
	sources   sources
	remote    *RemoteDefinition
	composed  []string          // what the compose family warns of
	vars      map[string]string // the values of --var
}

func (l *loaded) warn(message string) {
	if !slices.Contains(l.composed, message) {
		l.composed = append(l.composed, message)
	}
}

// load reads and evaluates the definition.
func (o *Options) load(ctx context.Context, req request) (*loaded, error) {
	files, remote, err := o.readFiles(ctx, req.url)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, ErrNoDefinition
	}
	vars, err := o.variables()
	if err != nil {
		return nil, err
	}
	relative, err := o.relativePaths()
	if err != nil {
		return nil, err
	}

	def := &loaded{remote: remote, vars: vars}
	compose := composeOptions{Dir: o.Dir, Vars: vars, Profiles: o.Profiles, Warn: def.warn}
	env := o.environment()
	if env != nil {
		compose.Env = o.Env
	}
	lookup := func(name string) (string, bool) {
		if v, ok := vars[name]; ok {
			return v, true
		}
		if env != nil {
			return env(name)
		}
		return "", false
	}

	src := sources{}
	for _, f := range files {
		src[f.Name+".hcl"], src[f.Name+".json"] = f.Data, f.Data // see parseHCL
	}
	for _, f := range files {
		src[f.Name] = f.Data
	}
	at := &place{}
	compose.At = at
	err = guard(ctx, at, src, func() error { return o.evaluate(ctx, at, def, files, compose, src, req, lookup, relative) })
	if err != nil {
		return nil, err
	}
	return def, nil
}

// evaluate fills def with what the files define.
func (o *Options) evaluate(ctx context.Context, at *place, def *loaded, files []sourceFile, compose composeOptions, src sources, req request, lookup func(string) (string, bool), relative bool) error {
	byFamily, c, err := parse(ctx, files, compose)
	if err != nil {
		return src.explainSyntax(err)
	}
	for _, f := range byFamily.compose {
		for _, m := range interpolated().FindAllSubmatch(f.Data, -1) {
			if o.environment() != nil && len(m[1]) > 0 {
				o.noteLookup(string(m[1]))
			}
		}
	}
	builtins := map[string]string{"BAKE_CMD_CONTEXT": req.cmdContext, "BAKE_LOCAL_PLATFORM": o.Platform}
	functions := functionWorld{Home: o.Env["HOME"], Now: o.Now, Random: o.Random}.functions()
	e := newEvaluator(at, src, builtins, functions, lookup)
	if len(byFamily.hcl) > 0 {
		diags := e.read(byFamily.hcl)
		if !diags.HasErrors() {
			diags = append(diags, e.evaluate(c)...)
		}
		if diags.HasErrors() {
			return src.explain(diags)
		}
	}
	c.finish()
	if relative {
		c.rebase()
	}
	def.config, def.evaluator, def.files, def.sources = c, e, byFamily, src
	return nil
}

// request returns the names of groups and targets that were asked for, and the
// argument that each stands for.
func (l *loaded) request(args []string) (names []string, asked map[string]string, err error) {
	asked = map[string]string{}
	for _, arg := range args {
		matched, err := l.config.matchNames(arg)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range matched {
			asked[name] = arg
		}
		names = append(names, matched...)
	}
	return unique(names), asked, nil
}

// setEpoch gives the target the build argument for reproducible times, unless it
// has it.
func (t *definition) setEpoch(epoch string) {
	if _, ok := t.args[envEpoch]; ok || epoch == "" {
		return
	}
	t.args = maps.Clone(t.args)
	if t.args == nil {
		t.args = map[string]*string{}
	}
	t.args[envEpoch] = &epoch
}

// pattern compiles an expression when it is first asked for: few definitions need
// one.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
