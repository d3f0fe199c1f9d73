package otlp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// The protocols over HTTP that OTLP knows.
const (
	Protobuf = "http/protobuf"
	JSONBody = "http/json"
)

// Endpoint is where spans are sent.
type Endpoint struct {
	URL      string // of the traces
	Protocol string
	Headers  http.Header
	Timeout  time.Duration
}

// defaultTimeout is that of OpenTelemetry.
const defaultTimeout = 10 * time.Second

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 10

// NewEndpoint returns the endpoint that a base URL and the variables of OpenTelemetry's
// exporters name: those for traces count before those for all signals. base is "" when
// only they say; ok is false when nothing does.
func NewEndpoint(base string, env map[string]string) (e Endpoint, ok bool, err error) {
	get := func(name string) (value, from string) {
		for _, from := range []string{"OTEL_EXPORTER_OTLP_TRACES_" + name, "OTEL_EXPORTER_OTLP_" + name} {
			if env[from] != "" {
				return env[from], from
			}
		}
		return "", ""
	}
	from, whole := "--endpoint", false
	if base == "" {
		base, from = get("ENDPOINT")
		whole = strings.Contains(from, "TRACES") // it is no base to be added to
	}
	if base == "" {
		return e, false, nil
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return e, false, fmt.Errorf("%s: %q is not the URL of a collector, such as http://localhost:4318", from, base)
	}
	if !whole && !strings.HasSuffix(u.Path, "/v1/traces") {
		u = u.JoinPath("v1", "traces")
	}
	e = Endpoint{URL: u.String(), Protocol: Protobuf, Headers: http.Header{}, Timeout: defaultTimeout}
	if value, from := get("PROTOCOL"); value != "" {
		if value != Protobuf && value != JSONBody {
			return e, false, fmt.Errorf("%s is %q: spans are sent by %s and %s", from, value, Protobuf, JSONBody)
		}
		e.Protocol = value
	}
	if value, from := get("TIMEOUT"); value != "" {
		ms, err := strconv.Atoi(value)
		if err != nil || ms <= 0 {
			return e, false, fmt.Errorf("%s is %q: it must be a number of milliseconds", from, value)
		}
		e.Timeout = time.Duration(ms) * time.Millisecond
	}
	value, from := get("HEADERS")
	for pair := range strings.SplitSeq(value, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, text, found := strings.Cut(pair, "=")
		text, err := url.PathUnescape(strings.TrimSpace(text))
		if !found || strings.TrimSpace(name) == "" || err != nil {
			return e, false, fmt.Errorf("%s must be a list of NAME=VALUE", from) // and is not shown: it may hold a token
		}
		e.Headers.Set(strings.TrimSpace(name), text)
	}
	return e, true, nil
}

// Send sends spans to an endpoint.
func Send(ctx context.Context, e Endpoint, data *trace.TracesData) error {
	ctx, stop := context.WithTimeout(ctx, e.Timeout)
	defer stop()
	var body bytes.Buffer
	kind := "application/x-protobuf"
	if e.Protocol == JSONBody {
		kind = "application/json"
		if err := JSON(&body, data); err != nil {
			return err
		}
	} else {
		dt, err := proto.Marshal(&collector.ExportTraceServiceRequest{ResourceSpans: data.ResourceSpans})
		if err != nil {
			return fmt.Errorf("encode the spans: %w", err)
		}
		body.Write(dt)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.URL, &body)
	if err != nil {
		return fmt.Errorf("send the spans: %w", err)
	}
	req.Header = e.Headers.Clone()
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("send the spans: %w", err)
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("send the spans to %s: %w", e.URL, err)
	}
	if resp.StatusCode/100 != 2 {
		text, _, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n")
		return fmt.Errorf("send the spans to %s: %s: %q", e.URL, resp.Status, text)
	}
	var said collector.ExportTraceServiceResponse
	if e.Protocol == JSONBody {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(answer, &said)
	} else {
		err = proto.Unmarshal(answer, &said)
	}
	if n := said.GetPartialSuccess().GetRejectedSpans(); err == nil && n > 0 {
		return fmt.Errorf("send the spans to %s: it took all but %d: %s", e.URL, n, said.GetPartialSuccess().GetErrorMessage())
	}
	return nil
}
