package frontend

import (
	"path/filepath"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// VCS describes a work tree by its version control system.
type VCS struct {
	Root     string // absolute, without symbolic links
	Revision string // "" before the first commit
	Source   string // the URL it is fetched from, without credentials; "" when there is none
}

// entrypointLabel holds the path of the Dockerfile in its repository.
const entrypointLabel = "com.docker.image.source.entrypoint"

// vcsAttrs sets the options that describe the origin of the unit's directories.
func (c *compilation) vcsAttrs(in *inputs) error {
	context, local := in.sources[recordedContext]
	if c.VCS == nil || !local || context.dir == "" {
		return nil
	}
	c.vcsLock.Lock()
	v, ok := c.VCS(context.dir)
	c.vcsLock.Unlock()
	if !ok {
		return nil
	}
	set := func(k, v string) {
		if v != "" {
			in.attrs[k] = v
		}
	}
	dirs := map[string]string{recordedContext: context.dir}
	if d := in.sources[in.attrs["dockerfilekey"]].dir; d != "" {
		dirs[recordedDockerfile] = d
	}
	if c.VCSProvenance {
		set("vcs:revision", v.Revision)
		set("vcs:source", v.Source)
		for name, dir := range dirs {
			if rel, ok := within(v.Root, dir); ok {
				in.attrs["vcs:localdir:"+name] = rel
			}
		}
	}
	if !c.VCSLabels {
		return nil
	}
	set("label:"+ocispecs.AnnotationRevision, v.Revision)
	set("label:"+ocispecs.AnnotationSource, v.Source)
	if rel, ok := within(v.Root, dirs[recordedDockerfile]); ok {
		in.attrs["label:"+entrypointLabel] = filepath.ToSlash(filepath.Join(rel, in.attrs["filename"]))
	}
	return nil
}

// within returns the path of dir relative to root, if it lies there.
func within(root, dir string) (string, bool) {
	if dir == "" {
		return "", false
	}
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", false
	}
	rel, err := filepath.Rel(root, dir)
	return filepath.ToSlash(rel), err == nil && filepath.IsLocal(rel)
}
