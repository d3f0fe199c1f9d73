package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	bkclient "github.com/moby/buildkit/client"
	"golang.org/x/term"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/runtime"
)

// The keys of --allow.
const (
	allowNetworkHost      = entitlement.NetworkHost
	allowSecurityInsecure = entitlement.SecurityInsecure
	allowSSH              = "ssh"
	allowDevice           = entitlement.Device
	allowFS               = "fs"
	allowFSRead           = "fs.read"
	allowFSWrite          = "fs.write"
	allowImage            = "image"
	allowImagePush        = "image.push"
	allowImageLoad        = "image.load"
	allowLocalDelete      = "buildx.local.delete"
)

// The environment that changes how files are guarded.
const (
	envEntitlementsFS = "BUILDX_BAKE_ENTITLEMENTS_FS"
	envRemoteFSAccess = "BAKE_ALLOW_REMOTE_FS_ACCESS"
)

// anyPath, as a path of --allow, is every path.
const anyPath = "*"

// privileges is a set of what a build may do beyond running sandboxed steps on
// the files of the working directory: what was granted, or what is missing.
type privileges struct {
	networkHost, securityInsecure bool
	ssh                           bool // the agent of the environment
	localDelete                   bool
	allDevices                    bool
	devices                       map[string]bool
	read, write                   map[string]bool // paths
}

func newPrivileges() *privileges {
	return &privileges{devices: map[string]bool{}, read: map[string]bool{}, write: map[string]bool{}}
}

// parseAllow reads the values of --allow.
func parseAllow(values []string) (*privileges, error) {
	p := newPrivileges()
	for _, v := range values {
		key, value, hasValue := strings.Cut(v, "=")
		switch key {
		case allowNetworkHost, allowSecurityInsecure, allowSSH:
			if hasValue {
				return nil, fmt.Errorf("unknown entitlement key %q", key)
			}
		}
		switch key {
		case allowNetworkHost:
			p.networkHost = true
		case allowSecurityInsecure:
			p.securityInsecure = true
		case allowSSH:
			p.ssh = true
		case allowLocalDelete:
			if hasValue {
				return nil, fmt.Errorf("%s does not accept a value", allowLocalDelete)
			}
			p.localDelete = true
		case allowDevice:
			if err := p.addDevice(value); err != nil {
				return nil, err
			}
		case allowFS:
			p.read[value], p.write[value] = true, true
		case allowFSRead:
			p.read[value] = true
		case allowFSWrite:
			p.write[value] = true
		case allowImage, allowImagePush, allowImageLoad:
			// Images are pushed and loaded without a grant; bake reads these keys
			// and asks for none of them either.
		default:
			return nil, fmt.Errorf("unknown entitlement key %q", key)
		}
	}
	return p, nil
}

// addDevice adds the device that the value of a "device" key names.
func (p *privileges) addDevice(value string) error {
	name, err := entitlement.DeviceName(value)
	if err != nil {
		return err
	}
	if name == "" {
		p.allDevices = true
	} else {
		p.devices[name] = true
	}
	return nil
}

// guard compares what a project asks for with what was granted.
type guard struct {
	app     *app
	project *ir.Project
	granted *privileges
}

// authorize checks that the project asks for nothing that was not granted: on the
// command line, by a value of --set, or by the answer of a user who is asked.
func (a *app) authorize(ctx context.Context, p *ir.Project, f *definitionFlags) error {
	missing, err := a.missingPrivileges(p, f)
	if err != nil {
		return err
	}
	req, err := a.privilegeRequest(missing, isRemote(p))
	if err != nil {
		return err
	}
	return req.ask(ctx, a)
}

// warnPrivileges says what a build of the project would ask for. A plan needs no
// grant: it neither runs steps nor writes.
func (a *app) warnPrivileges(p *ir.Project, f *definitionFlags) error {
	missing, err := a.missingPrivileges(p, f)
	if err != nil {
		return err
	}
	req, err := a.privilegeRequest(missing, isRemote(p))
	if err != nil {
		return err
	}
	if req.refused() {
		a.progress.Warn(fmt.Sprintf("to build this, pass %q to grant requested privileges", req.flags()))
	}
	return nil
}

// missingPrivileges returns what the project asks for and was not granted.
func (a *app) missingPrivileges(p *ir.Project, f *definitionFlags) (*privileges, error) {
	granted, err := parseAllow(f.Allow)
	if err != nil {
		return nil, usageError{err}
	}
	granted.read[a.dir], granted.write[a.dir] = true, true
	g := &guard{app: a, project: p, granted: granted}
	if !f.saved {
		g.grantOverrides()
	}
	return g.missing()
}

// isRemote reports whether the definition was read from a URL.
func isRemote(p *ir.Project) bool {
	return slices.ContainsFunc(p.Targets, (*ir.Target).FromTree)
}

// grantOverrides grants what the user wrote on the command line: the paths of
// caches, outputs, secrets and keys given with --set, and entitlements.
func (g *guard) grantOverrides() {
	given := g.project.Given
	g.granted.networkHost = g.granted.networkHost || slices.Contains(given.Entitlements, allowNetworkHost)
	g.granted.securityInsecure = g.granted.securityInsecure || slices.Contains(given.Entitlements, allowSecurityInsecure)
	for _, t := range g.project.Targets {
		if t.SetWhole("cache-from") {
			addAll(g.granted.read, cachePaths(t.CacheFrom, "src"))
		}
		if t.SetWhole("cache-to") {
			addAll(g.granted.write, cachePaths(t.CacheTo, "dest"))
		}
		for _, s := range t.SSH {
			if t.SetWhole("ssh") {
				addAll(g.granted.read, s.Paths)
			}
		}
		for _, s := range t.Secrets {
			if file := g.secretFile(s); file != "" && slices.Contains(given.Secrets, s.ID) {
				g.granted.read[file] = true
			}
		}
		for _, o := range t.Outputs {
			if path := o.Path(); path != "" && (t.SetWhole("output") || slices.Contains(given.Dests, path)) {
				g.granted.write[path] = true
			}
		}
	}
}

// missing returns what the targets ask for and was not granted.
func (g *guard) missing() (*privileges, error) {
	missing := newPrivileges()
	reads, writes := map[string]bool{}, map[string]bool{}
	for _, t := range g.project.Targets {
		if err := g.missingEntitlements(t, missing); err != nil {
			return nil, err
		}
		addAll(reads, g.contextPaths(t))
		addAll(reads, cachePaths(t.CacheFrom, "src"))
		addAll(writes, cachePaths(t.CacheTo, "dest"))
		for _, s := range t.Secrets {
			if file := g.secretFile(s); file != "" {
				reads[file] = true
			}
		}
		for _, s := range t.SSH {
			addAll(reads, s.Paths)
			if len(s.Paths) == 0 && !g.granted.ssh {
				missing.ssh = true
			}
		}
		if len(t.SSH) == 0 && t.Context.Git.SSH() && !g.granted.ssh {
			missing.ssh = true
		}
		for _, o := range t.Outputs {
			if path := o.Path(); path != "" {
				writes[path] = true
			}
			if o.Form() != ir.FormFiles {
				continue
			}
			mode, err := bkclient.ParseLocalExporterMode(o.Attrs["mode"])
			if err != nil {
				return nil, &ir.SourceError{Range: t.Origin("output"), Summary: err.Error(), Err: err}
			}
			if mode == bkclient.LocalExporterModeDelete && !g.granted.localDelete {
				missing.localDelete = true
			}
		}
	}
	var err error
	if missing.read, err = g.outside(reads, g.granted.read); err != nil {
		return nil, err
	}
	missing.write, err = g.outside(writes, g.granted.write)
	return missing, err
}

// missingEntitlements notes the entitlements of t that were not granted.
func (g *guard) missingEntitlements(t *ir.Target, missing *privileges) error {
	for _, e := range t.Entitlements {
		key, value, _ := strings.Cut(e, "=")
		switch {
		case e == allowNetworkHost && !g.granted.networkHost:
			missing.networkHost = true
		case e == allowSecurityInsecure && !g.granted.securityInsecure:
			missing.securityInsecure = true
		case key == allowDevice && !g.granted.allDevices:
			name, err := entitlement.DeviceName(value)
			if err != nil {
				return &ir.SourceError{Range: t.Origin("entitlements"), Summary: err.Error(), Err: err}
			}
			if !g.granted.devices[name] {
				if err := missing.addDevice(value); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// contextPaths returns the paths that the contexts and the Dockerfile of t mean on
// this machine.
func (g *guard) contextPaths(t *ir.Target) []string {
	var paths []string
	local := t.Context.Kind == ir.SourceDir
	if local {
		paths = append(paths, t.Context.Dir())
	}
	file, cwd := ir.ParsePath(t.Dockerfile)
	switch {
	case t.DockerfileInline != nil, strings.HasPrefix(file, "http://"), strings.HasPrefix(file, "https://"):
	case cwd || filepath.IsAbs(file):
		paths = append(paths, file)
	case local:
		paths = append(paths, filepath.Join(g.app.path(t.Context.Dir()), file))
	}
	for _, k := range ir.SortedKeys(t.Contexts) {
		if s := t.Contexts[k]; s.Kind == ir.SourceDir || s.Kind == ir.SourceLayout {
			paths = append(paths, s.Dir())
		}
	}
	return paths
}

func (g *guard) secretFile(s ir.Secret) string {
	return runtime.SecretSourceOf(s, g.app.env, g.app.path).File
}

// cachePaths returns where local caches are; attr is that of [ir.CacheEntry.Path].
func cachePaths(entries []ir.CacheEntry, attr string) []string {
	var paths []string
	for _, e := range entries {
		if p := e.Path(attr); p != "" {
			paths = append(paths, p)
		}
	}
	return paths
}

func addAll(set map[string]bool, values []string) {
	for _, v := range values {
		set[v] = true
	}
}

// outside returns those of paths that lie under none of allowed, without those
// that lie under another of them. Both are compared as they are on the disk: with
// symbolic links followed. What does not exist yet is compared by its name and
// returned as the directory that does exist.
func (g *guard) outside(paths, allowed map[string]bool) (map[string]bool, error) {
	if allowed[anyPath] {
		return nil, nil
	}
	var roots []string
	for _, p := range ir.SortedKeys(allowed) {
		dir, rest, err := existing(g.app.path(p))
		if err != nil {
			return nil, fmt.Errorf("failed to evaluate path %q: %w", p, err)
		}
		roots = append(roots, filepath.Join(dir, rest))
	}
	found := map[string]bool{}
	for _, p := range ir.SortedKeys(paths) {
		dir, rest, err := existing(g.app.path(p))
		if err != nil {
			return nil, fmt.Errorf("failed to evaluate path %q: %w", p, err)
		}
		full := filepath.Join(dir, rest)
		if !slices.ContainsFunc(roots, func(root string) bool { return within(full, root) }) {
			found[dir] = true
		}
	}
	out := map[string]bool{}
	for p := range found {
		covered := false
		for other := range found {
			covered = covered || other != p && within(p, other)
		}
		if !covered {
			out[p] = true
		}
	}
	return out, nil
}

// within reports whether p is dir or below it; both are clean and absolute.
func within(p, dir string) bool {
	rel, err := filepath.Rel(dir, p)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// maxLinks bounds how many symbolic links are followed in one path.
const maxLinks = 255

// existing follows the symbolic links of an absolute path as far as it exists and
// returns that part, and the rest. A link to what does not exist is followed too:
// writing through it would create its target.
func existing(path string) (dir, rest string, err error) {
	volume := filepath.VolumeName(path)
	root := volume + string(filepath.Separator)
	todo := strings.Split(path[len(volume):], string(filepath.Separator))
	links := 0
	for dir = root; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			dir = filepath.Dir(dir)
			continue
		}
		next := filepath.Join(dir, name)
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return dir, filepath.Join(append([]string{name}, todo...)...), nil
		case err != nil:
			return "", "", err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return "", "", fmt.Errorf("%s: too many symbolic links", path)
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", "", err
			}
			if filepath.IsAbs(target) {
				root = filepath.VolumeName(target) + string(filepath.Separator)
				target = target[len(root)-1:]
				dir = root
			}
			todo = append(strings.Split(target, string(filepath.Separator)), todo...)
		case !info.IsDir() && slices.ContainsFunc(todo, func(s string) bool { return s != "" }):
			return "", "", &fs.PathError{Op: "open", Path: next, Err: syscall.ENOTDIR}
		default:
			dir = next
		}
	}
	return dir, "", nil
}

// privilegeRequest is what has to be asked of the user.
type privilegeRequest struct {
	steps, files []privilege // those about files can be switched off
	guardFiles   bool
	hint         bool // say how to switch the guard of files off
}

type privilege struct{ flag, text string }

// privilegeRequest puts missing privileges into words.
func (a *app) privilegeRequest(missing *privileges, remote bool) (*privilegeRequest, error) {
	r := &privilegeRequest{guardFiles: true, hint: true}
	add := func(list *[]privilege, flag, format string, args ...any) {
		*list = append(*list, privilege{flag: "--allow=" + flag, text: fmt.Sprintf(format, args...)})
	}
	if missing.networkHost {
		add(&r.steps, allowNetworkHost, "Running build containers that can access host network")
	}
	if missing.securityInsecure {
		add(&r.steps, allowSecurityInsecure, "Running privileged containers that can make system changes")
	}
	if missing.allDevices {
		add(&r.steps, allowDevice, "Access to CDI devices")
	} else {
		for _, name := range ir.SortedKeys(missing.devices) {
			add(&r.steps, allowDevice+"="+name, "Access to device %s", name)
		}
	}
	if missing.localDelete {
		add(&r.steps, allowLocalDelete, "Deleting stale files from local output destinations")
	}
	if missing.ssh {
		add(&r.files, allowSSH, "Forwarding default SSH agent socket")
	}
	var both, reads, writes []string
	for _, p := range slices.Sorted(maps.Keys(missing.read)) {
		if missing.write[p] {
			both = append(both, p)
		} else {
			reads = append(reads, p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(missing.write)) {
		if !missing.read[p] {
			writes = append(writes, p)
		}
	}
	dir, err := filepath.EvalSymlinks(a.dir)
	if err != nil {
		return nil, fmt.Errorf("failed to evaluate working directory: %w", err)
	}
	for _, kind := range []struct {
		flag, text string
		paths      []string
	}{{allowFS, "Read and write", both}, {allowFSRead, "Read", reads}, {allowFSWrite, "Write", writes}} {
		for _, p := range kind.paths {
			p = short(p, dir)
			add(&r.files, kind.flag+"="+p, "%s access to path %s", kind.text, p)
		}
	}
	return r, r.readEnv(a.env, remote)
}

// readEnv reads the variables that switch the guard of files off.
func (r *privilegeRequest) readEnv(env map[string]string, remote bool) error {
	read := func(name string) (on, set bool, err error) {
		v, set := env[name]
		if !set {
			return false, false, nil
		}
		if on, err = strconv.ParseBool(v); err != nil {
			return false, false, fmt.Errorf("failed to parse %s value %q: %w", name, v, err)
		}
		return on, true, nil
	}
	if remote {
		on, set, err := read(envRemoteFSAccess)
		if err != nil {
			return err
		}
		r.guardFiles = !set || !on
	}
	on, set, err := read(envEntitlementsFS)
	if set {
		r.guardFiles, r.hint = on, false
	}
	return err
}

// short returns p relative to dir where that is not longer than one step up.
func short(p, dir string) string {
	up := ".." + string(filepath.Separator) + ".."
	if rel, err := filepath.Rel(dir, p); err == nil && !strings.HasPrefix(rel, up) {
		return rel
	}
	return p
}

// empty reports whether nothing is missing.
func (r *privilegeRequest) empty() bool { return len(r.steps) == 0 && len(r.files) == 0 }

// refused reports whether the build may not go on without a grant.
func (r *privilegeRequest) refused() bool {
	return len(r.steps) > 0 || len(r.files) > 0 && r.guardFiles
}

// flags returns what grants the request.
func (r *privilegeRequest) flags() string {
	var list []string
	for _, p := range slices.Concat(r.steps, r.files) {
		list = append(list, p.flag)
	}
	return strings.Join(list, " ")
}

// ask shows the request and waits for the answer of a user at a terminal; without
// one it is refused. Where a program reads the progress nothing is asked.
func (r *privilegeRequest) ask(ctx context.Context, a *app) error {
	if r.empty() {
		return nil
	}
	terminal := isTerminal(a.stdin)
	var text strings.Builder
	r.show(&text, a.args, terminal)
	if r.refused() && r.hint && len(r.files) > 0 {
		fmt.Fprintf(&text, "To disable filesystem entitlements checks, you can set %s=0 .\n\n", envEntitlementsFS)
	}
	if r.refused() && terminal {
		fmt.Fprint(&text, "Do you want to grant requested privileges and continue? [y/N] ")
	}
	if !a.progress.Prompt(text.String()) {
		if !r.refused() {
			return nil
		}
		required := *r
		if !r.guardFiles {
			required.files = nil
		}
		return fmt.Errorf("additional privileges requested: pass %q to grant requested privileges", required.flags())
	}
	if !r.refused() || terminal && answer(ctx, a.stdin) {
		return nil
	}
	return errors.New("additional privileges requested")
}

// show writes the request, and the command line that would grant it.
func (r *privilegeRequest) show(w io.Writer, args []string, terminal bool) {
	fmt.Fprint(w, "Your build is requesting privileges for following possibly insecure capabilities:\n\n")
	for _, p := range slices.Concat(r.steps, r.files) {
		fmt.Fprintf(w, " - %s\n", p.text)
	}
	if terminal {
		fmt.Fprintf(w, "\nIn order to not see this message in the future pass %q to grant requested privileges.\n", r.flags())
	} else {
		fmt.Fprintf(w, "\nPass %q to grant requested privileges.\n", r.flags())
	}
	i := slices.IndexFunc(args, func(arg string) bool { return slices.Contains(buildNames, arg) })
	if i < 0 {
		return
	}
	line := append([]string{"dbake"}, args[:i+1]...)
	line = append(line, r.flags())
	line = append(line, args[i+1:]...)
	fmt.Fprintf(w, "\nYour full command with requested privileges:\n\n%s\n\n", strings.Join(line, " "))
}

// buildNames are the names of the build command.
var buildNames = []string{"build", "bake", "f"}

// isTerminal reports whether a stream is that of someone at a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// answer waits for a line and reports whether it says yes.
func answer(ctx context.Context, r io.Reader) bool {
	line := make(chan string, 1)
	go func() {
		// A read of a terminal cannot be interrupted; if the user interrupts
		// instead, the process ends soon and the read with it.
		text, err := bufio.NewReader(r).ReadString('\n')
		if err != nil {
			text = ""
		}
		line <- text
	}()
	select {
	case <-ctx.Done():
		return false
	case text := <-line:
		return strings.EqualFold(strings.TrimSpace(text), "y")
	}
}
