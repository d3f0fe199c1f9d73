package compiler

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"
	"github.com/docker/go-units"
	"golang.org/x/crypto/ssh"

	"github.com/dbake/dbake/compiler/ir"
)

// A resolved target is checked before it is printed, not only before it is
// built: `--print` of a target that cannot be built fails. Checked is what can be
// without a daemon: that values have their form, and that the files and sockets
// they name exist.

// checkOptions are the surroundings that the checks see.
type checkOptions struct {
	// Dir is the directory that relative paths start from.
	Dir string
	// Lookup returns a variable of the environment; nil is an empty environment.
	Lookup func(name string) (string, bool)
	// Terminal is true when standard output is a terminal, to which no archive
	// may be written.
	Terminal bool
	// URL is that of a remote definition, or "".
	URL string
	// Defer makes faults of files and agents those of the targets.
	Defer bool
}

func (o checkOptions) lookup(name string) (string, bool) {
	if o.Lookup == nil {
		return "", false
	}
	return o.Lookup(name)
}

// stat describes a file, whose path may be relative to Dir; errors have the path
// as given.
func (o checkOptions) stat(path string) (fs.FileInfo, error) {
	st, err := os.Stat(o.abs(path))
	return st, withName(err, path)
}

func (o checkOptions) abs(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(o.Dir, path)
}

// validateTarget returns the first problem of a target, with the range of the
// attribute it is in. Contexts and Dockerfiles are not its concern. An archive
// without a destination is given standard output, and is printed so. With opt.Defer,
// what is only missing on this machine becomes the Fault of a target that is built.
func validateTarget(t *ir.Target, opt checkOptions) error {
	for _, check := range []struct {
		attribute string
		err       func() error
	}{
		{"shm-size", func() error { return checkShmSize(t.ShmSize) }},
		{"platforms", func() error { return checkPlatforms(t.Platforms) }},
		{"secret", func() error { return opt.checkSecrets(t.Secrets) }},
		{"ssh", func() error { return opt.checkSSH(opt.effectiveSSH(t)) }},
		{"output", func() error { return opt.checkOutputs(t.Outputs) }},
		{"annotations", func() error { return checkAnnotations(t.Annotations) }},
		{"", opt.checkSourcePolicy},
		{"ulimits", func() error { return checkUlimits(t.Ulimits) }},
		{"resources", func() error { return checkResources(t.Resources) }},
	} {
		if err := check.err(); err != nil {
			e := &ir.SourceError{Summary: err.Error(), Err: err}
			var advised *advisedError
			if errors.As(err, &advised) {
				e.Detail = advised.advice
			}
			if check.attribute != "" {
				e.Range = t.Origin(check.attribute)
			}
			if missing := check.attribute == "secret" || check.attribute == "ssh"; !missing || !opt.Defer || t.Call != "" && t.Call != "build" {
				return e
			}
			if t.Fault == nil {
				t.Fault = e
			}
		}
	}
	return nil
}

func checkShmSize(size *string) error {
	if size == nil {
		return nil
	}
	if _, err := units.RAMInBytes(*size); err != nil {
		return fmt.Errorf("invalid value %s for membytes key shm-size", *size)
	}
	return nil
}

// localPlatform is the platform of the machine dbake runs on.
const localPlatform = "local"

func checkPlatforms(list []string) error {
	for _, item := range list {
		for p := range strings.SplitSeq(item, ",") {
			if strings.EqualFold(p, localPlatform) {
				continue
			}
			if _, err := platforms.Parse(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxSecretSize is what BuildKit takes, in bytes.
const maxSecretSize = 500 << 10

func (o checkOptions) checkSecrets(list []ir.Secret) error {
	for _, s := range list {
		if s.ID == "" {
			return errors.New("secret missing ID")
		}
		path := s.Src
		if path == "" {
			if _, set := o.lookup(s.ID); set || s.Env != "" {
				continue
			}
			path = s.ID
		}
		st, err := o.stat(path)
		if err != nil {
			return &advisedError{fmt.Errorf("failed to stat %s: %w", path, err), secretAdvice(s, path)}
		}
		if st.IsDir() {
			return fmt.Errorf("secret %s: %s is a directory, not a file", s.ID, path)
		}
		if st.Size() > maxSecretSize {
			return fmt.Errorf("secret %s too big. max size 500KiB", s.ID)
		}
	}
	return nil
}

// advisedError is an error with advice.
type advisedError struct {
	error
	advice string
}

func (e *advisedError) Unwrap() error { return e.error }

// secretAdvice explains why a secret was looked for where it is not.
func secretAdvice(s ir.Secret, path string) string {
	switch {
	case s.Src == "":
		return fmt.Sprintf("secret %q names no source, and there is neither an environment variable nor a file of that name: set one, or add env= or src=", s.ID)
	case strings.HasPrefix(path, "~"):
		return "\"~\" is not replaced here: write \"${homedir()}/...\" in a bake file"
	}
	return ""
}

// defaultSSH is the ID of the agent that is meant when none is named.
const defaultSSH = "default"

// effectiveSSH returns the entries that a build of t will have: a context that
// git fetches over ssh brings the default agent along, and a definition that came
// so has no other.
func (o checkOptions) effectiveSSH(t *ir.Target) []ir.SSH {
	if len(t.SSH) == 0 && t.Context.Git.SSH() || ir.ParseGit(o.URL).SSH() {
		return []ir.SSH{{ID: defaultSSH}}
	}
	return t.SSH
}

func (o checkOptions) checkSSH(list []ir.SSH) error {
	seen := make(map[string]bool, len(list))
	for _, entry := range list {
		if entry.ID == "" {
			entry.ID = defaultSSH
		}
		if seen[entry.ID] {
			return fmt.Errorf("duplicate agent ID %q", entry.ID)
		}
		seen[entry.ID] = true
		if err := o.checkAgent(entry); err != nil {
			// The braces are how BuildKit shows its configuration of an agent.
			return fmt.Errorf("failed to convert agent config {%s %v false}: %w", entry.ID, entry.Paths, err)
		}
	}
	return nil
}

// checkAgent checks the socket of an agent or the private keys that take its
// place.
func (o checkOptions) checkAgent(entry ir.SSH) error {
	paths := entry.Paths
	if len(paths) == 0 || len(paths) == 1 && paths[0] == "" {
		socket, _ := o.lookup("SSH_AUTH_SOCK")
		paths = []string{socket}
	}
	if paths[0] == "" {
		return errors.New("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
	}
	var sockets, keys int
	for _, path := range paths {
		if sockets > 0 {
			return fmt.Errorf("failed to convert agent config for ID: %q: only single socket allowed", entry.ID)
		}
		isSocket, err := o.checkKey(path)
		if err != nil {
			return fmt.Errorf("failed to convert agent config for ID: %q: %w", entry.ID, err)
		}
		if isSocket {
			sockets++
		} else {
			keys++
		}
	}
	if sockets > 0 && keys > 0 {
		return fmt.Errorf("failed to convert agent config for ID: %q: invalid combination of keys and sockets", entry.ID)
	}
	return nil
}

// maxKeySize bounds what is read of a file that should be a private key.
const maxKeySize = 100 << 10

// checkKey reports whether path is a socket; anything else must be a private key
// that needs no passphrase.
func (o checkOptions) checkKey(path string) (isSocket bool, err error) {
	st, err := o.stat(path)
	if err != nil {
		return false, err
	}
	if st.Mode()&fs.ModeSocket != 0 {
		return true, nil
	}
	f, err := os.Open(o.abs(path))
	if err != nil {
		return false, fmt.Errorf("failed to open %s: %w", path, withName(err, path))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeySize))
	if err != nil {
		return false, fmt.Errorf("failed to read %s: %w", path, withName(err, path))
	}
	if _, err := ssh.ParseRawPrivateKey(data); err != nil {
		return false, fmt.Errorf("failed to parse %s: %w", path, err)
	}
	return false, nil
}

// checkOutputs checks that outputs have a place to go to, and that at most one
// goes to standard output, where archives go that name no place.
func (o checkOptions) checkOutputs(list []ir.Output) error {
	stdout := false
	for i := range list {
		out := &list[i]
		form := out.Form()
		switch form {
		case ir.FormFiles, ir.FormLayout:
			if err := o.checkDirectory(*out); err != nil {
				return err
			}
		case ir.FormArchive, ir.FormLoad:
			if out.Dest == "" && form != ir.FormLoad {
				out.Dest = stdio
			}
			switch dest := out.Dest; {
			case dest == stdio && stdout:
				return errors.New("multiple outputs configured to write to stdout")
			case dest == stdio && o.Terminal:
				return fmt.Errorf("dest file is required for %s exporter. refusing to write to console", out.Type)
			case dest == stdio:
				stdout = true
			case dest != "":
				if err := o.checkFile(dest); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (o checkOptions) checkDirectory(out ir.Output) error {
	switch out.Dest {
	case "":
		return fmt.Errorf("dest is required for %s exporter", out.Type)
	case stdio:
		return fmt.Errorf("dest cannot be stdout for %s exporter", out.Type)
	}
	st, err := o.stat(out.Dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("invalid destination directory: %s: %w", out.Dest, err)
	case !st.IsDir():
		return fmt.Errorf("destination directory %s is a file", out.Dest)
	}
	return nil
}

func (o checkOptions) checkFile(dest string) error {
	st, err := o.stat(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("invalid destination file: %s: %w", dest, err)
	case st.IsDir():
		return fmt.Errorf("destination file %s is a directory", dest)
	}
	return nil
}

// annotationType is the kind of object an annotation is for, and the platform it
// is limited to.
var annotationType = pattern(`^([a-z-]+)(?:\[([A-Za-z0-9_/-]+)\])?$`)

// checkAnnotations checks the form [TYPE[PLATFORM],...:]KEY=VALUE.
func checkAnnotations(list []string) error {
	for _, a := range list {
		if a == "" {
			continue
		}
		key, _, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("invalid annotation %q, expected key=value", a)
		}
		kinds, _, ok := strings.Cut(key, ":")
		if !ok {
			continue
		}
		for kind := range strings.SplitSeq(kinds, ",") {
			m := annotationType().FindStringSubmatch(kind)
			if m == nil {
				return fmt.Errorf("invalid annotation type %q, expected type and optional platform in square brackets", kind)
			}
			switch m[1] {
			case "index", "index-descriptor", "manifest", "manifest-descriptor":
			default:
				return fmt.Errorf("unknown annotation type %q", m[1])
			}
			if m[2] == "" {
				continue
			}
			if _, err := platforms.Parse(m[2]); err != nil {
				return fmt.Errorf("invalid platform %q: %w", m[2], err)
			}
		}
	}
	return nil
}

// checkSourcePolicy checks that the policy BuildKit is to follow can be read.
func (o checkOptions) checkSourcePolicy() error {
	path, _ := o.lookup("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY")
	if path == "" {
		return nil
	}
	f, err := os.Open(o.abs(path))
	if err != nil {
		return fmt.Errorf("failed to read policy file: %w", withName(err, path))
	}
	return f.Close()
}

func checkUlimits(list []string) error {
	for _, limit := range list {
		if _, err := units.ParseUlimit(limit); err != nil {
			return err
		}
	}
	return nil
}

func checkResources(r *ir.Resources) error {
	if r == nil {
		return nil
	}
	for _, size := range []struct {
		name      string
		value     *string
		unlimited bool // -1 is a value
	}{
		{"memory", r.Memory, false},
		{"memory-swap", r.MemorySwap, true},
	} {
		if size.value == nil {
			continue
		}
		v := strings.TrimSpace(*size.value)
		if size.unlimited && v == "-1" {
			continue
		}
		if _, err := units.RAMInBytes(v); err != nil {
			return fmt.Errorf("invalid value %q for resource %s: %w", v, size.name, err)
		}
	}
	return nil
}
