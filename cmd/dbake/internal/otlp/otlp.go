// Package otlp writes what a build did as OpenTelemetry spans: a trace for each build,
// with a span for the build, for each step and other task of a node, and, where the nodes
// were asked to record them, the nodes' own.
//
// Ids are made of the name of the build, so that to write it twice makes no second trace.
package otlp

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/dbake/dbake/internal/memory/runs"
)

// scope names dbake as the source of the spans.
const scope = "github.com/dbake/dbake"

// Spans returns a build as spans: a resource for the build, and one for each node with
// what it did. own are the nodes' own spans.
func Spans(r *runs.Run, own []runs.Span) *trace.TracesData {
	t := &tracer{run: r, id: id(16, r.ID), zero: r.Started.Add(seconds(r.Lead))}
	root := id(8, r.ID)
	build := t.span(root, nil, "dbake build", r.Started, r.Started.Add(seconds(r.Wall)), map[string]any{
		"dbake.run": r.ID, "dbake.project": r.Project, "dbake.outcome": r.Outcome, "dbake.targets": names(r),
		"dbake.predicted_s": r.Predicted, "dbake.bound_s": r.Bound,
	})
	if r.Outcome != runs.Done {
		build.Status = failure(r.Outcome)
	}
	data := &trace.TracesData{ResourceSpans: []*trace.ResourceSpans{resourceOf("", build)}}
	for _, n := range r.Nodes {
		spans := t.node(n.Name, root, own)
		if len(spans) > 0 {
			data.ResourceSpans = append(data.ResourceSpans, resourceOf(n.Name, spans...))
		}
	}
	return data
}

// tracer makes the spans of one run.
type tracer struct {
	run  *runs.Run
	id   []byte
	zero time.Time // that the times of steps are counted from
}

// id derives n bytes from some words.
func id(n int, words ...string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(words, "\x00")))
	return sum[:n]
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func names(r *runs.Run) []string {
	var list []string
	for _, t := range r.Targets {
		list = append(list, t.Name)
	}
	return list
}

// resourceOf groups the spans of a node, or of dbake itself for "".
func resourceOf(node string, spans ...*trace.Span) *trace.ResourceSpans {
	about := []*common.KeyValue{attribute("service.name", "dbake")}
	if node != "" {
		about = []*common.KeyValue{attribute("service.name", "buildkitd"), attribute("service.instance.id", node)}
	}
	return &trace.ResourceSpans{
		Resource:   &resource.Resource{Attributes: about},
		ScopeSpans: []*trace.ScopeSpans{{Scope: &common.InstrumentationScope{Name: scope}, Spans: spans}},
	}
}

// span makes a span.
func (t *tracer) span(is, parent []byte, name string, start, end time.Time, attributes map[string]any) *trace.Span {
	s := &trace.Span{
		TraceId: t.id, SpanId: is, ParentSpanId: parent, Name: name, Kind: trace.Span_SPAN_KIND_INTERNAL,
		StartTimeUnixNano: uint64(start.UnixNano()), EndTimeUnixNano: uint64(max(end.UnixNano(), start.UnixNano())),
	}
	var keys []string
	for key := range attributes {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if a := attribute(key, attributes[key]); a != nil {
			s.Attributes = append(s.Attributes, a)
		}
	}
	return s
}

// node makes the spans of a node.
func (t *tracer) node(name string, root []byte, own []runs.Span) []*trace.Span {
	var list []*trace.Span
	for i, s := range t.run.Steps {
		if s.Node != name {
			continue
		}
		start := t.zero.Add(seconds(s.Start))
		span := t.span(id(8, t.run.ID, "step", fmt.Sprint(i)), root, s.Name, start, start.Add(seconds(s.Took)), map[string]any{
			"dbake.node": name, "dbake.targets": s.Targets, "dbake.cached": s.Cached, "dbake.result": s.Result,
		})
		if s.Error != "" {
			span.Status = failure(s.Error)
		}
		for _, in := range s.Inputs {
			span.Links = append(span.Links, &trace.Span_Link{TraceId: t.id, SpanId: id(8, t.run.ID, "step", fmt.Sprint(in))})
		}
		list = append(list, span)
	}
	for i, task := range t.run.Tasks {
		if task.Node != name {
			continue
		}
		start := t.zero.Add(seconds(task.Start))
		span := t.span(id(8, t.run.ID, "task", fmt.Sprint(i)), root, task.Name, start, start.Add(seconds(task.Took)), map[string]any{
			"dbake.node": name, "dbake.targets": task.Targets, "dbake.task": string(task.Kind),
		})
		if task.Error != "" {
			span.Status = failure(task.Error)
		}
		list = append(list, span)
	}
	known := map[string]bool{}
	for _, s := range own {
		known[s.ID] = known[s.ID] || s.Node == name
	}
	for _, s := range own {
		if s.Node != name {
			continue
		}
		parent := root
		if known[s.Parent] { // those of other processes, as of the client, are not there
			parent = id(8, t.run.ID, "own", name, s.Parent)
		}
		attributes := map[string]any{"dbake.node": name}
		for key, value := range s.Attributes {
			attributes[key] = value
		}
		span := t.span(id(8, t.run.ID, "own", name, s.ID), parent, s.Name, s.Start, s.End, attributes)
		if s.Error != "" {
			span.Status = failure(s.Error)
		}
		list = append(list, span)
	}
	return list
}

func failure(why string) *trace.Status {
	return &trace.Status{Code: trace.Status_STATUS_CODE_ERROR, Message: why}
}

// attribute returns nil for an empty value.
func attribute(key string, value any) *common.KeyValue {
	v := &common.AnyValue{}
	switch value := value.(type) {
	case string:
		if value == "" {
			return nil
		}
		v.Value = &common.AnyValue_StringValue{StringValue: value}
	case bool:
		v.Value = &common.AnyValue_BoolValue{BoolValue: value}
	case float64:
		if value == 0 {
			return nil
		}
		v.Value = &common.AnyValue_DoubleValue{DoubleValue: value}
	case []string:
		if len(value) == 0 {
			return nil
		}
		list := &common.ArrayValue{}
		for _, text := range value {
			list.Values = append(list.Values, &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: text}})
		}
		v.Value = &common.AnyValue_ArrayValue{ArrayValue: list}
	}
	return &common.KeyValue{Key: key, Value: v}
}

// idFields are the fields of OTLP's JSON that hold ids. There they stand in hexadecimal
// digits, and not as the JSON of protocol buffers has bytes.
var idFields = []string{"traceId", "spanId", "parentSpanId"}

// JSON writes spans in the JSON form of OTLP.
func JSON(w io.Writer, data *trace.TracesData) error {
	plain, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(data)
	if err != nil {
		return fmt.Errorf("encode the spans: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return fmt.Errorf("encode the spans: %w", err)
	}
	if err := inHex(tree); err != nil {
		return fmt.Errorf("encode the spans: %w", err)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(tree)
}

// inHex rewrites the ids in a tree of JSON.
func inHex(tree any) error {
	switch tree := tree.(type) {
	case []any:
		for _, below := range tree {
			if err := inHex(below); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, below := range tree {
			if text, ok := below.(string); ok && slices.Contains(idFields, key) {
				raw, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					return err
				}
				tree[key] = hex.EncodeToString(raw)
			} else if err := inHex(below); err != nil {
				return err
			}
		}
	}
	return nil
}
