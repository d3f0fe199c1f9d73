package cacheentry

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/dbake/dbake/compiler/ir"
)

// Credentials adds to caches what gives access to them, as far as it stands in
// the environment of the client rather than in the definition: the address and the
// token of the cache service of GitHub Actions, and AWS credentials for S3. They are
// added when a cache goes to a node, and are in nothing that is shown or kept.
//
// The zero value adds nothing.
type Credentials struct {
	env map[string]string
	aws aws.Credentials
}

// awsTimeout bounds the search for AWS credentials, which may ask a metadata server.
const awsTimeout = 5 * time.Second

// NewCredentials finds the credentials for the caches of p. AWS credentials
// are those of the default chain of AWS: environment, configuration files, the role
// of the machine. That there are none is no error: a node may have its own.
func NewCredentials(ctx context.Context, p *ir.Project, env map[string]string) Credentials {
	c := Credentials{env: env}
	lacks := func(e ir.CacheEntry) bool {
		return e.Type == ir.TypeS3 && (e.Attrs["access_key_id"] == "" || e.Attrs["secret_access_key"] == "")
	}
	if !slices.ContainsFunc(p.Targets, func(t *ir.Target) bool {
		return slices.ContainsFunc(t.CacheFrom, lacks) || slices.ContainsFunc(t.CacheTo, lacks)
	}) {
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, awsTimeout)
	defer cancel()
	config, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return c
	}
	if found, err := config.Credentials.Retrieve(ctx); err == nil {
		c.aws = found
	}
	return c
}

// Complete returns e with the credentials for it. Attributes that e has already stay.
func (c Credentials) Complete(e ir.CacheEntry) ir.CacheEntry {
	var found map[string]string
	switch e.Type {
	case ir.TypeGHA:
		found = actionsCache(e.Attrs, c.env)
	case ir.TypeS3:
		_, id := e.Attrs["access_key_id"]
		_, key := e.Attrs["secret_access_key"]
		if id && key {
			return e // the session token of others does not go with them
		}
		found = map[string]string{
			"access_key_id": c.aws.AccessKeyID, "secret_access_key": c.aws.SecretAccessKey, "session_token": c.aws.SessionToken,
		}
	default:
		return e
	}
	attrs := map[string]string{}
	for k, v := range found {
		if v != "" {
			attrs[k] = v
		}
	}
	maps.Copy(attrs, e.Attrs)
	e.Attrs = attrs
	return e
}

// actionsCache returns the attributes by which a job of GitHub Actions reaches its cache
// service.
func actionsCache(attrs, env map[string]string) map[string]string {
	version, given := attrs["version"]
	if v2, err := strconv.ParseBool(env["ACTIONS_CACHE_SERVICE_V2"]); !given && err == nil && v2 {
		version = "2"
	}
	found := map[string]string{"token": env["ACTIONS_RUNTIME_TOKEN"], "url": env["ACTIONS_RESULTS_URL"]}
	if url, ok := env["ACTIONS_CACHE_URL"]; ok {
		found["url"] = url
	}
	if version == "2" {
		found["url_v2"] = env["ACTIONS_RESULTS_URL"]
	}
	return found
}

// active reports whether a cache can be used from here: that of GitHub Actions only
// by those who know its address and have a token, which are its jobs.
func (c Credentials) active(e ir.CacheEntry) bool {
	if e.Type != ir.TypeGHA {
		return true
	}
	attrs := c.Complete(e).Attrs
	return attrs["token"] != "" && (attrs["url"] != "" || attrs["url_v2"] != "")
}

// argInlineCache is the build argument that asks for an inline cache.
const argInlineCache = "BUILDKIT_INLINE_CACHE"

// Usable returns p with the caches that a build uses in this environment:
// without those that cannot be used from here, which are left out in silence, and
// with the inline cache that a build argument asks for. p is not changed.
func Usable(p *ir.Project, env map[string]string) *ir.Project {
	c := Credentials{env: env}
	usable := *p
	usable.Targets = make([]*ir.Target, len(p.Targets))
	inactive := func(e ir.CacheEntry) bool { return !c.active(e) }
	for i, t := range p.Targets {
		changed := *t
		changed.CacheFrom = slices.DeleteFunc(slices.Clone(t.CacheFrom), inactive)
		changed.CacheTo = slices.DeleteFunc(slices.Clone(t.CacheTo), inactive)
		inline := func(e ir.CacheEntry) bool { return e.Type == ir.TypeInline }
		if asked, err := strconv.ParseBool(t.Args[argInlineCache]); err == nil && asked && !slices.ContainsFunc(changed.CacheTo, inline) {
			changed.CacheTo = append(changed.CacheTo, ir.CacheEntry{Type: ir.TypeInline})
		}
		usable.Targets[i] = &changed
	}
	return &usable
}
