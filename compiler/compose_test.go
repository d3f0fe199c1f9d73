package compiler

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

var updateCompose = flag.Bool("update-compose", false, "rewrite the goldens in testdata/compose")

// TestParseCompose runs the archives of testdata/compose. Each holds compose
// files and, as "want", what they mean: the definitions and groups as text, or
// "error: " and the message. The comment of an archive is lines of options:
// "files A B" names the files in order (compose.yaml if missing), "env K=V" and
// "var K=V" set variables, "profiles A B" selects profiles.
func TestParseCompose(t *testing.T) {
	archives, err := filepath.Glob("testdata/compose/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, archives)
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			name, err := filepath.Abs(name)
			require.NoError(t, err)
			archive, err := txtar.ParseFile(name)
			require.NoError(t, err)
			dir := writeArchive(t, archive)

			// Wherever the process runs, the files mean the same.
			elsewhere := runComposeArchive(t, archive, dir)
			t.Chdir(dir)
			got := runComposeArchive(t, archive, dir)
			if !strings.Contains(string(archive.Comment), "# Only in its directory") {
				require.Equal(t, got, elsewhere)
			}

			const golden = "want"
			for i, f := range archive.Files {
				if f.Name != golden {
					continue
				}
				if *updateCompose {
					archive.Files[i].Data = []byte(got)
					require.NoError(t, os.WriteFile(name, txtar.Format(archive), 0o644))
					return
				}
				require.Equal(t, string(f.Data), got)
				return
			}
			require.True(t, *updateCompose, "no golden")
			archive.Files = append(archive.Files, txtar.File{Name: golden, Data: []byte(got)})
			require.NoError(t, os.WriteFile(name, txtar.Format(archive), 0o644))
		})
	}
}

// writeArchive writes the files of an archive to a directory of its own.
func writeArchive(t *testing.T, archive *txtar.Archive) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range archive.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, f.Data, 0o644))
	}
	return dir
}

func runComposeArchive(t *testing.T, archive *txtar.Archive, dir string) string {
	t.Helper()
	opt := composeOptions{At: &place{}, Dir: dir, Env: map[string]string{}, Vars: map[string]string{}}
	data := map[string][]byte{}
	for _, f := range archive.Files {
		data[f.Name] = f.Data
	}
	names := []string{"compose.yaml"}
	for line := range strings.Lines(string(archive.Comment)) {
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		switch words[0] {
		case "files":
			names = words[1:]
		case "profiles":
			opt.Profiles = words[1:]
		case "env", "var":
			name, value, _ := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, words[0])), "=")
			if words[0] == "env" {
				opt.Env[name] = value
			} else {
				opt.Vars[name] = value
			}
		default:
			t.Fatalf("unknown option %q", line)
		}
	}

	var out strings.Builder
	opt.Warn = func(message string) { fmt.Fprintf(&out, "warning: %s\n", message) }
	var files []sourceFile
	for _, name := range names {
		require.Contains(t, data, name)
		f := sourceFile{Name: name, Data: data[name]}
		if ok, err := looksLikeCompose(context.Background(), f, opt); err != nil {
			require.True(t, ok)
			return out.String() + "error: " + err.Error() + "\n"
		}
		files = append(files, f)
	}
	defs, groups, err := parseCompose(context.Background(), files, opt)
	if err != nil {
		return out.String() + "error: " + err.Error() + "\n"
	}
	for _, g := range groups {
		fmt.Fprintf(&out, "group %s = %s @ %s\n", g.Name, strings.Join(g.Targets, " "), g.Range)
	}
	for _, d := range defs {
		writeDefinition(&out, d)
	}
	return out.String()
}

// writeDefinition writes what a definition sets, an attribute a line, each with
// its place.
func writeDefinition(out *strings.Builder, d *definition) {
	line := func(attribute string, value any) {
		dt, err := json.Marshal(value)
		if err != nil {
			dt = []byte(err.Error())
		}
		if s := string(dt); s != "null" && s != "{}" && s != "[]" {
			fmt.Fprintf(out, "  %s = %s @ %s\n", attribute, s, d.origins[attribute])
		}
	}
	entries := func(attribute string, m map[string]*string) {
		for _, k := range ir.SortedKeys(m) {
			line(attribute+"."+k, m[k])
		}
	}
	fmt.Fprintf(out, "target %s @ %s\n", d.name, d.origins[""])
	line("attest", d.attest)
	line("context", d.context)
	for _, k := range ir.SortedKeys(d.contexts) {
		line("contexts."+k, d.contexts[k])
	}
	line("dockerfile", d.dockerfile)
	line("dockerfile-inline", d.dockerfileInline)
	entries("args", d.args)
	entries("labels", d.labels)
	line("tags", d.tags)
	line("cache-from", d.cacheFrom)
	line("cache-to", d.cacheTo)
	line("target", d.stage)
	line("secret", d.secrets)
	line("ssh", d.ssh)
	line("platforms", d.platforms)
	line("output", d.outputs)
	line("pull", d.pull)
	line("no-cache", d.noCache)
	line("network", d.network)
	line("no-cache-filter", d.noCacheFilter)
	line("shm-size", d.shmSize)
	line("ulimits", d.ulimits)
	entries("extra-hosts", d.extraHosts)
}

func TestLooksLikeCompose(t *testing.T) {
	const compose = "services:\n  app:\n    build: ${DIR:?}\n"
	for _, tc := range []struct {
		name, data string
		want       bool
		err        string
	}{
		{name: "compose.yaml", data: compose, want: true},
		{name: "COMPOSE.YML", data: compose, want: true},
		{name: "compose.yml", data: "a = 1", want: true, err: "top-level object must be a mapping"},
		{name: "bake.json", data: compose},
		{name: "bake.HCL", data: compose},
		{name: "-", data: compose, want: true},
		{name: "-", data: `target "a" {}`, err: "top-level object must be a mapping"},
		{name: "bakefile", data: "", err: "empty compose file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opt := composeOptions{At: &place{}, Dir: t.TempDir(), Env: map[string]string{"DIR": "."}}
			got, err := looksLikeCompose(context.Background(), sourceFile{Name: tc.name, Data: []byte(tc.data)}, opt)
			require.Equal(t, tc.want, got)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// TestBrokenDotEnv: a .env that cannot be read takes the file out of the compose
// family, whatever its name.
func TestBrokenDotEnv(t *testing.T) {
	opt := composeOptions{At: &place{}, Dir: t.TempDir()}
	require.NoError(t, os.WriteFile(filepath.Join(opt.Dir, ".env"), []byte("A='b\n"), 0o644))
	f := sourceFile{Name: "compose.yaml", Data: []byte("services: {app: {build: .}}")}
	ok, err := looksLikeCompose(context.Background(), f, opt)
	require.False(t, ok)
	require.ErrorContains(t, err, "unterminated quoted value")
	_, _, err = parseCompose(context.Background(), []sourceFile{f}, opt)
	require.ErrorContains(t, err, "unterminated quoted value")
}

// TestComposeBase: the paths of targets are relative to the first file.
func TestComposeBase(t *testing.T) {
	data := []byte("services:\n  app:\n    build:\n      context: ctx\n      additional_contexts: {a: b}\n  inline:\n    build: {dockerfile_inline: FROM scratch}\n")
	for name, want := range map[string]string{"dir/sub/compose.yaml": "dir/sub", "compose.yaml": "."} {
		defs, _, err := parseCompose(context.Background(), []sourceFile{{Name: name, Data: data}, {Name: "other/compose.yaml", Data: data}}, composeOptions{At: &place{}, Dir: t.TempDir()})
		require.NoError(t, err)
		require.Len(t, defs, 2)
		for _, d := range defs {
			require.Equal(t, want, *d.base.file)
			require.Equal(t, want, *d.base.context, "compose has a default context of its own")
		}
		require.Equal(t, map[string]string{"a": want}, defs[0].base.contexts)
	}
	defs, _, err := parseCompose(context.Background(), []sourceFile{{Name: "-", Data: data}}, composeOptions{At: &place{}, Dir: t.TempDir()})
	require.NoError(t, err)
	require.Equal(t, pathBase{}, defs[0].base)
}

// TestFirstEnvFile: of several services whose env_file is missing, the first by
// name is reported, every time.
func TestFirstEnvFile(t *testing.T) {
	var b strings.Builder
	b.WriteString("services:\n")
	for _, name := range []string{"h", "g", "f", "e", "d", "c", "b", "a"} {
		fmt.Fprintf(&b, "  %[1]s:\n    build: .\n    env_file: %[1]s.env\n", name)
	}
	file := sourceFile{Name: "compose.yaml", Data: []byte(b.String())}
	for range 20 {
		_, _, err := parseCompose(context.Background(), []sourceFile{file}, composeOptions{At: &place{}, Dir: t.TempDir()})
		require.ErrorContains(t, err, "env file a.env not found")
	}
}

func FuzzCompose(f *testing.F) {
	archives, err := filepath.Glob("testdata/compose/*.txtar")
	require.NoError(f, err)
	for _, name := range archives {
		archive, err := txtar.ParseFile(name)
		require.NoError(f, err)
		for _, file := range archive.Files {
			if strings.HasSuffix(file.Name, ".yaml") {
				f.Add(file.Data)
			}
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		opt := composeOptions{At: &place{}, Dir: dir, Env: map[string]string{"A": "1"}}
		file := sourceFile{Name: "compose.yaml", Data: data}
		defs, groups, err := parseCompose(context.Background(), []sourceFile{file}, opt)
		if err != nil {
			return
		}
		_, err = looksLikeCompose(context.Background(), file, opt)
		require.NoError(t, err, "parse takes a file that can be read for valid")
		again, _, err := parseCompose(context.Background(), []sourceFile{file}, opt)
		require.NoError(t, err)
		require.Equal(t, defs, again, "the same file, another meaning")
		if len(defs) > 0 {
			require.Len(t, groups, 1)
			require.Len(t, groups[0].Targets, len(defs))
		}
	})
}
