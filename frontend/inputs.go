package frontend

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
)

// source is what a local source name means: a directory, or files that exist
// only in memory.
type source struct {
	dir   string
	files map[string][]byte
}

// inputs is all that the frontend is given for one unit.
type inputs struct {
	unit     ir.Unit
	platform ocispecs.Platform

	attrs map[string]string         // frontend options
	defs  map[string]*pb.Definition // frontend inputs
	links map[string][]*Unit
	// linked are the results of linked units that are frontend inputs besides defs.
	linked map[string]*Unit

	// sources are what the local names in recorded definitions mean; rename
	// maps those of them that are not stable to ones that are.
	sources   map[string]source
	rename    map[string]string
	ociStores map[string]string

	// dockerfileURL is set when the Dockerfile has yet to be fetched.
	dockerfileURL string
	// dockerfilePath is the Dockerfile as errors should call it; inline is true
	// when it stands in the bake file.
	dockerfilePath string
	// dockerfileRoot is what dockerfilePath is in when that is not this machine: the
	// context, or the directory of the remote definition.
	dockerfileRoot string
	inline         bool
}

// The names that frontends give to the main context and to the directory of the
// Dockerfile, whatever directories these are.
const (
	recordedContext    = dockerui.DefaultLocalNameContext
	recordedDockerfile = dockerui.DefaultLocalNameDockerfile
)

// prepare finds out what the unit is made from and turns the attributes of its
// target into frontend options.
func (c *compilation) prepare(ctx context.Context, u ir.Unit, links map[string][]*Unit) (*inputs, error) {
	in := &inputs{
		unit:      u,
		attrs:     map[string]string{},
		defs:      map[string]*pb.Definition{},
		links:     links,
		linked:    map[string]*Unit{},
		sources:   map[string]source{},
		rename:    map[string]string{},
		ociStores: map[string]string{},
	}
	var err error
	if in.platform, err = c.unitPlatform(u); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context, *inputs) error{c.mainContext, c.namedContexts} {
		if err := step(ctx, in); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(*inputs) error{c.optionAttrs, c.attestAttrs, c.vcsAttrs} {
		if err := step(in); err != nil {
			return nil, err
		}
	}
	for _, k := range ir.SortedKeys(c.ProxyArgs) {
		setDefault(in.attrs, "build-arg:"+k, c.ProxyArgs[k])
	}
	if err := c.gitQueries(ctx, in); err != nil {
		return nil, err
	}
	return in, nil
}

func setDefault(m map[string]string, k, v string) {
	if _, ok := m[k]; !ok {
		m[k] = v
	}
}

// at makes an error at an attribute of the unit's target.
func (in *inputs) at(attr string, err error, format string, args ...any) error {
	return &ir.SourceError{Range: in.unit.Target.Origin(attr), Summary: fmt.Sprintf(format, args...), Err: err}
}

// addDir makes dir a source and returns its name.
func (c *compilation) addDir(in *inputs, dir string) (string, error) {
	real, err := realPath(dir)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	name := c.stableName("dir", real)
	in.sources[name] = source{dir: real}
	return name, nil
}

func isHTTP(s string) bool {
	return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://")
}

func isDir(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.IsDir()
}

// knownDockerfile is the Dockerfile as the user knows it, wherever it is.
func (in *inputs) knownDockerfile() string {
	switch {
	case in.dockerfileRoot == "":
		return in.dockerfilePath
	case ir.IsRemote(in.dockerfileRoot):
		return in.dockerfilePath + " of " + in.dockerfileRoot
	}
	return path.Join(in.dockerfileRoot, in.dockerfilePath)
}

// mainContext settles the build context and the Dockerfile.
func (c *compilation) mainContext(ctx context.Context, in *inputs) error {
	t := in.unit.Target
	where := t.Context.Dir()
	local := t.Context.Kind == ir.SourceDir
	tree := t.Context.Kind == ir.SourceTree && !hasURL(t.Context)
	switch {
	case local && where == "-":
		return in.at("context", nil, "context from stdin not allowed in bake")
	case tree:
		def, err := c.subtree(ctx, where)
		if err != nil {
			return in.at("context", err, "unable to prepare context: %v", err)
		}
		in.defs[recordedContext] = def
	case local && !isDir(c.abs(where)):
		return in.at("context", fs.ErrNotExist, "unable to prepare context: path %q not found", where)
	case local:
		name, err := c.addDir(in, c.abs(where))
		if err != nil {
			return in.at("context", err, "unable to prepare context: %v", err)
		}
		in.sources[recordedContext] = in.sources[name]
		in.rename[recordedContext] = name
	default:
		in.attrs["context"] = t.Context.URL()
	}

	dockerfile, cwd := strings.CutPrefix(t.Dockerfile, "cwd://")
	if dockerfile == "" {
		dockerfile = dockerui.DefaultDockerfileName
	}
	switch {
	case t.DockerfileInline != nil:
		in.inline = true
		in.dockerfilePath = t.Name + " dockerfile-inline"
		in.memoryDockerfile([]byte(*t.DockerfileInline))
		return c.refusePolicy(in, "")
	case dockerfile == "-":
		return in.at("dockerfile", nil, "dockerfile from stdin not allowed in bake")
	case isHTTP(dockerfile):
		in.dockerfileURL = dockerfile
		in.dockerfilePath = dockerfile
		return c.refusePolicy(in, "")
	case !local && !cwd && !filepath.IsAbs(dockerfile):
		// The Dockerfile lies in the remote context.
		if tree {
			in.defs[recordedDockerfile] = in.defs[recordedContext]
		}
		in.attrs["filename"] = filepath.ToSlash(dockerfile)
		in.dockerfilePath = dockerfile
		in.dockerfileRoot = t.Context.URL()
		if tree {
			in.dockerfileRoot = where
		}
		return c.refusePolicy(in, "")
	}

	if cwd || filepath.IsAbs(dockerfile) {
		dockerfile = c.abs(dockerfile)
	} else {
		dockerfile = filepath.Join(c.abs(where), dockerfile)
	}
	in.dockerfilePath = c.show(dockerfile)
	name, err := c.addDir(in, filepath.Dir(dockerfile))
	if err != nil {
		return in.at("dockerfile", err, "failed to read dockerfile: open %s: %v", in.dockerfilePath, cause(err))
	}
	in.dockerfileSource(name, actualName(in.sources[name].dir, filepath.Base(dockerfile)))
	return c.refusePolicy(in, filepath.Join(in.sources[name].dir, in.attrs["filename"]))
}

// hasURL reports whether the directory of a remote definition that is a context has a
// URL of its own: in a URL there is no way up.
func hasURL(s ir.Source) bool {
	dir := path.Clean(s.Path)
	return s.Text != "" && dir != ".." && !strings.HasPrefix(dir, "../")
}

// errNoTree is why directories of a remote definition cannot be contexts.
var errNoTree = errors.New("it is a directory of a remote definition that was not fetched")

// subtree returns a directory of the remote definition.
func (c *compilation) subtree(ctx context.Context, dir string) (*pb.Definition, error) {
	if c.Tree == nil {
		return nil, errNoTree
	}
	if dir = path.Join("/", dir); dir == "/" {
		return c.Tree, nil
	}
	root, err := defState(c.Tree)
	if err != nil {
		return nil, err
	}
	st := llb.Scratch().File(llb.Copy(root, dir, "/", &llb.CopyInfo{CopyDirContentsOnly: true}),
		dockerui.WithInternalName("set context to "+dir))
	def, err := st.Marshal(ctx, llb.Platform(c.NodePlatform))
	if err != nil {
		return nil, err
	}
	return def.ToPB(), nil
}

// memoryDockerfile makes data the Dockerfile.
func (in *inputs) memoryDockerfile(data []byte) {
	name := "inline-" + digest.FromBytes(data).Encoded()[:12]
	in.sources[name] = source{files: map[string][]byte{dockerui.DefaultDockerfileName: data}}
	in.dockerfileSource(name, dockerui.DefaultDockerfileName)
}

// dockerfileSource makes filename in the local source called name the Dockerfile.
func (in *inputs) dockerfileSource(name, filename string) {
	in.attrs["dockerfilekey"] = name
	in.attrs["filename"] = filename
	// There are frontends that do not know the option.
	in.sources[recordedDockerfile] = in.sources[name]
	in.rename[recordedDockerfile] = name
}

// actualName returns the name of the Dockerfile as it stands in dir: "Dockerfile"
// may be written in lower case.
func actualName(dir, name string) string {
	if name != dockerui.DefaultDockerfileName {
		return name
	}
	if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
		lower := strings.ToLower(name)
		if _, err := os.Lstat(filepath.Join(dir, lower)); err == nil {
			return lower
		}
	}
	return name
}

// refusePolicy refuses source policies: a build that asks for one must not run
// without it. The policy may lie beside the Dockerfile, whose path on this
// machine is dockerfile.
func (c *compilation) refusePolicy(in *inputs, dockerfile string) error {
	if policyDisabled(in.unit.Target) {
		return nil
	}
	for _, p := range in.unit.Target.Policy {
		if p.Filename != "" {
			return policyError(in, p.Filename)
		}
	}
	if dockerfile == "" {
		return nil
	}
	if _, err := os.Lstat(dockerfile + policySuffix); err == nil {
		return policyError(in, c.show(dockerfile+policySuffix))
	}
	return nil
}

// refuseRemotePolicy is refusePolicy for a Dockerfile that lies in a remote
// context.
func (c *compilation) refuseRemotePolicy(ctx context.Context, in *inputs, rec *recorder) error {
	if rec.dockerfile == nil || policyDisabled(in.unit.Target) {
		return nil
	}
	name := in.attrs["filename"] + policySuffix
	if _, err := rec.dockerfile.StatFile(ctx, gateway.StatRequest{Path: name}); err != nil {
		return nil
	}
	return policyError(in, name)
}

// policySuffix, appended to the name of a Dockerfile, is the name of its policy.
const policySuffix = ".rego"

func policyDisabled(t *ir.Target) bool {
	return slices.ContainsFunc(t.Policy, func(p ir.Policy) bool { return p.Disabled })
}

func policyError(in *inputs, file string) error {
	return &ir.SourceError{
		Range:   in.unit.Target.Origin("policy"),
		Summary: fmt.Sprintf("source policy %s of target %s cannot be enforced", file, in.unit.Target.Name),
		Detail:  "dbake does not evaluate Rego policies; build this target with docker buildx, or disable the policy with policy = [\"disabled=true\"]",
	}
}

// namedContexts settles the contexts attribute.
func (c *compilation) namedContexts(ctx context.Context, in *inputs) error {
	t := in.unit.Target
	for _, k := range ir.SortedKeys(t.Contexts) {
		from := t.Contexts[k]
		v, _ := ir.ParsePath(from.Text)
		at := "contexts." + k
		// A frontend that knows no named contexts must not be asked.
		in.attrs["frontend.caps"] = "moby.buildkit.frontend.contexts+forward"
		switch from.Kind {
		case ir.SourceTarget:
			if err := c.linkedContext(in, k, from.Ref); err != nil {
				return err
			}
		case ir.SourceTree:
			def, err := c.subtree(ctx, from.Path)
			if err != nil {
				return in.at(at, err, "failed to get build context %s: %s: %v", k, v, err)
			}
			// No linked target brings an input of this name.
			name := "definition::" + from.Path
			in.defs[name] = def
			in.attrs["context:"+k] = "input:" + name
		case ir.SourceImage, ir.SourceGit, ir.SourceHTTP:
			in.attrs["context:"+k] = v
		case ir.SourceLayout:
			ref, err := c.ociLayout(in, from)
			if err != nil {
				return in.at(at, err, "oci-layout reference %q could not be resolved: %v", v, err)
			}
			in.attrs["context:"+k] = ref
		case ir.SourceDir:
			name, err := c.addDir(in, c.abs(from.Dir()))
			if err != nil {
				return in.at(at, err, "failed to get build context %s: %s: %v", k, v, cause(err))
			}
			in.attrs["context:"+k] = "local:" + name
		}
	}
	nameContexts(in.attrs, ir.SortedKeys(t.Contexts))
	return nil
}

// nameContexts makes contexts whose keys are names of images known by the short form
// of the name as well: the frontend looks for library/golang as golang, however FROM
// spells it.
func nameContexts(attrs map[string]string, keys []string) {
	for _, k := range keys {
		named, err := reference.ParseNormalizedNamed(k)
		if err != nil {
			continue
		}
		short := strings.TrimSuffix(reference.FamiliarString(named), ":latest")
		if short == k {
			continue
		}
		for _, attr := range ir.SortedKeys(attrs) {
			if rest, ok := strings.CutPrefix(attr, "context:"+k); ok && (rest == "" || strings.HasPrefix(rest, "::")) {
				setDefault(attrs, "context:"+short+rest, attrs[attr])
			}
		}
	}
}

// linkedContext hands the results of target name over as context k.
func (c *compilation) linkedContext(in *inputs, k, name string) error {
	parents := in.links[name]
	add := func(suffix, input string, u *Unit) error {
		in.attrs["context:"+k+suffix] = "input:" + input
		if in.defs[input] != nil || in.linked[input] != nil {
			return nil
		}
		in.linked[input] = u
		if input == recordedDockerfile && !in.inline && in.dockerfileURL == "" {
			// An input of this name holds the Dockerfile, unless the option is
			// there. One named "context" replaces the main context.
			delete(in.attrs, "dockerfilekey")
		}
		if u.Config == nil {
			return nil
		}
		md, err := marshalMetadata(map[string][]byte{exptypes.ExporterImageConfigKey: u.Config})
		if err != nil {
			return err
		}
		in.attrs["input-metadata:"+input] = md
		return nil
	}
	if len(parents) == 1 && !parents[0].MultiPlatform {
		return add("", k, parents[0])
	}
	for _, u := range parents {
		id := platforms.FormatAll(u.Platform)
		if err := add("::"+id, k+"::"+id, u); err != nil {
			return err
		}
		// Where no platform is asked for, the frontend looks for the one of the
		// process it runs in, which here may be another one than the nodes'.
		if here := platforms.FormatAll(platforms.Normalize(platforms.DefaultSpec())); id == c.platform && here != id {
			setDefault(in.attrs, "context:"+k+"::"+here, "input:"+k+"::"+id)
		}
	}
	return nil
}

// optionAttrs settles the attributes that become one option each.
func (c *compilation) optionAttrs(in *inputs) error {
	t := in.unit.Target
	a := in.attrs
	for _, k := range ir.SortedKeys(t.Args) {
		a["build-arg:"+k] = t.Args[k]
	}
	for _, k := range ir.SortedKeys(t.Labels) {
		a["label:"+k] = t.Labels[k]
	}
	if t.Stage != "" {
		a["target"] = t.Stage
	}
	if in.unit.Platform != "" {
		a["platform"] = platforms.FormatAll(in.platform)
	}
	if err := multiPlatform(in); err != nil {
		return err
	}
	switch {
	case isTrue(t.NoCache):
		a["no-cache"] = ""
	case len(t.NoCacheFilter) > 0:
		a["no-cache"] = strings.Join(t.NoCacheFilter, ",")
	}
	if isTrue(t.Pull) {
		a["image-resolve-mode"] = pb.AttrImageResolveModeForcePull
	}
	if t.Network != nil {
		switch n := *t.Network; n {
		case "", "default":
		case "host", "none":
			a["force-network-mode"] = n
		default:
			return in.at("network", nil, "network mode %q not supported by buildkit", n)
		}
	}
	if t.ShmSize != nil && *t.ShmSize != "" {
		n, err := units.RAMInBytes(*t.ShmSize)
		if err != nil {
			return in.at("shm-size", err, "invalid shm-size %q: %v", *t.ShmSize, err)
		}
		a["shm-size"] = strconv.FormatInt(n, 10)
	}
	if err := ulimitAttr(in); err != nil {
		return err
	}
	if err := extraHostsAttr(in, c.HostGateway); err != nil {
		return err
	}
	return resourceAttrs(in)
}

func isTrue(b *bool) bool { return b != nil && *b }

// multiPlatform decides whether the target's result is an index.
func multiPlatform(in *inputs) error {
	t := in.unit.Target
	several := len(t.PlatformList()) > 1
	if v := t.Args["BUILDKIT_MULTI_PLATFORM"]; v != "" {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return in.at("args.BUILDKIT_MULTI_PLATFORM", err, "invalid boolean value for multi-platform: %s", v)
		}
		if !b && several {
			return in.at("args.BUILDKIT_MULTI_PLATFORM", nil, "conflicting config: returning multiple target platforms is not allowed")
		}
		return nil // the frontend reads the arg
	}
	if several {
		in.attrs["multi-platform"] = "true"
	}
	return nil
}

func ulimitAttr(in *inputs) error {
	limits := map[string]string{}
	for _, v := range in.unit.Target.Ulimits {
		u, err := units.ParseUlimit(v)
		if err != nil {
			return in.at("ulimits", err, "invalid ulimit %q: %v", v, err)
		}
		limits[u.Name] = u.String()
	}
	if len(limits) > 0 {
		// By name: the order is part of each step's digest.
		names := ir.SortedKeys(limits)
		for i, n := range names {
			names[i] = limits[n]
		}
		in.attrs["ulimit"] = strings.Join(names, ",")
	}
	return nil
}

// extraHostsAttr writes the hosts in order of name: the order is part of each
// step's digest. gateway is what "host-gateway" stands for.
func extraHostsAttr(in *inputs, gateway string) error {
	var hosts []string
	for _, host := range ir.SortedKeys(in.unit.Target.ExtraHosts) {
		for ip := range strings.SplitSeq(in.unit.Target.ExtraHosts[host], ",") {
			at := "extra-hosts." + host
			if ip == ir.HostGateway {
				if gateway == "" {
					return in.at(at, nil, "unable to derive the IP value for host-gateway: only a Docker engine knows it, and all nodes must have the same")
				}
				ip = gateway
			}
			if len(ip) > 2 && ip[0] == '[' && ip[len(ip)-1] == ']' {
				ip = ip[1 : len(ip)-1]
			}
			if net.ParseIP(ip) == nil {
				return in.at(at, nil, "invalid host %s:%s", host, ip)
			}
			hosts = append(hosts, host+"="+ip)
		}
	}
	if len(hosts) > 0 {
		in.attrs["add-hosts"] = strings.Join(hosts, ",")
	}
	return nil
}

func resourceAttrs(in *inputs) error {
	r := in.unit.Target.Resources
	if r == nil {
		return nil
	}
	for _, m := range []struct {
		attr, option string
		value        *string
	}{
		{"memory", "memory", r.Memory},
		{"memory-swap", "memswap", r.MemorySwap},
	} {
		if m.value == nil || *m.value == "" {
			continue
		}
		n := int64(-1) // memory-swap -1 is "unlimited"
		if *m.value != "-1" || m.attr == "memory" {
			var err error
			if n, err = units.RAMInBytes(*m.value); err != nil {
				return in.at("resources."+m.attr, err, "invalid %s %q: %v", m.attr, *m.value, err)
			}
		}
		in.attrs[m.option] = strconv.FormatInt(n, 10)
	}
	for option, value := range map[string]*int64{
		"cpushares": r.CPUShares, "cpuperiod": r.CPUPeriod, "cpuquota": r.CPUQuota,
	} {
		if value != nil && *value != 0 {
			in.attrs[option] = strconv.FormatInt(*value, 10)
		}
	}
	for option, value := range map[string]*string{
		"cpusetcpus": r.CpusetCPUs, "cpusetmems": r.CpusetMems,
	} {
		if value != nil && *value != "" {
			in.attrs[option] = *value
		}
	}
	return nil
}

// attestAttrs settles the attestations. A type that is asked for twice keeps its
// first request.
func (c *compilation) attestAttrs(in *inputs) error {
	seen := map[string]bool{}
	for _, a := range in.unit.Target.Attest {
		if seen[a.Type] {
			continue
		}
		seen[a.Type] = true
		if a.Disabled {
			continue
		}
		fields := make([]string, 0, len(a.Attrs))
		for _, k := range ir.SortedKeys(a.Attrs) {
			if k != "type" && k != "disabled" {
				fields = append(fields, csvField(k+"="+a.Attrs[k]))
			}
		}
		in.attrs["attest:"+a.Type] = strings.Join(fields, ",")
	}
	if !seen["provenance"] && c.DefaultProvenance != "" {
		in.attrs["attest:provenance"] = c.DefaultProvenance
	}
	return nil
}

// csvField quotes s where the CSV reader on the other side needs it.
func csvField(s string) string {
	if !strings.ContainsAny(s, ",\"\n\r") && !strings.HasPrefix(s, " ") {
		return s
	}
	return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
}

// cause returns the reason in a path error, whose path is that of this machine
// rather than the one the user wrote.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// withSession calls fn with what a node may ask for while it compiles the unit.
// Files that exist in memory only are on disk during the call. Steps of linked
// targets name secrets and agents by marked ids, see [idTable.mark].
func (in *inputs) withSession(ids *idTable, fn func(Session) error) error {
	t := in.unit.Target
	s := Session{
		Platform:  in.platform,
		Locals:    map[string]string{},
		OCIStores: maps.Clone(in.ociStores),
		Secrets:   map[string]Secret{},
		SSH:       map[string]ir.SSH{},
	}
	for _, secret := range t.Secrets {
		if _, ok := s.Secrets[secret.ID]; !ok {
			s.Secrets[secret.ID] = Secret{Secret: secret}
		}
	}
	for _, agent := range t.SSH {
		if _, ok := s.SSH[sshID(agent.ID)]; !ok {
			s.SSH[sshID(agent.ID)] = agent
		}
	}
	for _, links := range in.links {
		for _, u := range links {
			for id, secret := range u.Secrets {
				s.Secrets[ids.linked+id] = secret
			}
			for id, agent := range u.SSH {
				s.SSH[ids.linked+id] = agent
			}
			for name, l := range u.Locals {
				s.Locals[name] = l.Dir
			}
			maps.Copy(s.OCIStores, u.OCIStores)
		}
	}
	for name, src := range in.sources {
		if src.files == nil {
			s.Locals[name] = src.dir
			continue
		}
		dir, err := os.MkdirTemp("", "dbake-dockerfile-")
		if err != nil {
			return fmt.Errorf("stage Dockerfile for a node: %w", err)
		}
		defer os.RemoveAll(dir)
		for file, data := range src.files {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
				return fmt.Errorf("stage Dockerfile for a node: %w", err)
			}
		}
		s.Locals[name] = dir
	}
	return fn(s)
}
