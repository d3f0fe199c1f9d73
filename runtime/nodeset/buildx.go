package nodeset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/dockerconfig"
)

// containerPrefix precedes a node's name in that of its container.
const containerPrefix = "buildx_buildkit_"

// remedy ends the messages about builders that are no BuildKit nodes.
const remedy = "make a builder with 'docker buildx create --driver docker-container --bootstrap', or use --nodes, for example --nodes local:1"

// BuilderError is why a builder of buildx gives no nodes.
type BuilderError struct {
	Builder string
	Err     error
}

func (e *BuilderError) Error() string { return fmt.Sprintf("builder %s: %v", e.Builder, e.Err) }

// Unwrap returns the cause.
func (e *BuilderError) Unwrap() error { return e.Err }

// builder is a file of instances/.
type builder struct {
	Name   string
	Driver string
	Nodes  []builderNode
}

type builderNode struct {
	Name       string
	Endpoint   string
	Platforms  []ocispecs.Platform // those that the user gave
	DriverOpts map[string]string
	Flags      []string          // of buildkitd
	Files      map[string][]byte // for its container
}

// FromBuilder returns the nodes of the builder of that name in the configuration
// of buildx beside a Docker configuration. An error is a [*BuilderError].
func FromBuilder(ctx context.Context, name string, config *dockerconfig.Config) ([]Spec, error) {
	st, err := openStore(config)
	if err != nil {
		return nil, &BuilderError{Builder: name, Err: err}
	}
	b, err := st.builder(name)
	if err == nil && b == nil && config.HasContext(name) {
		// Every docker context is a builder of the docker driver.
		b = &builder{Name: name, Driver: "docker", Nodes: []builderNode{{Name: name, Endpoint: name}}}
	}
	if err == nil && b == nil {
		err = st.unknown(name)
	}
	if err != nil {
		return nil, &BuilderError{Builder: name, Err: err}
	}
	return st.nodes(ctx, b)
}

// Default returns the nodes of the builder that buildx would use without a
// --builder flag: $BUILDX_BUILDER, else the current one. ok is false when none is
// configured: buildx then falls back to the engine of the docker context.
func Default(ctx context.Context, config *dockerconfig.Config) (specs []Spec, ok bool, err error) {
	if name := config.Env()["BUILDX_BUILDER"]; name != "" {
		specs, err = FromBuilder(ctx, name, config)
		if err != nil {
			return nil, false, fmt.Errorf("$BUILDX_BUILDER: %w", err)
		}
		return specs, true, nil
	}
	st, err := openStore(config)
	if err != nil {
		return nil, false, nil // no home directory, hence no configuration
	}
	b, err := st.current()
	if err != nil {
		return nil, false, fmt.Errorf("current builder of buildx: %w", err)
	}
	if b == nil {
		return nil, false, nil
	}
	specs, err = st.nodes(ctx, b)
	if err != nil {
		return nil, false, err
	}
	return specs, true, nil
}

// Foreign reports whether only docker buildx reaches the nodes of a builder: that of the
// name, or for "" the one that it would use without a --builder flag. What cannot be
// read is not known to be.
func Foreign(name string, config *dockerconfig.Config) bool {
	st, err := openStore(config)
	if err != nil {
		return false
	}
	if name == "" {
		name = config.Env()["BUILDX_BUILDER"]
	}
	var b *builder
	if name != "" {
		b, err = st.builder(name)
	} else {
		b, err = st.current()
	}
	if err != nil || b == nil {
		return false
	}
	return !slices.Contains([]string{"", "docker", "docker-container", "kubernetes", "remote"}, b.Driver) ||
		slices.ContainsFunc(b.Nodes, func(n builderNode) bool { return strings.HasPrefix(n.Endpoint, cloudScheme) })
}

// cloudScheme is that of the nodes of Docker Build Cloud.
const cloudScheme = "cloud://"

// store reads the directory of buildx, and docker's as far as needed.
type store struct {
	docker *dockerconfig.Config
	env    map[string]string
	dir    string
}

func openStore(config *dockerconfig.Config) (*store, error) {
	st := &store{docker: config, env: config.Env(), dir: config.Env()["BUILDX_CONFIG"]}
	if st.dir == "" {
		if config.Dir() == "" {
			return nil, errors.New("there is no configuration of buildx: none of $BUILDX_CONFIG, $DOCKER_CONFIG and $HOME is set")
		}
		st.dir = filepath.Join(config.Dir(), "buildx")
	}
	return st, nil
}

// builderNames are the names buildx accepts.
var builderNames = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9._-]*$`)

// builder reads a stored builder; it is nil when there is none of that name.
func (st *store) builder(name string) (*builder, error) {
	if !builderNames.MatchString(name) {
		return nil, nil
	}
	path := filepath.Join(st.dir, "instances", strings.ToLower(name))
	var b builder
	if found, err := readJSON(path, &b); err != nil || !found {
		return nil, err
	}
	if b.Name == "" {
		b.Name = name
	}
	return &b, nil
}

// readJSON decodes a file; found is false when it does not exist.
func readJSON(path string, v any) (found bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return true, nil
}

// unknown returns the error that there is no stored builder of that name, with the cause.
func (st *store) unknown(name string) error {
	entries, err := os.ReadDir(filepath.Join(st.dir, "instances"))
	if err != nil || len(entries) == 0 {
		return fmt.Errorf("no such builder; %s has none", st.dir)
	}
	names := make([]string, len(entries)) // sorted by ReadDir
	for i, e := range entries {
		names[i] = e.Name()
	}
	return fmt.Errorf("no such builder; %s has %s", st.dir, strings.Join(names, ", "))
}

// current follows buildx: the global current builder, else the current one if it
// was chosen for this docker endpoint, else the endpoint's default.
func (st *store) current() (*builder, error) {
	var cur struct {
		Key, Name string
		Global    bool
	}
	if _, err := readJSON(filepath.Join(st.dir, "current"), &cur); err != nil {
		return nil, err
	}
	if cur.Name != "" && cur.Global {
		if b, err := st.builder(cur.Name); b != nil || err != nil {
			return b, err
		}
	}
	endpoint, err := st.endpoint()
	if err != nil {
		return nil, err
	}
	if cur.Name != "" && cur.Key == endpoint {
		return st.builder(cur.Name)
	}
	sum := sha256.Sum256([]byte(endpoint))
	name, err := os.ReadFile(filepath.Join(st.dir, "defaults", hex.EncodeToString(sum[:])[:20]))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return st.builder(strings.TrimSpace(string(name)))
}

// endpoint is the key under which buildx remembers a choice: the name of the
// docker context, or the engine's address when that is the default context.
func (st *store) endpoint() (string, error) {
	host := st.env["DOCKER_HOST"]
	if host == "" {
		if name, err := st.docker.ContextName(); err != nil || name != "" {
			return name, err
		}
	}
	tls := st.env["DOCKER_TLS_VERIFY"] != "" || st.env["DOCKER_TLS"] != ""
	return engineAddr(host, tls), nil
}

// engineAddr completes the value of $DOCKER_HOST as docker does, since buildx
// stores the completed form.
func engineAddr(host string, tls bool) string {
	host = strings.TrimSpace(host)
	switch {
	case host == "" && tls:
		return "tcp://localhost:2376"
	case host == "" && runtime.GOOS == "windows":
		return "npipe:////./pipe/docker_engine"
	case host == "", host == "unix://":
		return "unix:///var/run/docker.sock"
	}
	scheme, rest, ok := strings.Cut(host, "://")
	if !ok {
		scheme, rest = "tcp", host
	}
	if scheme != "tcp" {
		return host
	}
	u, err := url.Parse("tcp://" + rest)
	if err != nil {
		return host // matches no key
	}
	name, port := u.Hostname(), u.Port()
	if name == "" {
		name = "localhost"
	}
	if port == "" {
		port = "2375"
	}
	return "tcp://" + net.JoinHostPort(name, port) + u.Path
}

// nodes translates a stored builder.
func (st *store) nodes(ctx context.Context, b *builder) ([]Spec, error) {
	if len(b.Nodes) == 0 {
		return nil, &BuilderError{Builder: b.Name, Err: errors.New("it has no nodes; add one with 'docker buildx create --append --name " + b.Name + "'")}
	}
	var specs []Spec
	for _, n := range b.Nodes {
		found, err := st.node(ctx, b, n)
		if err != nil {
			if len(b.Nodes) > 1 {
				err = fmt.Errorf("node %s: %w", n.Name, err)
			}
			return nil, &BuilderError{Builder: b.Name, Err: err}
		}
		for i := range found {
			for _, p := range n.Platforms {
				if p.OS == "" || p.Architecture == "" {
					continue // says nothing
				}
				found[i].Prefers = append(found[i].Prefers, platforms.FormatAll(platforms.Normalize(p)))
			}
		}
		specs = append(specs, found...)
	}
	for i := range specs {
		specs[i].Speed = 1
		specs[i].Source = "builder " + b.Name
	}
	return specs, nil
}

func (st *store) node(ctx context.Context, b *builder, n builderNode) ([]Spec, error) {
	if b.Driver == "cloud" || strings.HasPrefix(n.Endpoint, cloudScheme) {
		return nil, errors.New("it is a builder of Docker Build Cloud, whose nodes only docker itself can reach; " + remedy)
	}
	switch b.Driver {
	case "remote":
		return remoteNode(n)
	case "docker-container", "":
		// buildx picks this driver when none was named at creation.
		c, err := container(n)
		return []Spec{{Name: n.Name, Addr: containerAddr(n), Container: c}}, err
	case "kubernetes":
		return st.pods(ctx, b, n)
	case "docker":
		return []Spec{{Name: n.Name, Addr: engineNode(n.Endpoint)}}, nil
	default:
		return nil, fmt.Errorf("dbake cannot use the driver %q; it can use docker, remote, docker-container and kubernetes; or %s", b.Driver, remedy)
	}
}

func remoteNode(n builderNode) ([]Spec, error) {
	s := Spec{Name: n.Name}
	if err := s.setAddr(n.Endpoint); err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", n.Endpoint, err)
	}
	if s.Local > 0 {
		return nil, fmt.Errorf("endpoint %s is not an address", n.Endpoint)
	}
	for _, key := range []string{"cacert", "cert", "key", "servername"} {
		if v := n.DriverOpts[key]; v != "" {
			s.setTLS(key, v)
		}
	}
	if s.TLS == nil {
		return []Spec{s}, nil
	}
	if err := s.checkTLS(); err != nil {
		return nil, err
	}
	if s.TLS.CACert == "" {
		return nil, errors.New("the builder's driver options set TLS without cacert, which the remote driver requires")
	}
	return []Spec{s}, nil
}

// engineNode is the address of the BuildKit inside the engine of an endpoint: a docker
// context or the address of an engine.
func engineNode(endpoint string) string {
	u := url.URL{Scheme: dockerScheme}
	if strings.Contains(endpoint, "://") {
		return dockerScheme + "://?" + url.Values{"host": {endpoint}}.Encode()
	}
	u.Host = endpoint
	if endpoint == "" {
		return dockerScheme + "://"
	}
	return u.String()
}

// containerAddr is the address of the container that buildx runs for a node. The
// stored endpoint is a docker context or the address of an engine.
func containerAddr(n builderNode) string {
	u := url.URL{Scheme: "docker-container", Host: containerPrefix + n.Name}
	switch {
	case strings.Contains(n.Endpoint, "://"):
		u.RawQuery = url.Values{"host": {n.Endpoint}}.Encode()
	case n.Endpoint != "":
		u.RawQuery = url.Values{"context": {n.Endpoint}}.Encode()
	}
	return u.String()
}

// Builders returns the names that --builder may have: those of the builders that
// buildx has stored and of the docker contexts, sorted. What cannot be read is left
// out.
func Builders(config *dockerconfig.Config) []string {
	st, err := openStore(config)
	if err != nil {
		return nil
	}
	names := []string{dockerconfig.DefaultContext}
	stored, _ := os.ReadDir(filepath.Join(st.dir, "instances")) // none that can be read
	for _, e := range stored {
		names = append(names, e.Name())
	}
	names = append(names, config.ContextNames()...)
	slices.Sort(names)
	return slices.Compact(names)
}
