package compiler

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// RemoteReader fetches definitions that live elsewhere. The compiler has no
// network of its own: who compiles URLs brings one.
type RemoteReader interface {
	// ReadDefinition fetches what url names: a git repository, an archive, or a
	// single file. Names are the files wanted from a repository or archive, in
	// order; with optional set those that are missing are left out, else they are
	// errors. A single file is taken whatever the names are.
	ReadDefinition(ctx context.Context, url string, names []string, optional bool) (*RemoteDefinition, error)
}

// RemoteDefinition is the finding of a RemoteReader.
type RemoteDefinition struct {
	Files []RemoteFile
	// Tree is true when the files came from a repository or an archive, which
	// then is what local paths of the definition point into.
	Tree bool
	// URL is the repository with its reference; "" for anything that cannot be
	// used as a build context under one URL.
	URL string
}

// RemoteFile is one file of a remote definition.
type RemoteFile struct {
	Name string
	Data []byte
}

// errNoRemote is returned for a URL when no RemoteReader was given.
var errNoRemote = errors.New("remote definitions need a node that can fetch them")

// request is the meaning of the positional arguments.
type request struct {
	url        string // of the definition; "" is local
	cmdContext string // value of BAKE_CMD_CONTEXT
	targets    []string
}

// parseRequest splits positional arguments: a URL in front is the definition, one
// after it the context of the command, the rest are targets.
func parseRequest(args []string) request {
	r := request{cmdContext: cwdScheme, targets: args}
	if len(r.targets) > 0 && ir.IsRemote(r.targets[0]) {
		r.url, r.targets = r.targets[0], r.targets[1:]
		if len(r.targets) > 0 && ir.IsRemote(r.targets[0]) {
			r.cmdContext, r.targets = r.targets[0], r.targets[1:]
		}
	}
	if len(r.targets) == 0 {
		r.targets = []string{defaultGroup}
	}
	return r
}

// readFiles reads the definition: the files named, or the default ones. With a
// URL, names are files of what it leads to, and those that start with cwd:// are
// local and come after them.
func (o *Options) readFiles(ctx context.Context, url string) ([]sourceFile, *RemoteDefinition, error) {
	names, err := o.fileNames()
	if err != nil {
		return nil, nil, err
	}
	var local, remote, all []string
	for _, n := range names {
		if l, ok := strings.CutPrefix(n, cwdScheme); ok {
			local = append(local, l)
			all = append(all, l)
		} else {
			remote = append(remote, n)
			all = append(all, n)
		}
	}
	if url == "" {
		files, err := o.readLocal(ctx, all)
		return files, nil, err
	}

	if o.Remote == nil {
		return nil, nil, fmt.Errorf("read %s: %w", url, errNoRemote)
	}
	optional := len(remote) == 0
	if optional {
		remote = defaultFiles
	}
	def, err := o.Remote.ReadDefinition(ctx, url, remote, optional)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", url, err)
	}
	var files []sourceFile
	for _, f := range def.Files {
		files = append(files, sourceFile(f))
	}
	if len(local) > 0 {
		more, err := o.readLocal(ctx, local)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, more...)
	}
	return files, def, nil
}
