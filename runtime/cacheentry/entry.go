package cacheentry

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
)

// ReadVertex starts the name of the vertex that reads a cache, in BuildKit's status.
const ReadVertex = "importing cache manifest from "

// ManifestKey is where the response of a cache's export describes its manifest
// (cache/remotecache/export.go).
const ManifestKey = "cache.manifest"

// Manifest is the manifest of a cache as the response of its export says; zero when
// there was nothing to write.
func Manifest(resp map[string]string) ocispecs.Descriptor {
	var d ocispecs.Descriptor
	if json.Unmarshal([]byte(resp[ManifestKey]), &d) != nil {
		return ocispecs.Descriptor{}
	}
	return d
}

// Registry is the registry of a cache, "" when it is in none.
func Registry(e ir.CacheEntry) string {
	if e.Type != ir.TypeRegistry {
		return ""
	}
	ref, err := reference.ParseNormalizedNamed(e.Attrs["ref"])
	if err != nil {
		return "" // the node will refuse it
	}
	return reference.Domain(ref)
}

// Server names the server of a cache: its registry, or the service of its type, with its
// address if that is known.
func Server(e ir.CacheEntry) string {
	if host := Registry(e); host != "" {
		return host
	}
	if host := Address(e); host != "" {
		return "for caches of type " + e.Type + " at " + host
	}
	return "for caches of type " + e.Type
}

// serviceURL is the URL of the service that a cache is in, "" when that is a registry
// or is not known here.
func serviceURL(e ir.CacheEntry) string {
	switch e.Type {
	case ir.TypeGHA:
		if v2 := e.Attrs["url_v2"]; v2 != "" && e.Attrs["version"] != "1" {
			return v2
		}
		return e.Attrs["url"]
	case ir.TypeS3:
		if given := e.Attrs["endpoint_url"]; given != "" {
			return given
		}
		return awsService(e.Attrs["region"], e.Attrs["bucket"])
	case ir.TypeAzblob:
		// Without it the environment of the node names the service, which the node tells
		// nobody. No name of an account stands for a URL.
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

// Address is the host, with its port, that a node connects to for a cache; "" when
// that is not known.
func Address(e ir.CacheEntry) string {
	if host := Registry(e); host != "" {
		return host
	}
	u, err := url.Parse(serviceURL(e))
	if err != nil {
		return "" // the node will refuse it
	}
	return u.Host
}

// Probe is the source that a node asks for to find out whether the server of a cache
// answers; "" when there is none. Any answer will do.
func Probe(e ir.CacheEntry) string {
	if Registry(e) != "" {
		return ImageProbe(e.Attrs["ref"])
	}
	u, err := url.Parse(serviceURL(e))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	// Only the address: the rest of the URL may hold a secret.
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}).String()
}

// ImageProbe is the source that a node asks for to find out whether the registry of ref
// answers. A node asks no registry for a name that has neither tag nor digest.
func ImageProbe(ref string) string {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		ref = reference.TagNameOnly(named).String()
	}
	return ImageScheme + ref
}

// ImageScheme begins the name of an image as a source.
const ImageScheme = "docker-image://"

// Title describes a server of caches, as [Server] names it, for people.
func Title(where string) string {
	if strings.Contains(where, " ") {
		return "the service " + where
	}
	return "registry " + where
}

// ID is equal for equal entries.
func ID(e ir.CacheEntry) string {
	var b strings.Builder
	b.WriteString(e.Type)
	for _, k := range slices.Sorted(maps.Keys(e.Attrs)) {
		fmt.Fprintf(&b, "\x00%s\x00%s", k, e.Attrs[k])
	}
	return b.String()
}

// ForGateway returns caches in the form in which a solve imports them.
func ForGateway(entries []ir.CacheEntry) []gateway.CacheOptionsEntry {
	list := make([]gateway.CacheOptionsEntry, len(entries))
	for i, e := range entries {
		list[i] = gateway.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs}
	}
	return list
}

// ForClient is a cache in the client's form. The attributes are copied: the
// client writes into them, and solves run at one time.
func ForClient(c ir.CacheEntry) bkclient.CacheOptionsEntry {
	attrs := maps.Clone(c.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	return bkclient.CacheOptionsEntry{Type: c.Type, Attrs: attrs}
}
