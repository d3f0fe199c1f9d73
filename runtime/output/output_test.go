package output

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

func TestOutputs(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "there"), 0o755))
	type attrs = map[string]string
	load := func(context.Context) (io.WriteCloser, error) {
		return &stream{Writer: io.Discard, begun: new(atomic.Bool)}, nil
	}
	for _, tt := range []struct {
		name        string
		out         ir.Output
		tags        []string
		annotations []string
		load        func(context.Context) (io.WriteCloser, error)

		typ    string
		attrs  attrs
		dir    string // below the project's
		file   bool   // written as a stream
		pushed bool
		err    string
	}{
		{name: "image", out: ir.Output{Type: "image"}, tags: []string{"app", "example.com/a/b:1", "app:latest"},
			typ: "image", attrs: attrs{"name": "docker.io/library/app:latest,example.com/a/b:1"}},
		{name: "image without name", out: ir.Output{Type: "image"}, typ: "image", attrs: attrs{}},
		{name: "own name", out: ir.Output{Type: "image", Attrs: attrs{"name": "x/y"}}, tags: []string{"app"}, typ: "image", attrs: attrs{"name": "x/y"}},
		{name: "bad tag", out: ir.Output{Type: "image"}, tags: []string{"A:B:C"}, err: `invalid tag "A:B:C"`},
		{name: "registry", out: ir.Output{Type: "registry"}, tags: []string{"app:1"},
			typ: "image", attrs: attrs{"name": "docker.io/library/app:1", "push": "true", "unpack": "false"}, pushed: true},
		{name: "registry unpacked", out: ir.Output{Type: "registry", Attrs: attrs{"unpack": "true"}}, tags: []string{"app:1"},
			typ: "image", attrs: attrs{"name": "docker.io/library/app:1", "push": "true", "unpack": "true"}, pushed: true},
		{name: "push without tag", out: ir.Output{Type: "image", Attrs: attrs{"push": "true"}}, err: "tag is needed when pushing to registry"},
		{name: "push as a word", out: ir.Output{Type: "image", Attrs: attrs{"push": ""}}, tags: []string{"app"},
			typ: "image", attrs: attrs{"push": "", "name": "docker.io/library/app:latest"}, pushed: true},
		{name: "push maybe", out: ir.Output{Type: "image", Attrs: attrs{"push": "maybe"}}, tags: []string{"app"}, err: `invalid value "maybe" for push`},
		{name: "local", out: ir.Output{Type: "local", Dest: "out"}, tags: []string{"app"}, typ: "local", attrs: attrs{}, dir: "out"},
		{name: "local in place", out: ir.Output{Type: "local", Dest: "there"}, typ: "local", attrs: attrs{}, dir: "there"},
		{name: "local nowhere", out: ir.Output{Type: "local"}, err: "dest is required for local exporter"},
		{name: "local to stdout", out: ir.Output{Type: "local", Dest: "-"}, err: "dest is required for local exporter"},
		{name: "tar", out: ir.Output{Type: "tar", Dest: "out.tar"}, typ: "tar", attrs: attrs{}, file: true},
		{name: "tar nowhere", out: ir.Output{Type: "tar"}, load: load, err: "dest file is required for tar exporter"},
		{name: "tar onto a directory", out: ir.Output{Type: "tar", Dest: "there"}, err: "there is a directory; name a file"},
		{name: "oci", out: ir.Output{Type: "oci", Dest: "o.tar"}, tags: []string{"app"}, typ: "oci", attrs: attrs{"name": "docker.io/library/app:latest"}, file: true},
		{name: "oci layout", out: ir.Output{Type: "oci", Dest: "there", Attrs: attrs{"tar": "false"}}, typ: "oci", attrs: attrs{"tar": "false"}, dir: "there"},
		{name: "oci layout to stdout", out: ir.Output{Type: "oci", Dest: "-", Attrs: attrs{"tar": "false"}}, err: "dest is required for oci exporter with tar=false"},
		{name: "oci tar maybe", out: ir.Output{Type: "oci", Dest: "x", Attrs: attrs{"tar": "maybe"}}, err: `invalid value "maybe" for tar`},
		{name: "docker", out: ir.Output{Type: "docker"}, load: load, typ: "docker", attrs: attrs{}, file: true},
		{name: "docker without engine", out: ir.Output{Type: "docker"}, err: "dest file is required for docker exporter"},
		{name: "docker to stdout", out: ir.Output{Type: "docker", Dest: "-"}, typ: "docker", attrs: attrs{}, file: true},
		{name: "unknown", out: ir.Output{Type: "floppy"}, err: `unknown output type "floppy"`},
		{name: "annotations", out: ir.Output{Type: "image"},
			annotations: []string{"a=1", "index:b=2", "manifest[linux/amd64],index-descriptor:c=3", "d=x=y:z"},
			typ:         "image",
			attrs: attrs{
				"annotation.a": "1", "annotation-index.b": "2",
				"annotation-manifest[linux/amd64].c": "3", "annotation-index-descriptor.c": "3",
				"annotation.d": "x=y:z",
			}},
		{name: "annotation without value", out: ir.Output{Type: "image"}, annotations: []string{"a"}, err: `invalid annotation "a"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := &ir.Target{Name: "app", Tags: tt.tags, Annotations: tt.annotations, Outputs: []ir.Output{tt.out, {Type: "cacheonly"}}}
			outs, err := All(target, dir, io.Discard, tt.load)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				require.ErrorContains(t, err, "target app: ")
				var source *ir.SourceError
				require.ErrorAs(t, err, &source)
				return
			}
			require.NoError(t, err)
			require.Len(t, outs, 1, "nothing is exported to the cache")
			out := outs[0]
			require.Equal(t, tt.typ, out.Entry.Type)
			require.Equal(t, tt.attrs, out.Entry.Attrs)
			require.Equal(t, tt.pushed, out.Pushed)
			require.Equal(t, tt.file, out.Begin(t.Context(), nil).Export().Output != nil)
			want := ""
			if tt.dir != "" {
				want = filepath.Join(dir, tt.dir)
			}
			require.Equal(t, want, out.Entry.OutputDir)
		})
	}
}

// TestArchiveFiles writes archives as an exporter does.
func TestArchiveFiles(t *testing.T) {
	dir := t.TempDir()
	var stdout bytes.Buffer
	one := func(dest string) Output {
		outs, err := All(&ir.Target{Name: "app", Outputs: []ir.Output{{Type: "tar", Dest: dest}}}, dir, &stdout, nil)
		require.NoError(t, err)
		return outs[0]
	}
	write := func(w *Writing, text string) {
		f, err := w.Export().Output(nil)
		require.NoError(t, err)
		_, err = io.WriteString(f, text)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	files := func() []string {
		entries, err := os.ReadDir(filepath.Join(dir, "sub"))
		require.NoError(t, err)
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}

	o := one("-")
	w := o.Begin(t.Context(), nil)
	write(w, "shown")
	require.NoError(t, w.Commit())
	require.Equal(t, "shown", stdout.String())
	_, err := o.Begin(t.Context(), nil).Export().Output(nil)
	require.ErrorIs(t, err, errBegun, "what was written to a stream cannot be taken back")

	o = one("sub/out.tar")
	w = o.Begin(t.Context(), nil)
	require.ErrorContains(t, w.Commit(), "the node sent nothing")
	require.NoError(t, w.Discard())
	w = o.Begin(t.Context(), nil)
	write(w, "first")
	require.NotEqual(t, []string{"out.tar"}, files(), "not there before it is complete")
	require.NoError(t, w.Commit())
	require.Equal(t, []string{"out.tar"}, files())

	w = o.Begin(t.Context(), nil)
	write(w, "broken")
	require.NoError(t, w.Discard())
	_, err = w.Export().Output(nil)
	require.Error(t, err, "the attempt has ended")
	require.Equal(t, []string{"out.tar"}, files())
	dt, err := os.ReadFile(filepath.Join(dir, "sub", "out.tar"))
	require.NoError(t, err)
	require.Equal(t, "first", string(dt), "the last good file stays")
}

// A pipe is written to, once; no reader is waited for beyond the run.
func TestArchiveThroughAPipe(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	outs, err := All(&ir.Target{Name: "app", Outputs: []ir.Output{{Type: "tar", Dest: "fifo"}}}, dir, nil, nil)
	require.NoError(t, err)
	o := outs[0]

	ctx, cancel := context.WithCancelCause(t.Context())
	w := o.Begin(ctx, func(text string) {
		require.Equal(t, "waits for a reader of the pipe "+fifo, text)
		cancel(errors.New("interrupted"))
	})
	_, err = w.Export().Output(nil)
	require.ErrorContains(t, err, "interrupted")
	require.NoError(t, w.Discard())

	got := make(chan string)
	go func() {
		b, _ := os.ReadFile(fifo)
		got <- string(b)
	}()
	w = o.Begin(t.Context(), func(string) {})
	f, err := w.Export().Output(nil)
	require.NoError(t, err)
	_, err = io.WriteString(f, "archive")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, w.Commit())
	require.Equal(t, "archive", <-got)
	_, err = o.Begin(t.Context(), nil).Export().Output(nil)
	require.ErrorIs(t, err, errBegun)
	info, err := os.Lstat(fifo)
	require.NoError(t, err)
	require.Equal(t, os.ModeNamedPipe, info.Mode().Type())
}

func TestImages(t *testing.T) {
	require.Empty(t, Output{}.Images(map[string]string{"image.name": "a"}))
	require.Equal(t, []Image{{Digest: "sha256:1", Place: OnNode}}, Output{Pushed: true}.Images(map[string]string{"containerimage.digest": "sha256:1"}))
	require.Equal(t, []Image{{Name: "a", Digest: "sha256:1", Place: InRegistry}, {Name: "b", Digest: "sha256:1", Place: InRegistry}},
		Output{Pushed: true}.Images(map[string]string{"containerimage.digest": "sha256:1", "image.name": "a,b"}))
	require.Equal(t, []Image{{Name: "o.tar", Digest: "sha256:1", Place: InFile}},
		Output{Dest: "o.tar"}.Images(map[string]string{"containerimage.digest": "sha256:1", "image.name": "a,b"}), "the names may stand for another image that was pushed")
}

func TestMetadata(t *testing.T) {
	encoded := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	require.Equal(t, map[string]any{
		"containerimage.digest":     "sha256:1",
		"containerimage.descriptor": json.RawMessage(`{"size":1}`),
		"list":                      encoded(`[1]`),
		"objects":                   json.RawMessage(`[{"a":1}]`),
		"result.json":               json.RawMessage(`{"b":2}`),
		"empty":                     encoded(`{}`),
		"number":                    "1234",
	}, Metadata(map[string]string{
		"containerimage.digest":     "sha256:1",
		"containerimage.descriptor": encoded(`{"size":1}`),
		"objects":                   encoded(`[{"a":1}]`),
		"result.json":               `{"b":2}`,
		"list":                      encoded(`[1]`),
		"empty":                     encoded(`{}`),
		"number":                    "1234",
	}))
}

// Digests belong to the names they stand beside, in whatever order outputs are.
func TestMetadataOfSeveralOutputs(t *testing.T) {
	image := func(pushed bool, digest, names string) Response {
		file := ""
		if !pushed && names == "a" {
			file = "a.tar"
		}
		return Response{pushed, file, map[string]string{
			"containerimage.digest": digest, "containerimage.config.digest": "config of " + digest, "image.name": names,
		}}
	}
	for _, tt := range []struct {
		name string
		list []Response
		want map[string]any
	}{
		{"none", nil, map[string]any{}},
		{"files only", []Response{{Values: map[string]string{}}}, map[string]any{}},
		{"one", []Response{image(true, "1", "a,b")}, map[string]any{
			"containerimage.digest": "1", "containerimage.config.digest": "config of 1", "image.name": "a,b"}},
		{"a file beside two pushes of one image", []Response{image(false, "1", "a"), image(true, "2", "a"), image(true, "2", "b")}, map[string]any{
			"containerimage.digest": "2", "containerimage.config.digest": "config of 2", "image.name": "a,b",
			"dbake.images": []namedImage{{"", "a.tar", "1"}, {"a", "", "2"}, {"b", "", "2"}}}},
		{"two pushes that differ, then a file", []Response{image(true, "1", "a"), image(true, "2", "b"), image(false, "3", "a")}, map[string]any{
			"containerimage.digest": "1", "containerimage.config.digest": "config of 1", "image.name": "a",
			"dbake.images": []namedImage{{"a", "", "1"}, {"b", "", "2"}, {"", "a.tar", "3"}}}},
		{"one image, pushed and stored", []Response{image(false, "1", "a"), image(true, "1", "b")}, map[string]any{
			"containerimage.digest": "1", "containerimage.config.digest": "config of 1", "image.name": "b"}},
		{"a file without a name", []Response{image(false, "1", "")}, map[string]any{
			"containerimage.digest": "1", "containerimage.config.digest": "config of 1", "image.name": ""}},
		{"other values stay", []Response{image(true, "1", "a"), {Values: map[string]string{"other": "x"}}}, map[string]any{
			"containerimage.digest": "1", "containerimage.config.digest": "config of 1", "image.name": "a", "other": "x"}},
	} {
		require.Equal(t, tt.want, MetadataOf(tt.list), tt.name)
	}
}

// An engine that does not answer is waited for as long as the export lasts.
func TestLoadEndsWithExport(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	load := func(ctx context.Context) (io.WriteCloser, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	outs, err := All(&ir.Target{Name: "app", Outputs: []ir.Output{{Type: "docker"}}}, "/", io.Discard, load)
	require.NoError(t, err)
	why := errors.New("interrupted")
	cancel(why)
	_, err = outs[0].Begin(ctx, nil).Export().Output(nil)
	require.Equal(t, why, err)
}

// An archive for Docker holds one image: what cannot be right is refused before anything is
// built.
func TestDockerArchiveOfIndex(t *testing.T) {
	const refused = "target app: docker exporter does not support exporting manifest lists, use the oci exporter instead"
	provenance := []ir.Attest{{Type: "provenance", Attrs: map[string]string{"mode": "max"}}}
	for name, tt := range map[string]struct {
		target ir.Target
		output ir.Output
		err    string
	}{
		"one image":               {target: ir.Target{Platforms: []string{"linux/amd64"}}, output: ir.Output{Type: "docker", Dest: "x.tar"}},
		"platforms":               {target: ir.Target{Platforms: []string{"linux/amd64,linux/arm64"}}, output: ir.Output{Type: "docker", Dest: "x.tar"}, err: refused},
		"attestation":             {target: ir.Target{Attest: provenance}, output: ir.Output{Type: "docker", Dest: "-"}, err: refused},
		"in a directory":          {target: ir.Target{Attest: provenance}, output: ir.Output{Type: "docker", Dest: "x", Attrs: map[string]string{"tar": "false"}}, err: refused},
		"no attestation":          {target: ir.Target{Attest: []ir.Attest{{Type: "sbom", Disabled: true}}}, output: ir.Output{Type: "docker", Dest: "x.tar"}},
		"another kind of archive": {target: ir.Target{Platforms: []string{"linux/amd64", "linux/arm64"}}, output: ir.Output{Type: "oci", Dest: "x.tar"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.target.Name, tt.target.Outputs = "app", []ir.Output{tt.output}
			_, err := All(&tt.target, t.TempDir(), io.Discard, nil)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.err)
		})
	}
}
