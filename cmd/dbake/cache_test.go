package main

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

// The commands for a cache repository against a real registry: what they print, and
// that what is no cache is left alone.
func TestCacheCommands(t *testing.T) {
	conf := &configuration.Configuration{Storage: configuration.Storage{
		"inmemory": {}, "delete": {"enabled": true}, "maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	conf.HTTP.Secret = rand.Text()
	conf.Catalog.MaxEntries = 1000
	logrus.SetOutput(io.Discard) // the registry's own log
	defer logrus.SetOutput(os.Stderr)
	srv := httptest.NewServer(handlers.NewApp(t.Context(), conf))
	defer srv.Close()
	repo := strings.TrimPrefix(srv.URL, "http://") + "/team/cache"
	client := registry.New(registry.Options{})
	defer client.Close()
	push := func(ref, mediaType, text string) ocispecs.Descriptor {
		desc := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromString(text), Size: int64(len(text))}
		require.NoError(t, client.Push(t.Context(), ref, desc, []byte(text)))
		return desc
	}
	layer := push(repo, ocispecs.MediaTypeImageLayer, "layer")
	for i, tag := range []string{"a-api-0123abcd", "b-api-0123abcd", "c-api-0123abcd"} {
		config := push(repo, "application/vnd.buildkit.cacheconfig.v0",
			`{"layers":[{"blob":"`+layer.Digest.String()+`","parent":-1}],"records":[{"digest":"`+layer.Digest.String()+
				`","layers":[{"layer":0,"createdAt":"202`+string(rune('0'+i))+`-01-02T03:04:05Z"}]}]}`)
		push(repo+":"+tag, ocispecs.MediaTypeImageManifest, `{"schemaVersion":2,"mediaType":"`+ocispecs.MediaTypeImageManifest+
			`","config":{"mediaType":"`+config.MediaType+`","digest":"`+config.Digest.String()+`","size":`+strconv.FormatInt(config.Size, 10)+
			`},"layers":[{"mediaType":"`+layer.MediaType+`","digest":"`+layer.Digest.String()+`","size":5}]}`)
	}
	dbake := func(args ...string) string {
		var out, errs bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, dir: t.TempDir(), env: map[string]string{"HOME": t.TempDir()}}
		require.Zero(t, run(args, a), "%s", errs.String())
		return out.String()
	}

	require.Regexp(t, `(?m)^cache +b +api +1 +5B +0B .* b-api-0123abcd$`, dbake("cache", "ls", repo))
	require.Regexp(t, `(?s)would mark a-api-0123abcd.*would delete`, dbake("cache", "prune", repo, "--keep-last", "2", "--grace", "0s", "--dry-run"))
	require.Contains(t, dbake("cache", "prune", repo, "--keep-last", "2"), "the next prune after")
	require.NotContains(t, dbake("cache", "ls", repo), " a-api-0123abcd")
	require.Contains(t, dbake("cache", "prune", repo, "--grace", "0s"), "2 kept, 1 deleted, 0B freed")
	require.Contains(t, dbake("cache", "merge", repo+":b", repo+":c", "--to", repo+":main"), "main-api-0123abcd: 2 caches\n")
	require.Contains(t, dbake("cache", "ls", repo+":main", "--format", "json"), `"tag": "main-api-0123abcd"`)
	require.Equal(t, "no caches\n", dbake("cache", "ls", repo+":none"))
}
