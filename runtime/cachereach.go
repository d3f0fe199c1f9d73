package runtime

import (
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/dbake/dbake/compiler/ir"
)

// A daemon reads the caches that a solve imports without a deadline, and looks a step
// up in them in the one goroutine that schedules all its builds: a registry that
// accepts connections and says nothing would stop the node, also for others, until
// its connections end (solver/llbsolver/bridge.go, newLazyCacheManager). So each
// registry, and each other service that caches are in, is tried by each node before the
// first solve, and left out where it is silent; and each cache is read before it is
// imported, see [solver.read].

// reachTimeout bounds how long a registry may take to answer a node.
const reachTimeout = 10 * time.Second

// registryHost is the registry of a cache, "" when it is in none.
func registryHost(e ir.CacheEntry) string {
	if e.Type != cacheRegistry {
		return ""
	}
	ref, err := reference.ParseNormalizedNamed(e.Attrs["ref"])
	if err != nil {
		return "" // the node will refuse it
	}
	return reference.Domain(ref)
}

// cacheHost names the server of a cache: its registry, or the service of its type, with its
// address if that is known.
func cacheHost(e ir.CacheEntry) string {
	if host := registryHost(e); host != "" {
		return host
	}
	if host := cacheAddress(e); host != "" {
		return "for caches of type " + e.Type + " at " + host
	}
	return "for caches of type " + e.Type
}

// cacheService is the URL of the service that a cache is in, "" when that is a registry
// or is not known here.
func cacheService(e ir.CacheEntry) string {
	switch e.Type {
	case cacheGHA:
		if v2 := e.Attrs["url_v2"]; v2 != "" && e.Attrs["version"] != "1" {
			return v2
		}
		return e.Attrs["url"]
	case cacheS3:
		if given := e.Attrs["endpoint_url"]; given != "" {
			return given
		}
		return awsService(e.Attrs["region"], e.Attrs["bucket"])
	case cacheAzblob:
		return e.Attrs["account_url"]
	}
	return ""
}

var (
	// bucketName is a name of a bucket that is a part of a host's name, and regionName one
	// of a region.
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
	regionName = regexp.MustCompile(`^[a-z]{2,5}(-[a-z]+)+-[0-9]+$`)
	// awsPartitions are the domains of regions, by how their names begin; the last is of
	// all others.
	awsPartitions = []struct{ prefix, domain string }{
		{"cn-", "amazonaws.com.cn"}, {"us-isob-", "sc2s.sgov.gov"}, {"us-isof-", "csp.hci.ic.gov"}, {"us-iso-", "c2s.ic.gov"},
		{"eu-isoe-", "cloud.adc-e.uk"}, {"eusc-", "amazonaws.eu"}, {"", "amazonaws.com"},
	}
)

// awsService is the URL at which AWS serves a bucket when no other is given; "" for buckets
// that are reached in other ways, and when the node has the name of the region.
func awsService(region, bucket string) string {
	if !regionName.MatchString(region) || strings.HasPrefix(bucket, "arn:") || strings.HasSuffix(bucket, "--x-s3") {
		return ""
	}
	host := "s3." + region
	if bucketName.MatchString(bucket) {
		host = bucket + "." + host
	}
	i := slices.IndexFunc(awsPartitions, func(p struct{ prefix, domain string }) bool { return strings.HasPrefix(region, p.prefix) })
	return "https://" + host + "." + awsPartitions[i].domain
}

// cacheAddress is the host, with its port, that a node connects to for a cache; "" when
// that is not known.
func cacheAddress(e ir.CacheEntry) string {
	if host := registryHost(e); host != "" {
		return host
	}
	u, err := url.Parse(cacheService(e))
	if err != nil {
		return "" // the node will refuse it
	}
	return u.Host
}

// cacheProbe is the source that a node asks for to find out whether the server of a cache
// answers; "" when there is none. Any answer will do.
func cacheProbe(e ir.CacheEntry) string {
	if registryHost(e) != "" {
		return imageProbe(e.Attrs["ref"])
	}
	u, err := url.Parse(cacheService(e))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	// Only the address: the rest of the URL may hold a secret.
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String()
}

// imageProbe is the source that a node asks for to find out whether the registry of ref
// answers. A node asks no registry for a name that has neither tag nor digest.
func imageProbe(ref string) string {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		ref = reference.TagNameOnly(named).String()
	}
	return imageScheme + ref
}

// imageScheme begins the name of an image as a source.
const imageScheme = "docker-image://"

// silentCaches are the servers of caches that do not answer the node.
type silentCaches struct {
	mu   sync.Mutex
	list []string // as cacheHost names it; guarded by mu
}

// has reports whether where does not answer.
func (c *silentCaches) has(where string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.list, where)
}

// add notes that where does not answer. It reports whether that is new.
func (c *silentCaches) add(where string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.list, where) {
		return false
	}
	c.list = append(c.list, where)
	return true
}

// leaveOut keeps the solves and exports of the node away from a silent server.
func (s *solver) leaveOut(where string) {
	if s.silent.add(where) {
		s.unheard(where)
	}
}

// probe finds the servers of caches that do not answer the node in time, and keeps its
// solves and exports away from them.
func (s *solver) probe(ctx context.Context, attach []session.Attachable, probes map[string]string) []string {
	hosts := s.link.silent(ctx, attach, probes)
	for _, h := range hosts {
		s.silent.add(h)
	}
	return hosts
}

// heard returns the caches whose servers answer, as far as is known.
func (s *solver) heard(entries []ir.CacheEntry) []ir.CacheEntry {
	return slices.DeleteFunc(slices.Clone(entries), func(e ir.CacheEntry) bool { return s.silent.has(cacheHost(e)) })
}

// writable leaves out the caches that are to be written into a silent registry and
// whose errors do not count; of others it is an error.
func (s *solver) writable(entries []bkclient.CacheOptionsEntry) ([]bkclient.CacheOptionsEntry, error) {
	if s.link != nil && s.link.info.OwnStore {
		var err error
		if entries, err = s.withoutCaches(entries); err != nil {
			return nil, err
		}
	}
	var kept []bkclient.CacheOptionsEntry
	for _, e := range entries {
		entry := ir.CacheEntry{Type: e.Type, Attrs: e.Attrs}
		host := cacheHost(entry)
		if !s.silent.has(host) {
			kept = append(kept, e)
			continue
		}
		if !entry.MayFail() {
			return nil, &Rejected{fmt.Errorf("%s did not answer within %s", service(host), reachTimeout)}
		}
	}
	return kept, nil
}

// silent returns the registries and services, as cacheHost names them, that do not answer
// their probes in time. Any answer will do, also that there is no such image.
func (l *link) silent(ctx context.Context, attach []session.Attachable, probes map[string]string) []string {
	if len(probes) == 0 {
		return nil
	}
	var mu sync.Mutex // guards silent
	var silent []string
	_ = l.gateway(ctx, attach, func(ctx context.Context, c gateway.Client) error {
		ctx, cancel := context.WithTimeout(ctx, reachTimeout)
		defer cancel()
		var eg errgroup.Group
		for host, probe := range probes {
			eg.Go(func() error {
				_, err := c.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: probe}, sourceresolver.Opt{
					LogName: "[internal] ask for " + strings.TrimPrefix(probe, imageScheme), ImageOpt: &sourceresolver.ResolveImageOpt{},
				})
				// The node knows the deadline and may report it before it is seen here.
				late := ctx.Err() != nil || grpcerrors.Code(err) == codes.DeadlineExceeded
				if err != nil && (late || containsAny(strings.ToLower(err.Error()), silenceSigns)) {
					mu.Lock()
					defer mu.Unlock()
					silent = append(silent, host)
				}
				return nil
			})
		}
		return eg.Wait()
	}) // where the node itself is silent, its link says so
	if ctx.Err() != nil {
		return nil
	}
	slices.Sort(silent)
	return silent
}

// service describes a server of caches, as cacheHost names it, for people.
func service(where string) string {
	if strings.Contains(where, " ") {
		return "the service " + where
	}
	return "registry " + where
}
