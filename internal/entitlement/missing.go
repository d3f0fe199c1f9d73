package entitlement

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
)

// Guard compares what projects ask for with what was granted.
type Guard struct {
	// Dir is the absolute working directory, which may be read and written.
	Dir string
	Env map[string]string
	// Path returns a file name of the user's as an absolute one, SecretFile the file
	// that a secret is read from, "" when it is none.
	Path       func(name string) string
	SecretFile func(s ir.Secret) string
}

// guard is a Guard at work.
type guard struct {
	Guard
	project *ir.Project
	granted *Privileges
}

// Missing returns what the project asks for and was not granted. With own, what the
// user wrote with --set is granted as well; a saved plan has no such rights.
func (g Guard) Missing(p *ir.Project, granted *Privileges, own bool) (*Privileges, error) {
	granted.read[g.Dir], granted.write[g.Dir] = true, true
	work := &guard{Guard: g, project: p, granted: granted}
	if own {
		work.grantOverrides()
	}
	return work.missing()
}

// Unreadable returns those of the files that may not be read, sorted: none when files
// are not guarded.
func (g Guard) Unreadable(files map[string]bool, granted *Privileges) ([]string, error) {
	if on, err := strconv.ParseBool(g.Env[envFS]); err == nil && !on {
		return nil, nil
	}
	granted.read[g.Dir] = true
	outside, err := g.outside(files, granted.read)
	return ir.SortedKeys(outside), err
}

// grantOverrides grants what the user wrote on the command line: the paths of
// caches, outputs, secrets and keys given with --set, and entitlements.
func (g *guard) grantOverrides() {
	given := g.project.Given
	g.granted.networkHost = g.granted.networkHost || slices.Contains(given.Entitlements, NetworkHost)
	g.granted.securityInsecure = g.granted.securityInsecure || slices.Contains(given.Entitlements, SecurityInsecure)
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
			if file := g.SecretFile(s); file != "" && slices.Contains(given.Secrets, s.ID) {
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
func (g *guard) missing() (*Privileges, error) {
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
			if file := g.SecretFile(s); file != "" {
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
func (g *guard) missingEntitlements(t *ir.Target, missing *Privileges) error {
	for _, e := range t.Entitlements {
		key, value, _ := strings.Cut(e, "=")
		switch {
		case e == NetworkHost && !g.granted.networkHost:
			missing.networkHost = true
		case e == SecurityInsecure && !g.granted.securityInsecure:
			missing.securityInsecure = true
		case key == Device && !g.granted.allDevices:
			name, err := DeviceName(value)
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
		paths = append(paths, filepath.Join(g.Path(t.Context.Dir()), file))
	}
	for _, k := range ir.SortedKeys(t.Contexts) {
		if s := t.Contexts[k]; s.Kind == ir.SourceDir || s.Kind == ir.SourceLayout {
			paths = append(paths, s.Dir())
		}
	}
	return paths
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
func (g Guard) outside(paths, allowed map[string]bool) (map[string]bool, error) {
	if allowed[anyPath] {
		return nil, nil
	}
	var roots []string
	for _, p := range ir.SortedKeys(allowed) {
		dir, rest, err := existing(g.Path(p))
		if err != nil {
			return nil, fmt.Errorf("failed to evaluate path %q: %w", p, err)
		}
		roots = append(roots, filepath.Join(dir, rest))
	}
	found := map[string]bool{}
	for _, p := range ir.SortedKeys(paths) {
		dir, rest, err := existing(g.Path(p))
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
