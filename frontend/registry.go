package frontend

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/util/imageutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
)

// Endpoint is a server that answers for a registry.
type Endpoint struct {
	Host      string // host[:port]
	Path      string // "/v2" when empty
	PlainHTTP bool
	Insecure  bool // accept any certificate
}

// RegistryOptions say how to ask registries. The zero value asks all registries
// at their own address, with the user's docker credentials.
type RegistryOptions struct {
	// Mirrors lists, by registry ("docker.io"), what is asked in turn before
	// the registry itself. A list that contains the registry's own host says
	// how to reach it, and when.
	Mirrors map[string][]Endpoint
	// DockerConfig is the directory of docker's config.json; empty is the
	// user's.
	DockerConfig string
	// CacheDir keeps manifests and configs for ever, and which digest a tag
	// had; empty keeps nothing between runs.
	CacheDir string
	// MaxAge lets a digest in the cache answer for its tag if it is at most
	// this old; 0 asks the registry in every run.
	MaxAge time.Duration
	// Offline never asks a registry. What the cache does not know, however old,
	// is assumed.
	Offline bool
	// Connections is how many requests are under way at once; 0 is 8.
	Connections int
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// RegistryResolver resolves images by asking registries. It serves one run: what
// it has once answered for a reference it answers until the end.
type RegistryResolver struct {
	opts    RegistryOptions
	cache   *metadataCache
	slots   *semaphore.Weighted
	flights singleflight.Group
	remote  remotes.Resolver
	silent  *log.Entry

	credsMu      sync.Mutex // guards the fields up to the next mutex
	dockerConfig *configfile.ConfigFile
	hosts        map[string][2]string // user and password

	mu      sync.Mutex // guards the fields below
	digests map[string]ocispecs.Descriptor
	images  map[string]*Image
	blobs   map[string][]byte
}

var _ Resolver = (*RegistryResolver)(nil)

// NewRegistryResolver returns a resolver for one run.
func NewRegistryResolver(o RegistryOptions) *RegistryResolver {
	if o.Connections <= 0 {
		o.Connections = 8
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &RegistryResolver{
		opts:    o,
		cache:   &metadataCache{dir: o.CacheDir},
		silent:  silentLog(),
		slots:   semaphore.NewWeighted(int64(o.Connections)),
		digests: map[string]ocispecs.Descriptor{},
		images:  map[string]*Image{},
		blobs:   map[string][]byte{},
		hosts:   map[string][2]string{},
	}
	r.remote = docker.NewResolver(docker.ResolverOptions{
		Hosts:   r.registryHosts,
		Headers: http.Header{"User-Agent": {"dbake"}},
	})
	return r
}

func silentLog() *log.Entry {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return logrus.NewEntry(l)
}

// Resolve implements Resolver.
func (r *RegistryResolver) Resolve(ctx context.Context, req ImageRequest) (*Image, error) {
	// What goes wrong is in the error; the log of the library would go to
	// standard error.
	ctx = log.WithLogger(ctx, r.silent)
	p := platforms.Normalize(req.Platform)
	key := req.Ref.String() + " " + platforms.FormatAll(p)
	return once(r, r.images, "image "+key, key, func() (*Image, error) {
		desc, err := r.digest(ctx, req.Ref)
		if err != nil {
			return nil, err
		}
		if desc.Digest == "" {
			return assumedImage(p), nil
		}
		config, err := r.config(ctx, req.Ref, desc, p)
		if errors.Is(err, errUnknown) {
			img := assumedImage(p)
			img.Digest = desc.Digest
			return img, nil
		}
		if err != nil {
			return nil, err
		}
		return &Image{Digest: desc.Digest, Config: config}, nil
	})
}

// once returns the value of key in m, and computes it if it is not there. Calls
// that want the same value wait for the one that computes it. Errors are not
// kept: one caller's cancelled context must not fail those that come later.
func once[V any](r *RegistryResolver, m map[string]V, flight, key string, compute func() (V, error)) (V, error) {
	get := func() (V, bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		v, ok := m[key]
		return v, ok
	}
	if v, ok := get(); ok {
		return v, nil
	}
	res, err, _ := r.flights.Do(flight, func() (any, error) {
		if v, ok := get(); ok {
			return v, nil
		}
		v, err := compute()
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		m[key] = v
		return v, nil
	})
	if err != nil {
		var zero V
		return zero, err
	}
	return res.(V), nil
}

// digest returns the descriptor of what ref names; without a digest when that is
// not known.
func (r *RegistryResolver) digest(ctx context.Context, ref reference.Named) (ocispecs.Descriptor, error) {
	key := ref.String()
	return once(r, r.digests, "digest "+key, key, func() (ocispecs.Descriptor, error) {
		if d, ok := ref.(reference.Digested); ok {
			if desc, ok := r.cache.descriptor(d.Digest()); ok || r.opts.Offline {
				desc.Digest = d.Digest()
				return desc, nil
			}
		} else if desc, at, ok := r.cache.tag(key); ok {
			age := r.opts.Now().Sub(at)
			if r.opts.Offline || r.opts.MaxAge > 0 && age >= 0 && age <= r.opts.MaxAge {
				return desc, nil
			}
		} else if r.opts.Offline {
			return ocispecs.Descriptor{}, nil
		}
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return ocispecs.Descriptor{}, context.Cause(ctx)
		}
		defer r.slots.Release(1)
		_, desc, err := r.remote.Resolve(ctx, key)
		if err != nil {
			return desc, err
		}
		r.cache.putTag(key, desc, r.opts.Now())
		return desc, nil
	})
}

// config returns the config of the image below desc that fits p best.
func (r *RegistryResolver) config(ctx context.Context, ref reference.Named, desc ocispecs.Descriptor, p ocispecs.Platform) ([]byte, error) {
	blobs := &blobReader{r: r, ref: ref.String()}
	if desc.MediaType == "" {
		// A digest of which only the blob may be in the cache.
		data, err := blobs.read(ctx, desc)
		if err != nil {
			return nil, err
		}
		if desc.MediaType, err = imageutil.DetectManifestBlobMediaType(data); err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
	}
	config, err := images.Config(ctx, blobs, desc, platforms.Only(p))
	if err != nil {
		return nil, fmt.Errorf("%s for %s: %w", ref, platforms.FormatAll(p), err)
	}
	return blobs.read(ctx, config)
}

// errUnknown says that a blob is not in the cache and nobody may be asked.
var errUnknown = errors.New("not known while offline")

// blobReader reads manifests and configs of one image, through the cache.
type blobReader struct {
	r   *RegistryResolver
	ref string
}

// maxBlob bounds what a registry may make us read: manifests and configs are
// never that large.
const maxBlob = 16 << 20

var _ content.Provider = (*blobReader)(nil)

// ReaderAt implements content.Provider.
func (b *blobReader) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	data, err := b.read(ctx, desc)
	if err != nil {
		return nil, err
	}
	return blobBytes{bytes.NewReader(data)}, nil
}

// blobBytes is a blob in memory.
type blobBytes struct{ *bytes.Reader }

// Close implements content.ReaderAt.
func (blobBytes) Close() error { return nil }

func (b *blobReader) read(ctx context.Context, desc ocispecs.Descriptor) ([]byte, error) {
	key := desc.Digest.String()
	return once(b.r, b.r.blobs, "blob "+b.ref+" "+key, key, func() ([]byte, error) { return b.load(ctx, desc) })
}

func (b *blobReader) load(ctx context.Context, desc ocispecs.Descriptor) ([]byte, error) {
	if data, ok := b.r.cache.blob(desc.Digest); ok {
		return data, nil
	}
	if b.r.opts.Offline {
		return nil, errUnknown
	}
	if err := b.r.slots.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	defer b.r.slots.Release(1)
	fetcher, err := b.r.remote.Fetcher(ctx, b.ref)
	if err != nil {
		return nil, err
	}
	rc, err := fetcher.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	data, err := io.ReadAll(io.LimitReader(rc, maxBlob+1))
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", desc.Digest, b.ref, err)
	}
	if len(data) > maxBlob {
		return nil, fmt.Errorf("%s of %s exceeds %d bytes", desc.Digest, b.ref, maxBlob)
	}
	if got := digest.FromBytes(data); got != desc.Digest {
		return nil, fmt.Errorf("%s of %s has digest %s", desc.Digest, b.ref, got)
	}
	b.r.cache.putBlob(desc.Digest, data)
	return data, nil
}

// registryHosts lists the servers to ask for a registry, in order.
func (r *RegistryResolver) registryHosts(registry string) ([]docker.RegistryHost, error) {
	own, err := docker.DefaultHost(registry)
	if err != nil {
		return nil, err
	}
	var hosts []docker.RegistryHost
	listed := false
	for _, e := range r.opts.Mirrors[registry] {
		listed = listed || e.Host == own || e.Host == registry
		hosts = append(hosts, r.registryHost(e))
	}
	if !listed {
		plain, err := docker.MatchLocalhost(registry)
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, r.registryHost(Endpoint{Host: own, PlainHTTP: plain}))
	}
	return hosts, nil
}

func (r *RegistryResolver) registryHost(e Endpoint) docker.RegistryHost {
	if e.Path == "" {
		e.Path = "/v2"
	}
	client := http.DefaultClient
	scheme := "https"
	switch {
	case e.PlainHTTP:
		scheme = "http"
	case e.Insecure:
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // asked for by the user
		client = &http.Client{Transport: t}
	}
	return docker.RegistryHost{
		Client:       client,
		Authorizer:   docker.NewDockerAuthorizer(docker.WithAuthClient(client), docker.WithAuthCreds(r.credentials)),
		Host:         e.Host,
		Scheme:       scheme,
		Path:         e.Path,
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
	}
}

// hubKey is under what docker's config keeps the credentials for docker.io.
const hubKey = "https://index.docker.io/v1/"

// credentials returns user and password for a host, or an empty user and a
// refresh token. It is called only when a registry asks for them.
func (r *RegistryResolver) credentials(host string) (string, string, error) {
	if host == "registry-1.docker.io" || host == "docker.io" {
		host = hubKey
	}
	// A credential helper is a program, and not known to bear being run twice at
	// once.
	r.credsMu.Lock()
	defer r.credsMu.Unlock()
	if c, ok := r.hosts[host]; ok {
		return c[0], c[1], nil
	}
	if r.dockerConfig == nil {
		cf, err := config.Load(cmp.Or(r.opts.DockerConfig, config.Dir()))
		if err != nil {
			return "", "", fmt.Errorf("docker credentials: %w", err)
		}
		r.dockerConfig = cf
	}
	ac, err := r.dockerConfig.GetAuthConfig(host)
	if err != nil {
		return "", "", fmt.Errorf("docker credentials for %s: %w", host, err)
	}
	c := [2]string{ac.Username, ac.Password}
	if ac.IdentityToken != "" {
		c = [2]string{"", ac.IdentityToken}
	}
	r.hosts[host] = c
	return c[0], c[1], nil
}
