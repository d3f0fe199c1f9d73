package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dbake/dbake/cmd/dbake/internal/otlp"
	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/memory/runs"
)

// traceCmd writes the record of a build in the form of other tools, or as a page.
type traceCmd struct {
	RunID    string `name:"run" placeholder:"ID" help:"The build, by the beginning of its name (default: the last)."`
	Format   string `default:"chrome" enum:"chrome,html,otlp" help:"Output: chrome for Perfetto and Chrome's tracing, html for a page with a chart of the nodes, or otlp for the JSON of OpenTelemetry."`
	Compare  string `placeholder:"ID" help:"With html, chart another build below, to the same scale, and list what became slower or faster."`
	Endpoint string `placeholder:"URL" help:"With otlp, send the spans to this collector, such as http://localhost:4318 ($OTEL_EXPORTER_OTLP_ENDPOINT), instead of writing them."`
	Output   string `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
}

// The formats of traces.
const (
	traceChrome = "chrome"
	traceHTML   = "html"
	traceOTLP   = "otlp"
)

func (c *traceCmd) Run(ctx contextBinding, a *app) error {
	switch {
	case c.Compare != "" && c.Format != traceHTML:
		return usageError{errors.New("--compare charts two builds: it needs --format html")}
	case c.Endpoint != "" && c.Format != traceOTLP:
		return usageError{errors.New("--endpoint is where spans are sent: it needs --format otlp")}
	case c.Endpoint != "" && c.Output != "":
		return usageError{errors.New("--endpoint and --output exclude each other")}
	}
	r, err := readRun(a.runs(), c.RunID)
	if err != nil {
		return err
	}
	var then *runs.Run
	if c.Compare != "" {
		if then, err = readRun(a.runs(), c.Compare); err != nil {
			return err
		}
	}
	if c.Format == traceOTLP {
		return c.spans(ctx, a, r)
	}
	return a.output(ctx, c.Output, func(w io.Writer) error {
		if c.Format == traceHTML {
			return view.RunPage(w, r, then)
		}
		return view.RunTrace(w, r)
	})
}

// spans writes or sends a build as spans.
func (c *traceCmd) spans(ctx context.Context, a *app, r *runs.Run) error {
	own, err := a.runs().Spans(r.ID)
	if err != nil {
		return err
	}
	data := otlp.Spans(r, own)
	if c.Output != "" {
		return a.output(ctx, c.Output, func(w io.Writer) error { return otlp.JSON(w, data) })
	}
	endpoint, ok, err := otlp.NewEndpoint(c.Endpoint, a.env)
	switch {
	case err != nil:
		return usageError{err}
	case !ok:
		return a.output(ctx, "", func(w io.Writer) error { return otlp.JSON(w, data) })
	}
	if err := otlp.Send(ctx, endpoint, data); err != nil {
		return err
	}
	n := 0
	for _, of := range data.GetResourceSpans() {
		for _, by := range of.GetScopeSpans() {
			n += len(by.GetSpans())
		}
	}
	a.progress.Note(fmt.Sprintf("sent %d spans of run %s", n, r.ID))
	return nil
}

// Help names the tools that read a trace.
func (traceCmd) Help() string {
	return strings.TrimSpace(`
A trace in the format chrome is read by https://ui.perfetto.dev and chrome://tracing: a process for each node, a row for each step that ran at the same time. The page of html needs nothing but a browser.

Spans of otlp are sent to --endpoint or $OTEL_EXPORTER_OTLP_ENDPOINT, where one of them is, by http/protobuf or what $OTEL_EXPORTER_OTLP_PROTOCOL says, and written as JSON otherwise, or with --output. Those that the nodes record themselves are among them after "dbake build --trace".`)
}
