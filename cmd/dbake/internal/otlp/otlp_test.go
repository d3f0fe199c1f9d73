package otlp

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/internal/memory/runs"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// fixedRun is a run with steps of two nodes, a task, a failure and spans of a node.
func fixedRun() (*runs.Run, []runs.Span) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := &runs.Run{
		ID: "20260102T030405.000-bbbbbb", Project: "/src/shop", Started: at, Wall: 5, Lead: 0.5, Outcome: runs.Failed, Predicted: 4,
		Nodes: []runs.Node{{Name: "n1"}, {Name: "n2"}, {Name: "idle"}}, Targets: []runs.Target{{Name: "api"}, {Name: "web"}},
		Steps: []runs.Step{
			{Name: "[1/2] COPY . .", Node: "n1", Targets: []string{"api"}, Cached: true},
			{Name: "[2/2] RUN make", Node: "n1", Targets: []string{"api"}, Took: 2, Inputs: []int{0}, Result: "sha256:1"},
			{Name: "[2/2] RUN fail", Node: "n2", Targets: []string{"web"}, Start: 1, Took: 1.5, Error: "exit code: 1"},
		},
		Tasks: []runs.Task{{Kind: runs.Export, Name: "exporting to image", Node: "n1", Targets: []string{"api"}, Start: 2, Took: 1}},
	}
	return r, []runs.Span{
		{Node: "n1", ID: "00000000000000aa", Parent: "00000000000000ff", Name: "[2/2] RUN make", Start: at, End: at.Add(time.Second), Attributes: map[string]string{"vertex": "sha256:2"}},
		{Node: "n1", ID: "00000000000000ab", Parent: "00000000000000aa", Name: "runc run", Start: at, End: at.Add(time.Second), Error: "no"},
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, JSON(&b, Spans(fixedRun())))
	var out bytes.Buffer // the spacing of protojson is not to be relied upon
	require.NoError(t, json.Indent(&out, b.Bytes(), "", " "))
	path := filepath.Join("testdata", "run.json")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, out.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String())
}

// Every parent is a span of the trace, and none of them stands there twice.
func TestParents(t *testing.T) {
	seen, parents := map[string]bool{}, map[string]bool{}
	for _, r := range Spans(fixedRun()).GetResourceSpans() {
		for _, s := range r.GetScopeSpans()[0].GetSpans() {
			require.False(t, seen[string(s.SpanId)])
			seen[string(s.SpanId)] = true
			parents[string(s.ParentSpanId)] = true
		}
	}
	require.Len(t, seen, 1+3+1+2)
	for p := range parents {
		require.True(t, p == "" || seen[p])
	}
	require.NoError(t, JSON(io.Discard, Spans(&runs.Run{}, nil)))
}

func TestSend(t *testing.T) {
	var got *http.Request
	var body []byte
	status, answer := http.StatusOK, []byte(nil)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(status)
		_, _ = w.Write(answer)
	}))
	defer server.Close()
	env := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": server.URL + "/base/", "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20word, x=y"}
	e, ok, err := NewEndpoint("", env)
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, Send(t.Context(), e, Spans(fixedRun())))
	require.Equal(t, "/base/v1/traces", got.URL.Path)
	require.Equal(t, "application/x-protobuf", got.Header.Get("Content-Type"))
	require.Equal(t, "Bearer word", got.Header.Get("Authorization"))
	require.Equal(t, "y", got.Header.Get("X"))
	var sent collector.ExportTraceServiceRequest
	require.NoError(t, proto.Unmarshal(body, &sent))
	require.Len(t, sent.GetResourceSpans(), 3)

	env["OTEL_EXPORTER_OTLP_PROTOCOL"] = JSONBody
	e, _, err = NewEndpoint(server.URL, env)
	require.NoError(t, err)
	require.NoError(t, Send(t.Context(), e, Spans(fixedRun())))
	require.Equal(t, "application/json", got.Header.Get("Content-Type"))
	require.True(t, json.Valid(body))

	answer = []byte(`{"partialSuccess":{"rejectedSpans":"2","errorMessage":"too old"}}`)
	require.ErrorContains(t, Send(t.Context(), e, Spans(fixedRun())), "it took all but 2: too old")
	status, answer = http.StatusForbidden, []byte("who are you?\nmore")
	require.ErrorContains(t, Send(t.Context(), e, Spans(fixedRun())), `403 Forbidden: "who are you?"`)
}

func TestNewEndpoint(t *testing.T) {
	for name, c := range map[string]struct {
		base string
		env  map[string]string
		url  string
		err  string
	}{
		"none":               {},
		"flag":               {base: "http://c:4318", url: "http://c:4318/v1/traces"},
		"flag, whole":        {base: "http://c:4318/v1/traces", url: "http://c:4318/v1/traces"},
		"traces are whole":   {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/in", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, url: "https://c/in"},
		"flag before env":    {base: "http://c", env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, url: "http://c/v1/traces"},
		"no URL":             {base: "localhost:4317", err: `--endpoint: "localhost:4317" is not the URL of a collector`},
		"no URL of env":      {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "grpc://x"}, err: "OTEL_EXPORTER_OTLP_ENDPOINT: "},
		"another protocol":   {base: "http://c", env: map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, err: `OTEL_EXPORTER_OTLP_PROTOCOL is "grpc"`},
		"a bad timeout":      {base: "http://c", env: map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, err: "OTEL_EXPORTER_OTLP_TIMEOUT"},
		"headers are secret": {base: "http://c", env: map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "word"}, err: "OTEL_EXPORTER_OTLP_HEADERS must be a list of NAME=VALUE"},
	} {
		e, ok, err := NewEndpoint(c.base, c.env)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.url, e.URL, name)
		require.Equal(t, c.url != "", ok, name)
	}
}
