package compiler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/dbake/dbake/compiler/ir"
)

// defaultFiles are read when no file is named, all that exist, in this order.
var defaultFiles = []string{
	"compose.yaml",
	"compose.yml",
	"docker-compose.yml",
	"docker-compose.yaml",
	"docker-bake.json",
	"docker-bake.hcl",
	"docker-bake.override.json",
	"docker-bake.override.hcl",
}

// The environment that names files.
const (
	envFile      = "BUILDX_BAKE_FILE"
	envSeparator = "BUILDX_BAKE_PATH_SEPARATOR"
)

// ErrNoDefinition reports that there was nothing to read.
var ErrNoDefinition = errors.New("couldn't find a bake definition")

// fileNames returns the files that were named: as options, else in the
// environment, where each must exist; nil stands for the default files.
func (o *Options) fileNames() ([]string, error) {
	if len(o.Files) > 0 {
		return o.Files, nil
	}
	list, ok := o.Env[envFile]
	if !ok {
		return nil, nil
	}
	sep := o.Env[envSeparator]
	if sep == "" {
		sep = string(os.PathListSeparator)
	}
	var names []string
	for name := range strings.SplitSeq(list, sep) {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		if name != stdio {
			if _, err := os.Stat(o.path(name)); err != nil {
				return nil, withName(err, name)
			}
		}
		names = append(names, name)
	}
	return names, nil
}

// readLocal reads files, or for none the default files. A pipe may be silent: what waits
// for it when ctx ends is left behind.
func (o *Options) readLocal(ctx context.Context, names []string) ([]sourceFile, error) {
	type answer struct {
		files []sourceFile
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		files, err := o.readEach(names)
		answers <- answer{files, err}
	}()
	select {
	case a := <-answers:
		return a.files, a.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (o *Options) readEach(names []string) ([]sourceFile, error) {
	optional := len(names) == 0
	if optional {
		names = defaultFiles
	}
	var files []sourceFile
	for _, name := range names {
		data, err := o.readFile(name)
		if optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(data) == 0 && name != stdio {
			continue // an empty file counts as none
		}
		files = append(files, sourceFile{Name: name, Data: data})
	}
	return files, nil
}

func (o *Options) readFile(name string) ([]byte, error) {
	if name == stdio {
		if o.Stdin == nil {
			return nil, nil
		}
		data, err := readBounded(o.Stdin)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return data, nil
	}
	if name == "" { // which is not the working directory
		return nil, &fs.PathError{Op: "open", Err: syscall.ENOENT}
	}
	data, err := readNamed(o.path(name))
	if err = withName(err, name); err != nil && ir.IsRemote(name) {
		err = fmt.Errorf("%w: a definition that is read from a URL is named before the targets, without -f", err)
	}
	return data, err
}

// readNamed reads a file, which may be one that has no end.
func readNamed(path string) (_ []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	data, err := readBounded(f)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path, Err: withoutName(err)}
	}
	return data, nil
}

// withoutName returns the cause of an error about a file.
func withoutName(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// path returns the place of a file that was named relative to the working
// directory.
func (o *Options) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(o.Dir, name)
}

// withName makes an error about a file speak of it as the user did.
func withName(err error, name string) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return &fs.PathError{Op: pathErr.Op, Path: name, Err: pathErr.Err}
	}
	return err
}

// LocalFiles returns the absolute names of the files of this machine that a definition
// is read from, whether or not they exist.
func (o *Options) LocalFiles() []string {
	names, err := o.fileNames()
	if err != nil {
		return nil // reading them says so
	}
	if len(names) == 0 {
		names = defaultFiles
	}
	var files []string
	for _, name := range names {
		if name != stdio {
			files = append(files, o.path(strings.TrimPrefix(name, "cwd://")))
		}
	}
	return files
}
