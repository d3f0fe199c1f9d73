package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config/configfile"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// A Docker engine keeps images in a store of its own, unless it is configured to use that of
// containerd. With its own store its BuildKit has one exporter for images, which puts one in
// the store, and writes no caches but those inside images. The engine itself is asked for
// anything else: it pushes, and writes archives.

// storeExporter is that exporter.
const storeExporter = "moby"

// remedyStore ends messages about the limits of an engine's own store.
const remedyStore = "turn its containerd image store on, or build on another node"

// exportFromEngine is export for a node that is such an engine.
func (s *solver) exportFromEngine(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	e := req.Entry
	if e == nil || e.Type == bkclient.ExporterLocal || e.Type == bkclient.ExporterTar {
		return s.exportPlain(ctx, req, observe)
	}
	archive := e.Type == bkclient.ExporterDocker || e.Type == bkclient.ExporterOCI && req.Load
	switch {
	case e.Type == bkclient.ExporterImage:
	case !archive:
		return nil, &fault.Rejected{Err: fmt.Errorf("the Docker engine cannot write an image of type %s: %s", e.Type, remedyStore)}
	case e.OutputDir != "":
		return nil, &fault.Rejected{Err: fmt.Errorf("the Docker engine cannot write a directory of an image: %s", remedyStore)}
	}
	var names []string
	if e.Attrs["name"] != "" {
		names = strings.Split(e.Attrs["name"], ",")
	}
	stored := req
	stored.Entry = &bkclient.ExportEntry{Type: storeExporter, Attrs: maps.Clone(e.Attrs)}
	for _, key := range []string{"push", "unpack", "store"} {
		delete(stored.Entry.Attrs, key)
	}
	resp, err := s.exportPlain(ctx, stored, observe)
	if err != nil {
		return nil, err
	}
	if len(names) > 0 && resp[exptypes.ExporterImageNameKey] == "" {
		resp[exptypes.ExporterImageNameKey] = strings.Join(names, ",")
	}
	push, err := ir.Switch(e.Attrs, "push")
	switch {
	case err != nil:
		return nil, &fault.Rejected{Err: err}
	case push:
		return resp, s.pushFromEngine(ctx, names, resp)
	case archive && (!req.Load || s.link.info.EngineID != req.LoadEngine):
		if len(names) == 0 {
			names = []string{resp[exptypes.ExporterImageDigestKey]}
		}
		return resp, s.saveFromEngine(ctx, names, e.Output)
	}
	return resp, nil
}

// pushFromEngine pushes an image that the engine holds and notes its digest there.
func (s *solver) pushFromEngine(ctx context.Context, names []string, resp map[string]string) error {
	engine, err := dockerengine.New(*s.link.spec.Engine)
	if err != nil {
		return err
	}
	defer engine.Close()
	for _, name := range names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return &fault.Rejected{Err: err}
		}
		tagged, ok := reference.TagNameOnly(ref).(reference.NamedTagged)
		if !ok {
			return &fault.Rejected{Err: fmt.Errorf("%s: the Docker engine pushes tags only: %s", name, remedyStore)}
		}
		credentials, err := engineCredentials(ctx, s.services.logins, reference.Domain(ref))
		if err != nil {
			return err
		}
		digest, err := engine.Push(ctx, tagged.Name(), tagged.Tag(), credentials)
		if err != nil {
			return &fault.Rejected{Err: errors.New(redact.Text(err.Error()))}
		}
		if digest != "" {
			resp[exptypes.ExporterImageDigestKey] = digest
		}
	}
	return nil
}

// hubServer is the name under which docker login keeps the credentials of Docker Hub.
const hubServer = "https://index.docker.io/v1/"

// engineCredentials returns the credentials that an engine is given for a registry.
func engineCredentials(ctx context.Context, logins *configfile.ConfigFile, domain string) (dockerengine.Credentials, error) {
	auth, err := loginsFor(logins)(ctx, domain, nil, nil)
	if err != nil {
		return dockerengine.Credentials{}, err
	}
	server := domain
	if domain == "docker.io" {
		server = hubServer
	}
	return dockerengine.Credentials{
		Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken,
		RegistryToken: auth.RegistryToken, ServerAddress: server,
	}, nil
}

// saveFromEngine writes an archive of an image that the engine holds.
func (s *solver) saveFromEngine(ctx context.Context, names []string, open func(map[string]string) (io.WriteCloser, error)) (err error) {
	engine, err := dockerengine.New(*s.link.spec.Engine)
	if err != nil {
		return err
	}
	defer engine.Close()
	w, err := open(nil)
	if err != nil {
		return &fault.Rejected{Err: &fault.OutputError{Err: err}}
	}
	if err := engine.Save(ctx, names, w); err != nil {
		return errors.Join(err, w.Close())
	}
	if err := w.Close(); err != nil {
		return &fault.Rejected{Err: &fault.OutputError{Err: err}}
	}
	return nil
}

// withoutCaches returns an error when entries are caches that an engine with a store
// of its own cannot write, and whose errors count. It keeps those that it can.
func withoutCaches(entries []bkclient.CacheOptionsEntry) ([]bkclient.CacheOptionsEntry, error) {
	var kept []bkclient.CacheOptionsEntry
	for _, e := range entries {
		if e.Type == ir.TypeInline {
			kept = append(kept, e)
			continue
		}
		if !(ir.CacheEntry{Type: e.Type, Attrs: e.Attrs}).MayFail() {
			return nil, &fault.Rejected{Err: fmt.Errorf("the Docker engine cannot write a cache of type %s: %s", e.Type, remedyStore)}
		}
	}
	return kept, nil
}
