package daemon

import (
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/metadata"
)

// A trace of a node is read as far as it can be.
func TestReadSpans(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	got := readSpans([]byte(`{"Name":"step","SpanContext":{"TraceID":"01","SpanID":"00000000000000aa"},"Parent":{"SpanID":"0000000000000000"},
"StartTime":"2026-01-02T03:04:05Z","EndTime":"2026-01-02T03:04:06Z","Attributes":[{"Key":"vertex","Value":{"Type":"STRING","Value":"sha256:1"}},{"Key":"n","Value":{"Type":"INT64","Value":3}}],"Status":{"Code":1,"Description":"no"}}
{"Name":"named","SpanContext":{"SpanID":"00000000000000ad"},"StartTime":"2026-01-02T03:04:05Z","EndTime":"2026-01-02T03:04:05Z","Status":{"Code":"Error","Description":"by name"}}
{"Name":"below","SpanContext":{"SpanID":"00000000000000ab"},"Parent":{"SpanID":"00000000000000aa"},"StartTime":"2026-01-02T03:04:05Z","EndTime":"2026-01-02T03:04:05Z","Status":{"Code":0,"Description":""}}
{"Name":"backwards","SpanContext":{"SpanID":"00000000000000ac"},"StartTime":"2026-01-02T03:04:05Z","EndTime":"2026-01-02T03:04:04Z"}
{"Name":"none","SpanContext":{"SpanID":"0000000000000000"}}
{"Name":"cut off`))
	require.Equal(t, []Span{
		{ID: "00000000000000aa", Name: "step", Start: at, End: at.Add(time.Second), Attributes: map[string]string{"vertex": "sha256:1", "n": "3"}, Error: "no"},
		{ID: "00000000000000ad", Name: "named", Start: at, End: at, Error: "by name"},
		{ID: "00000000000000ab", Parent: "00000000000000aa", Name: "below", Start: at, End: at},
	}, got)
	require.Empty(t, readSpans(nil))
}

// Only builds that a node keeps a record of are traced, each as a trace of its own, and
// none without being asked.
func TestTracingEnter(t *testing.T) {
	var none *Tracing
	require.Equal(t, t.Context(), none.enter(t.Context(), "n1", &bkclient.SolveOpt{Ref: "a"}))

	tracing := NewTracing()
	seen := map[string]bool{}
	for _, ref := range []string{"a", "b"} {
		opt := bkclient.SolveOpt{Ref: ref}
		md, ok := metadata.FromOutgoingContext(tracing.enter(t.Context(), "n1", &opt))
		require.True(t, ok)
		require.Regexp(t, "^00-[0-9a-f]{32}-[0-9a-f]{16}-01$", md.Get(traceparent)[0])
		seen[md.Get(traceparent)[0]] = true
	}
	require.Len(t, seen, 2)
	require.Len(t, tracing.refs["n1"], 2)
	_, ok := metadata.FromOutgoingContext(tracing.enter(t.Context(), "n1", &bkclient.SolveOpt{Internal: true}))
	require.False(t, ok)
}
