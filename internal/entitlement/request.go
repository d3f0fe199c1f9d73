package entitlement

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// Request is what has to be asked of the user.
type Request struct {
	steps, files []privilege // those about files can be switched off
	guardFiles   bool
	hint         bool // say how to switch the guard of files off
}

type privilege struct{ flag, text string }

// Request puts missing privileges into words. remote says that the definition was read
// from a URL.
func (g Guard) Request(missing *Privileges, remote bool) (*Request, error) {
	r := &Request{guardFiles: true, hint: true}
	add := func(list *[]privilege, flag, format string, args ...any) {
		*list = append(*list, privilege{flag: "--allow=" + flag, text: fmt.Sprintf(format, args...)})
	}
	if missing.networkHost {
		add(&r.steps, NetworkHost, "Running build containers that can access host network")
	}
	if missing.securityInsecure {
		add(&r.steps, SecurityInsecure, "Running privileged containers that can make system changes")
	}
	if missing.allDevices {
		add(&r.steps, Device, "Access to CDI devices")
	} else {
		for _, name := range ir.SortedKeys(missing.devices) {
			add(&r.steps, Device+"="+name, "Access to device %s", name)
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
	dir, err := filepath.EvalSymlinks(g.Dir)
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
	return r, r.readEnv(g.Env, remote)
}

// readEnv reads the variables that switch the guard of files off.
func (r *Request) readEnv(env map[string]string, remote bool) error {
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
	on, set, err := read(envFS)
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

// Empty reports whether nothing is missing.
func (r *Request) Empty() bool { return len(r.steps) == 0 && len(r.files) == 0 }

// Refused reports whether the build may not go on without a grant.
func (r *Request) Refused() bool {
	return len(r.steps) > 0 || len(r.files) > 0 && r.guardFiles
}

// Flags returns what grants the request.
func (r *Request) Flags() string {
	var list []string
	for _, p := range slices.Concat(r.steps, r.files) {
		list = append(list, p.flag)
	}
	return strings.Join(list, " ")
}

// RequiredPart is the part of the request without which the build may not go on.
func (r *Request) RequiredPart() *Request {
	required := *r
	if !r.guardFiles {
		required.files = nil
	}
	return &required
}

// Texts say what is asked for, a line each.
func (r *Request) Texts() []string {
	var list []string
	for _, p := range slices.Concat(r.steps, r.files) {
		list = append(list, p.text)
	}
	return list
}

// Switch is the variable that switches the guard of files off, where that would help
// and the user has not decided about it; "" elsewhere.
func (r *Request) Switch() string {
	if r.Refused() && r.hint && len(r.files) > 0 {
		return envFS
	}
	return ""
}
