package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/docker/cli/cli/config/configfile"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth/authprovider"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"

	// Names of files need not be UTF-8: this is how nodes encode messages, too.
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/layout"
)

// Inputs are those that only the client holds and that nodes ask for while they build:
// local directories, secrets and ssh agents. The same inputs are offered to every node.
type Inputs struct {
	// Dirs maps the name of a local source to its absolute directory.
	Dirs map[string]string
	// Secrets maps the id that a definition uses to where the value is.
	Secrets map[string]SecretSource
	// SSH maps the id that a definition uses to an agent socket or key files;
	// an empty list is the agent of the environment.
	SSH map[string][]string
	// Layouts maps the id of an OCI image layout to its absolute directory.
	Layouts map[string]string
	// Env is the environment that secrets are read from.
	Env map[string]string
	// Docker holds the credentials for registries; nil is none.
	Docker *dockerconfig.Config
	// SharedKey identifies this project on this machine: a node keeps
	// directories under it and asks the next run only for what changed.
	SharedKey string
}

// SecretSource is where a secret's value is: in a file or in an environment variable of the
// client. The value itself is read only when a node asks for it.
type SecretSource struct {
	File   string // absolute
	Env    string
	Prefix string // stands before the value
}

// secretStore reads a secret at the moment a step needs it.
type secretStore struct {
	sources map[string]SecretSource
	env     map[string]string
}

// GetSecret implements secrets.SecretStore.
func (s *secretStore) GetSecret(_ context.Context, id string) ([]byte, error) {
	src, ok := s.sources[id]
	if !ok {
		return nil, fmt.Errorf("secret %s: %w", id, secrets.ErrNotFound)
	}
	if src.Env != "" {
		v, ok := s.env[src.Env]
		if !ok {
			return nil, fmt.Errorf("secret %s: variable %s is not set: %w", id, src.Env, secrets.ErrNotFound)
		}
		return []byte(src.Prefix + v), nil
	}
	info, err := os.Stat(src.File)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", id, err)
	}
	if info.Size() > secretsprovider.MaxSecretSize {
		return nil, fmt.Errorf("secret %s: %s is larger than %d bytes", id, src.File, int64(secretsprovider.MaxSecretSize))
	}
	dt, err := os.ReadFile(src.File)
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w", id, err)
	}
	return append([]byte(src.Prefix), dt...), nil
}

// services returns the services that every session of a run offers: directories, image
// layouts, secrets, agents and the user's registry credentials.
func (in Inputs) services(sent *Transfers) (services, error) {
	for name, dir := range in.Dirs {
		if !filepath.IsAbs(dir) {
			return services{}, fmt.Errorf("local source %s: directory %s is not absolute", name, dir)
		}
	}
	list := []session.Attachable{
		&directories{dirs: in.Dirs, sent: sent},
		secretsprovider.NewSecretProvider(&secretStore{sources: in.Secrets, env: in.Env}),
		authprovider.NewDockerAuthProvider(authprovider.DockerAuthProviderConfig{
			AuthConfigProvider: loginsFor(in.logins()),
		}),
	}
	if len(in.SSH) > 0 {
		var agents []sshprovider.AgentConfig
		for id, paths := range in.SSH {
			agents = append(agents, sshprovider.AgentConfig{ID: id, Paths: paths})
		}
		p, err := sshprovider.NewSSHAgentProvider(agents)
		if err != nil {
			return services{}, fmt.Errorf("forward ssh agents: %w", err)
		}
		list = append(list, p)
	}
	stores := map[string]content.Store{}
	layouts, err := layout.Stores(in.Layouts)
	if err != nil {
		return services{}, err
	}
	for id, store := range layouts {
		stores["oci:"+id] = store
	}
	return services{attach: list, stores: stores, logins: in.logins()}, nil
}

// services are those that the sessions of one node offer.
type services struct {
	attach []session.Attachable
	stores map[string]content.Store // by the id under which a node asks
	logins *configfile.ConfigFile   // for registries
}

// attachables returns all that one session registers: the services, with some stores besides,
// and what takes files. A session takes each service once, and gRPC ends the process at the
// second time. So the stores of all purposes are one service.
func (s services) attachables(stores map[string]content.Store, receivers ...session.Attachable) []session.Attachable {
	all := maps.Clone(s.stores)
	if all == nil {
		all = map[string]content.Store{}
	}
	maps.Copy(all, stores)
	list := slices.Concat(s.attach, receivers)
	if len(all) > 0 {
		list = append(list, sessioncontent.NewAttachable(all))
	}
	return list
}

// layoutExport is the id under which a node asks for the store that an exporter
// writes an image layout into.
const layoutExport = "export"

// receiving returns what a session needs in order to receive what req makes on the
// client: the first exporter's files or blobs, and caches in directories. What goes
// wrong on the client is noted in f.
func (req *ExportRequest) receiving(f *faults) (stores map[string]content.Store, receivers []session.Attachable, err error) {
	var targets []filesync.FSSyncTarget
	store := func(id, dir string) error {
		s, err := contentlocal.NewStore(dir)
		if err != nil {
			return &fault.Rejected{Err: &fault.OutputError{Place: dir, Err: err}}
		}
		stores[id] = &receivingStore{Store: s, faults: f}
		return nil
	}
	stores = map[string]content.Store{}
	for _, c := range req.CacheTo {
		if c.Type != ir.TypeLocal {
			continue
		}
		if err := store(cacheentry.StoreID(c.Attrs["dest"]), c.Attrs["dest"]); err != nil {
			return nil, nil, err
		}
	}
	if req.Entry == nil {
		return stores, nil, nil
	}
	switch e := req.Entry; {
	case e.Output != nil:
		targets = append(targets, filesync.WithFSSync(0, e.Output))
	case e.OutputDir == "":
	case e.Type != bkclient.ExporterLocal:
		// An image layout that is written into, as several builds may do.
		if err := store(layoutExport, e.OutputDir); err != nil {
			return nil, nil, err
		}
	default:
		mode, err := bkclient.ParseLocalExporterMode(e.Attrs["mode"])
		if err != nil {
			return nil, nil, err
		}
		if mode == bkclient.LocalExporterModeDelete {
			targets = append(targets, filesync.WithFSSyncDirDelete(0, e.OutputDir))
		} else {
			targets = append(targets, filesync.WithFSSyncDir(0, e.OutputDir))
		}
	}
	if len(targets) > 0 {
		receivers = append(receivers, &receiver{SyncTarget: filesync.NewFSSyncTarget(targets...), faults: f})
	}
	return stores, receivers, nil
}
