package compiler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/consts"
	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/errdefs"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/paths"
	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"

	"github.com/dbake/dbake/compiler/ir"
)

// Compose files are read in three steps: compose-go merges them into one model
// (interpolation, include, extends, !reset and !override are its work), the
// model is cut down to the few keys that builds know and checked against the
// schema, and what is left becomes one target for each service that has a build
// section. Everything else a compose file may say (networks, depends_on, keys
// from the future) is cut away before the check and can thus never be wrong.

// composeOptions are the surroundings that compose files see.
type composeOptions struct {
	At *place
	// Dir is the directory that relative paths start from, and in which .env is
	// looked for: the working directory of the command, wherever the files are.
	Dir string
	// Env is the environment; empty when bake files may not look at it.
	Env map[string]string
	// Vars are the values given by --var; they win over Env and .env.
	Vars map[string]string
	// Profiles are those whose services belong to the group "default"; services
	// without a profile always do. Empty means all profiles, as upstream has it.
	Profiles []string
	// Warn gets what is probably a mistake; nil drops it.
	Warn func(message string)
}

// defaultProject names the compose project when nothing else does. Only a file
// that asks for COMPOSE_PROJECT_NAME can see.
const defaultProject = "bake"

// defaultGroup is the group that is built when nothing is asked for.
const defaultGroup = "default"

// looksLikeCompose reports whether a file belongs to the compose family, with the
// reason when it does not or when it is not valid.
//
// A name that ends in .yml or .yaml, in any case, settles it, and the file must
// then be valid on its own but for what other files may add; so does .json or
// .hcl. Any other file is compose if it can be loaded.
func looksLikeCompose(ctx context.Context, f sourceFile, opt composeOptions) (bool, error) {
	opt.At.inFile(f.Name)
	env, err := opt.environment()
	if err != nil {
		return false, err
	}
	if tooDeepYAML(f.Data) {
		return hasComposeExtension(f.Name), fmt.Errorf("%s: lines are indented more than %d levels deep: this is not a compose file", f.Name, maxIndents)
	}
	if hasComposeExtension(f.Name) {
		err := validateCompose(ctx, f, opt, env)
		return true, explainCompose(ctx, err, []sourceFile{f}, opt, env)
	}
	switch strings.ToLower(filepath.Ext(f.Name)) {
	case ".json", ".hcl":
		return false, nil
	}
	err = validateCompose(ctx, f, opt, env)
	return err == nil, err
}

// maxIndents bounds how deeply the lines of a compose file may be indented, each more
// than the one before: the time that its library takes grows far faster than that.
const maxIndents = 500

// tooDeepYAML reports whether a file has more than maxIndents levels. Lines of texts
// count as well, which does no harm at this depth.
func tooDeepYAML(data []byte) bool {
	var levels []int
	for line := range bytes.Lines(data) {
		rest := bytes.TrimLeft(line, " ")
		if len(bytes.TrimSpace(rest)) == 0 {
			continue
		}
		indent := len(line) - len(rest)
		for len(levels) > 0 && levels[len(levels)-1] >= indent {
			levels = levels[:len(levels)-1]
		}
		if levels = append(levels, indent); len(levels) > maxIndents {
			return true
		}
	}
	return false
}

// validateCompose loads one file alone, leaving out the checks that need the
// other files.
func validateCompose(ctx context.Context, f sourceFile, opt composeOptions, env map[string]string) error {
	// Without its name, so that a file that includes itself through another is
	// judged as upstream judges it.
	opt.Warn = nil
	_, err := opt.load(ctx, []types.ConfigFile{configFile(f.Data, "")}, env, func(o *loader.Options) {
		o.SkipConsistencyCheck = true
	})
	return err
}

func configFile(data []byte, name string) types.ConfigFile {
	if data == nil {
		data = []byte{} // nil would make compose-go read the file itself
	}
	return types.ConfigFile{Filename: name, Content: data}
}

// environment returns what variables of compose files stand for: the
// environment, under it what .env adds, over both the values of --var.
func (o composeOptions) environment() (map[string]string, error) {
	env := make(map[string]string, len(o.Env)+len(o.Vars))
	maps.Copy(env, o.Env)
	data, err := readDotEnv(filepath.Join(o.Dir, ".env"))
	if err != nil {
		return nil, &advisedError{err, dotEnvAdvice(nil)}
	}
	added, err := dotenv.UnmarshalBytesWithLookup(data, func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	})
	if err != nil {
		return nil, &advisedError{err, dotEnvAdvice(data)}
	}
	for name, value := range added {
		if _, set := env[name]; !set {
			env[name] = value
		}
	}
	maps.Copy(env, o.Vars)
	return env, nil
}

// dotEnvAdvice describes the fault of a .env file that cannot be read: every compose file
// is read with it.
func dotEnvAdvice(data []byte) string {
	switch {
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return "It is the file .env that cannot be read: it begins with a byte order mark; save it as UTF-8 without one"
	case len(data) > 0 && !utf8.Valid(data):
		return "It is the file .env that cannot be read. " + encodingHint(data)
	}
	return "It is the file .env that cannot be read"
}

// readDotEnv returns the content of a .env file; there may be none, and a
// directory of that name is none.
func readDotEnv(name string) ([]byte, error) {
	switch st, err := os.Stat(name); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case st.IsDir():
		return nil, nil
	}
	if problem := endless(name); problem != "" {
		return nil, errors.New(name + problem)
	}
	return os.ReadFile(name)
}

// base returns what compose-go takes as its working directory: "" when Dir is
// where the process runs, which keeps all paths relative, those in messages too;
// Dir itself otherwise, so that the files that others name are found. The paths of
// targets are relative to Dir either way. Only of a file that is included by an
// included one does compose-go, given "", get the directory wrong; upstream
// prints it so, and so does a command, which runs in Dir.
func (o composeOptions) base() string {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o.Dir
	}
	if here, err := filepath.Abs("."); err == nil && here == dir {
		return ""
	}
	return dir
}

// composeProject is the part of compose files that concerns builds.
type composeProject struct {
	*types.Project
	// profiles are those of each service that has any.
	profiles map[string][]string
	// dependsOn are the services that each one is started after.
	dependsOn map[string][]string
}

// builtWith returns the targets of the services that one depends on, directly or
// through services that have nothing to build.
func (p composeProject) builtWith(name string) []string {
	var targets []string
	seen := map[string]struct{}{name: {}}
	for queue := p.dependsOn[name]; len(queue) > 0; queue = queue[1:] {
		if _, ok := seen[queue[0]]; ok {
			continue
		}
		seen[queue[0]] = struct{}{}
		if service, ok := p.Services[queue[0]]; ok && service.Build != nil {
			targets = append(targets, composeTargetName(queue[0]))
		} else {
			queue = append(queue, p.dependsOn[queue[0]]...)
		}
	}
	return targets
}

// load merges files into one project in which every profile is enabled.
func (o composeOptions) load(ctx context.Context, files []types.ConfigFile, env map[string]string, adjust func(*loader.Options)) (project composeProject, err error) {
	// compose-go converts types unchecked in many places; a file that is odd
	// enough must not take the process down.
	defer func() {
		if r := recover(); r != nil {
			project, err = composeProject{}, fmt.Errorf("malformed compose file: %v", r)
		}
	}()

	base := o.base()
	sources := make([]sourceFile, len(files))
	for i, f := range files {
		sources[i] = sourceFile{Name: f.Filename, Data: f.Content}
	}
	if err := checkEnds(sources, base, env); err != nil {
		return composeProject{}, err
	}
	details := types.ConfigDetails{
		WorkingDir:  base,
		ConfigFiles: files,
		Environment: maps.Clone(env), // compose-go adds the project's name
	}
	model, err := loader.LoadModelWithContext(ctx, details, func(lo *loader.Options) {
		name := defaultProject
		if v := env[consts.ComposeProjectName]; v != "" {
			name = v
		}
		lo.SetProjectName(name, false)
		lo.SkipNormalization = true
		lo.SkipValidation = true
		lo.ResolvePaths = false // below, so that paths stay relative to Dir
		lo.Interpolate.Substitute = o.substitute
		adjust(lo)
	})
	if err != nil {
		return composeProject{}, err
	}
	if err := paths.ResolveRelativePaths(model, "", nil); err != nil {
		return composeProject{}, err
	}

	profiles, dependsOn := modelProfiles(model), modelDependencies(model)
	model = buildModel(model)
	if len(model) == 0 {
		return composeProject{}, errors.New("empty compose file")
	}
	if err := schema.Validate(model); err != nil {
		return composeProject{}, err
	}
	if base != "" {
		moveEnvFiles(model, base)
	}
	options := loader.ToOptions(&details, []func(*loader.Options){func(lo *loader.Options) {
		lo.SkipNormalization = true
		lo.Profiles = []string{"*"}
		adjust(lo)
	}})
	built, err := loader.ModelToProject(model, options, details)
	if err != nil {
		err = firstEnvFile(model, err, func(model map[string]any) error {
			_, err := loader.ModelToProject(model, options, details)
			return err
		})
		if strings.Contains(err.Error(), missingEnvFile) {
			err = fmt.Errorf("%w; a file that is there at run time only is given as {path: FILE, required: false}", err)
		}
		return composeProject{}, err
	}
	return composeProject{built, profiles, dependsOn}, nil
}

// missingEnvFile is how compose-go begins about an env_file that is not there.
const missingEnvFile = "env file "

// substitute replaces the variables of a string, and warns of those that are not
// set and have no default.
func (o composeOptions) substitute(s string, lookup template.Mapping) (string, error) {
	if o.Warn != nil && strings.Contains(s, "$") {
		found := template.ExtractVariables(map[string]any{"": s}, template.DefaultPattern)
		for _, name := range slices.Sorted(maps.Keys(found)) {
			v := found[name]
			if _, set := lookup(name); !set && !v.Required && v.DefaultValue == "" && v.PresenceValue == "" {
				o.Warn(fmt.Sprintf("The %q variable is not set. Defaulting to a blank string.", name))
			}
		}
	}
	return template.SubstituteWithOptions(s, lookup, template.WithoutLogging)
}

// modelProfiles returns the profiles of the services of a model.
func modelProfiles(model map[string]any) map[string][]string {
	out := map[string][]string{}
	services, _ := model["services"].(map[string]any)
	for name, service := range services {
		s, _ := service.(map[string]any)
		list, _ := s["profiles"].([]any)
		for _, p := range list {
			out[name] = append(out[name], fmt.Sprint(p))
		}
	}
	return out
}

// modelDependencies returns the dependencies of a model's services.
func modelDependencies(model map[string]any) map[string][]string {
	out := map[string][]string{}
	services, _ := model["services"].(map[string]any)
	for name, service := range services {
		s, _ := service.(map[string]any)
		if on, ok := s["depends_on"].(map[string]any); ok {
			out[name] = slices.Sorted(maps.Keys(on))
		}
	}
	return out
}

// enabled reports whether a service belongs to the group "default".
func (o composeOptions) enabled(profiles []string) bool {
	return len(o.Profiles) == 0 || len(profiles) == 0 || slices.Contains(o.Profiles, "*") ||
		slices.ContainsFunc(profiles, func(p string) bool { return slices.Contains(o.Profiles, p) })
}

// buildModel returns the part of a model that builds depend on.
func buildModel(model map[string]any) map[string]any {
	out := make(map[string]any, 2)
	if services, ok := model["services"].(map[string]any); ok {
		kept := make(map[string]any, len(services))
		for name, service := range services {
			switch service := service.(type) {
			case nil:
				kept[name] = map[string]any{}
			case map[string]any:
				s := make(map[string]any, 4)
				for _, key := range []string{"image", "build", "environment", "env_file", ownExtensionKey} {
					if v, ok := service[key]; ok {
						s[key] = v
					}
				}
				kept[name] = s
			}
		}
		out["services"] = kept
	}
	if secrets, ok := model["secrets"]; ok {
		out["secrets"] = secrets
	}
	return out
}

// firstEnvFile returns err, which may be about the env_file of any service, for
// the first of them by name, so that the same files give the same message.
func firstEnvFile(model map[string]any, err error, convert func(map[string]any) error) error {
	services, _ := model["services"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(services)) {
		one := maps.Clone(services)
		for other, service := range services {
			if s, ok := service.(map[string]any); ok && other != name {
				s = maps.Clone(s)
				delete(s, "env_file")
				one[other] = s
			}
		}
		alone := maps.Clone(model)
		alone["services"] = one
		if err := convert(alone); err != nil {
			return err
		}
	}
	return err
}

// moveEnvFiles makes the relative paths of env_file entries start at base: they
// are read, and not passed on as the other paths are.
func moveEnvFiles(model map[string]any, base string) {
	services, _ := model["services"].(map[string]any)
	for _, service := range services {
		s, _ := service.(map[string]any)
		files, _ := s["env_file"].([]any)
		for _, file := range files {
			f, _ := file.(map[string]any)
			if p, ok := f["path"].(string); ok && p != "" && !filepath.IsAbs(p) {
				f["path"] = filepath.Join(base, p)
			}
		}
	}
}

// parseCompose reads compose files as one project: a target for each service
// with a build section, and the group "default" of them all if there is any
// service.
//
// Upstream takes services and ulimits in random order. Here they come in the byte
// order of their names, so that of two services whose names become one target,
// the later name wins.
func parseCompose(ctx context.Context, files []sourceFile, opt composeOptions) ([]*definition, []ir.Group, error) {
	env, err := opt.environment()
	if err != nil {
		var advised *advisedError
		if errors.As(err, &advised) {
			return nil, nil, fmt.Errorf("failed to parse compose file: %w. %s", err, advised.advice)
		}
		return nil, nil, fmt.Errorf("failed to parse compose file: %w", err)
	}
	configs := make([]types.ConfigFile, len(files))
	for i, f := range files {
		configs[i] = configFile(f.Data, f.Name)
	}
	opt.At.inFile(files[0].Name)
	project, err := opt.load(ctx, configs, env, func(*loader.Options) {})
	if err == nil {
		defs, groups, convertErr := composeTargets(ctx, project, files, opt, env)
		if convertErr == nil {
			return defs, groups, nil
		}
		err = convertErr
	} else if strings.Contains(err.Error(), unbuildable) {
		err = opt.firstUnbuildable(ctx, configs, env, err)
	}
	err = fmt.Errorf("failed to parse compose file: %w", err)
	return nil, nil, explainCompose(ctx, err, files, opt, env)
}

// unbuildable is what compose-go says of a service that has neither key.
const unbuildable = "has neither an image nor a build context specified"

// firstUnbuildable returns err, which is about any such service, for the first of
// them by name, so that the same files give the same message.
func (o composeOptions) firstUnbuildable(ctx context.Context, files []types.ConfigFile, env map[string]string, err error) error {
	o.Warn = nil
	project, loadErr := o.load(ctx, files, env, func(lo *loader.Options) { lo.SkipConsistencyCheck = true })
	if loadErr != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		if s := project.Services[name]; s.Build == nil && s.Image == "" {
			return fmt.Errorf("service %q %s: %w", name, unbuildable, errdefs.ErrInvalid)
		}
	}
	return err
}

// composeTargets turns the services of a project into targets.
func composeTargets(ctx context.Context, project composeProject, files []sourceFile, opt composeOptions, env map[string]string) ([]*definition, []ir.Group, error) {
	if len(project.Services) == 0 {
		return nil, nil, nil
	}
	places := newComposePlaces(files, opt.base(), env)
	group := ir.Group{Name: defaultGroup, Range: places.top("services")}
	var defs []*definition
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		if err := ctx.Err(); err != nil {
			return nil, nil, context.Cause(ctx)
		}
		service := project.Services[name]
		if service.Build == nil {
			continue
		}
		d, err := serviceTarget(project.Project, service)
		if err != nil {
			return nil, nil, &composeError{path: []string{"services", name, "build"}, err: err}
		}
		d.origins = places.origins(service, d)
		d.builtWith = project.builtWith(name)
		if len(files) > 0 {
			d.base = composeBase(files[0].Name, d)
		}
		if opt.enabled(project.profiles[name]) {
			group.Targets = append(group.Targets, d.name)
		}
		defs = append(defs, d)
	}
	return defs, []ir.Group{group}, nil
}

// composeError is a problem with the value at a path of the merged files. Its
// text is that of its cause.
type composeError struct {
	path []string
	err  error
}

func (e *composeError) Error() string { return e.err.Error() }
func (e *composeError) Unwrap() error { return e.err }

// inBuild says which key of the build section an error is about.
func inBuild(err error, keys ...string) error {
	if err == nil {
		return nil
	}
	return &composeError{path: keys, err: err}
}

// composeBase returns the base of the local paths of d: the directory of the
// first file, whichever file they stand in.
func composeBase(file string, d *definition) pathBase {
	dir := fileDir(file)
	if dir == "" {
		return pathBase{}
	}
	base := pathBase{file: &dir}
	if d.context != nil {
		base.context = &dir
	}
	if len(d.contexts) > 0 {
		base.contexts = make(map[string]string, len(d.contexts))
		for name := range d.contexts {
			base.contexts[name] = dir
		}
	}
	return base
}

// composeTargetName returns the target name of a service: target names have no
// dots.
func composeTargetName(service string) string { return strings.ReplaceAll(service, ".", "_") }

// serviceTarget turns a service with a build section into a target.
func serviceTarget(project *types.Project, service types.ServiceConfig) (*definition, error) {
	build := service.Build
	d := &definition{name: composeTargetName(service.Name)}
	if err := validateName(d.name); err != nil {
		return nil, fmt.Errorf("invalid service name %q: %w", d.name, err)
	}

	d.context = optional(build.Context)
	d.dockerfile = optional(build.Dockerfile)
	d.dockerfileInline = optional(build.DockerfileInline)
	d.stage = optional(build.Target)
	d.network = optional(build.Network)
	d.pull = optional(build.Pull)
	d.noCache = optional(build.NoCache)
	if build.AdditionalContexts != nil {
		d.contexts = composeContexts(build.AdditionalContexts)
	}
	if build.ShmSize > 0 {
		size := units.BytesSize(float64(build.ShmSize))
		d.shmSize = &size
	}
	d.args = composeArgs(project, service)
	d.tags = build.Tags
	d.platforms = build.Platforms

	d.labels = make(map[string]*string, len(build.Labels))
	for k, v := range build.Labels {
		d.labels[k] = &v
	}
	d.extraHosts = composeHosts(build.ExtraHosts)
	d.ssh = composeSSH(build.SSH)
	var err error
	if d.ulimits, err = composeUlimits(build.Ulimits); err != nil {
		return nil, err
	}
	if d.secrets, err = composeSecrets(project, build.Secrets); err != nil {
		return nil, err
	}
	if err := composeCaches(d, build); err != nil {
		return nil, err
	}
	if d.attest, err = composeAttests(build); err != nil {
		return nil, err
	}
	if err := extendTarget(d, build.Extensions); err != nil {
		return nil, inBuild(err, extensionKey)
	}
	if d.gates, err = composeGates(build.Extensions); err != nil {
		return nil, inBuild(err, ownExtensionKey)
	}
	more, err := composeGates(service.Extensions)
	if err != nil {
		return nil, err
	}
	d.gates = append(d.gates, more...)
	if len(d.tags) == 0 && service.Image != "" {
		d.tags = []string{service.Image}
	}
	return d, nil
}

// optional returns nil for the zero value, which in compose's model means that
// the key was not set.
func optional[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// composeArgs returns the build arguments of a service. An argument without a
// value takes the one that the service's environment has for it, then the one of
// the project's environment; without either it is not passed.
func composeArgs(project *types.Project, service types.ServiceConfig) map[string]*string {
	if len(service.Build.Args) == 0 {
		return nil
	}
	args := make(map[string]*string, len(service.Build.Args))
	for name, value := range service.Build.Args {
		if value == nil {
			value = service.Environment[name]
		}
		if value == nil {
			if v, ok := project.Environment[name]; ok {
				value = &v
			}
		}
		if value != nil {
			args[name] = value
		}
	}
	return args
}

// composeHosts returns extra hosts, with the addresses of each joined by commas.
func composeHosts(hosts types.HostsList) map[string]*string {
	out := make(map[string]*string, len(hosts))
	for host, addresses := range hosts {
		joined := strings.Join(addresses, ",")
		out[host] = &joined
	}
	return out
}

// composeUlimits returns limits as bake writes them, sorted by name.
func composeUlimits(limits map[string]*types.UlimitsConfig) ([]string, error) {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		u := limits[name]
		limit, err := units.ParseUlimit(fmt.Sprintf("%s=%d:%d", name, u.Soft, u.Hard))
		if err != nil {
			return nil, inBuild(err, "ulimits", name)
		}
		list = append(list, limit.String())
	}
	return list, nil
}

// composeSSH returns the agents and keys that a build may use, sorted.
func composeSSH(keys types.SSHConfig) []ir.SSH {
	var list []ir.SSH
	for _, key := range keys {
		entry := ir.SSH{ID: key.ID}
		if key.Path != "" {
			entry.Paths = []string{key.Path}
		}
		list = append(list, entry)
	}
	slices.SortFunc(list, compareSSH)
	return list
}

// composeSecrets returns the secrets that a build uses, as the project declares them.
func composeSecrets(project *types.Project, uses []types.ServiceSecretConfig) ([]*ir.Secret, error) {
	var list []*ir.Secret
	for _, use := range uses {
		secret := project.Secrets[use.Source]
		if secret.External {
			return nil, inBuild(fmt.Errorf("unsupported external secret %s", secret.Name), "secrets")
		}
		list = append(list, &ir.Secret{ID: use.Source, Src: secret.File, Env: secret.Environment})
	}
	return list, nil
}

// composeCaches reads the caches of a build into d.
func composeCaches(d *definition, build *types.BuildConfig) error {
	cacheFrom, err := parseCacheEntries(build.CacheFrom)
	if err != nil {
		return inBuild(err, "cache_from")
	}
	d.cacheFrom = pointers(cacheFrom)
	d.cacheTo, err = parseCacheEntries(build.CacheTo)
	return inBuild(err, "cache_to")
}

// composeAttests returns the attestations that a build is to have.
func composeAttests(build *types.BuildConfig) ([]ir.Attest, error) {
	var list []ir.Attest
	for _, a := range []struct{ key, value string }{{"sbom", build.SBOM}, {"provenance", build.Provenance}} {
		s := attestShorthand(a.key, a.value)
		if s == "" {
			continue
		}
		attest, err := parseAttest(s)
		if err != nil {
			return nil, inBuild(err, a.key)
		}
		list = append(list, attest)
	}
	return list, nil
}

// composeContexts returns named contexts with references to other services in
// the form that targets have.
func composeContexts(contexts map[string]string) map[string]string {
	out := make(map[string]string, len(contexts))
	for name, value := range contexts {
		for _, prefix := range []string{"service:", "target:"} {
			if service, ok := strings.CutPrefix(value, prefix); ok {
				value = "target:" + composeTargetName(service)
				break
			}
		}
		out[name] = value
	}
	return out
}
