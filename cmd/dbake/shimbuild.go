package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/spf13/pflag"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/internal/localfile"
)

// imageCall is a call of "docker buildx build": one target that flags describe whole.
type imageCall struct {
	command []string // of dbake, without the flags of the shim
	// dockerfile is standard input when that is the Dockerfile.
	dockerfile *string
	// idFile is the file for the ID of the image; quiet prints it.
	idFile string
	quiet  bool
}

// imageTarget is the name of the target: the one whose name messages leave out.
const imageTarget = "default"

// setFlags are the flags of "docker buildx build" that set the key of that name of a
// target.
var setFlags = []string{
	"annotation", "attest", "cache-from", "cache-to", "network", "no-cache-filter", "output", "platform",
	"secret", "shm-size", "ssh", "tag", "target", "ulimit",
}

// entryFlags are those that set an entry, with the key that it belongs to.
var entryFlags = map[string]string{
	"add-host": "extra-host", "build-arg": "arg", "build-context": "contexts", "label": "label", "resource": "resource",
}

// resourceFlags are the older names of --resource NAME=VALUE.
var resourceFlags = []string{"memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems"}

// imageFlags are the flags of "docker buildx build" that dbake knows.
type imageFlags struct {
	set   *pflag.FlagSet
	lists map[string]*[]string
	texts map[string]*string
	bools map[string]*bool
}

func newImageFlags() *imageFlags {
	f := &imageFlags{pflag.NewFlagSet("build", pflag.ContinueOnError), map[string]*[]string{}, map[string]*string{}, map[string]*bool{}}
	f.set.SetOutput(io.Discard)
	short := map[string]string{"output": "o", "tag": "t", "memory": "m", "cpu-shares": "c", "file": "f", "quiet": "q", "debug": "D"}
	for _, name := range slices.Concat(setFlags, ir.SortedKeys(entryFlags), resourceFlags, []string{"allow"}) {
		f.lists[name] = f.set.StringArrayP(name, short[name], nil, "")
	}
	for _, name := range []string{"builder", "file", "iidfile", "metadata-file", "progress", "provenance", "sbom"} {
		f.texts[name] = f.set.StringP(name, short[name], "", "")
	}
	// The last ones change nothing, there as here.
	for _, name := range []string{"debug", "load", "no-cache", "pull", "push", "quiet", "compress", "force-rm", "rm"} {
		f.bools[name] = f.set.BoolP(name, short[name], false, "")
	}
	return f
}

// errForeign reports that a call is for the real docker-buildx.
var errForeign = errors.New("only docker buildx does that")

// newImageCall reads the arguments of "docker buildx build". It returns errForeign for
// flags that dbake does not know, and for errors, which the real one reports best.
func newImageCall(args []string, env map[string]string) (*imageCall, error) {
	f := newImageFlags()
	if err := f.set.Parse(args); err != nil || f.set.NArg() != 1 || env["EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"] != "" {
		return nil, errForeign
	}
	c := &imageCall{command: []string{"build", "--file=-"}, idFile: *f.texts["iidfile"]}
	source := f.set.Arg(0)
	if source == "-" || isBakeOnly(source) {
		return nil, errForeign
	}
	c.set("context", source)
	if err := c.addDockerfile(*f.texts["file"], source); err != nil {
		return nil, err
	}
	if err := c.addKeys(f, env); err != nil {
		return nil, err
	}
	for _, name := range []string{"builder", "metadata-file", "provenance", "sbom"} {
		if value := *f.texts[name]; value != "" {
			c.command = append(c.command, "--"+name+"="+value)
		}
	}
	for _, name := range []string{"debug", "load", "no-cache", "pull", "push"} {
		if *f.bools[name] {
			c.command = append(c.command, "--"+name)
		}
	}
	return c, c.setProgress(*f.texts["progress"], *f.bools["quiet"])
}

// set adds a value of the target. An empty one would mean another thing to bake.
func (c *imageCall) set(key, value string) {
	c.command = append(c.command, "--set="+imageTarget+"."+key+"="+value)
}

// isBakeOnly reports whether a context has another meaning in a bake file than for "docker
// buildx build".
func isBakeOnly(source string) bool {
	return source == "" || strings.HasPrefix(source, "target:") || strings.HasPrefix(source, "cwd://")
}

// addDockerfile adds the Dockerfile, whose name a bake file would have relative to the
// context.
func (c *imageCall) addDockerfile(name, source string) error {
	info, err := os.Stat(source)
	local := err == nil && info.IsDir()
	switch {
	case name == "":
		return nil
	case name == "-":
		c.dockerfile = new(string) // read once it is known who reads it
		return nil
	case strings.HasPrefix(name, "http://"), strings.HasPrefix(name, "https://"), isBakeOnly(name):
		return errForeign
	case local || !ir.IsRemote(source):
		if name, err = filepath.Abs(name); err != nil {
			return errForeign
		}
	}
	c.set("dockerfile", name)
	return nil
}

// addKeys adds the keys that flags set.
func (c *imageCall) addKeys(f *imageFlags, env map[string]string) error {
	for _, flag := range setFlags {
		list := *f.lists[flag]
		if fallback := env["DOCKER_DEFAULT_PLATFORM"]; flag == "platform" && len(list) == 0 && fallback != "" {
			list = []string{fallback}
		}
		if flag == "platform" {
			list = strings.FieldsFunc(strings.Join(list, ","), func(r rune) bool { return r == ',' })
		}
		for _, value := range list {
			if value == "" {
				return errForeign
			}
			c.set(flag, value)
		}
	}
	for _, flag := range ir.SortedKeys(entryFlags) {
		entries, err := splitEntries(flag, *f.lists[flag], env)
		if err != nil {
			return err
		}
		for _, e := range entries {
			c.set(entryFlags[flag]+"."+e.name, e.value)
		}
	}
	for _, flag := range resourceFlags {
		for _, value := range *f.lists[flag] {
			c.set("resource."+flag, value)
		}
	}
	// Naming something on the command line of a build grants it.
	c.command = append(c.command, "--allow=fs=*", "--allow=ssh")
	for _, value := range *f.lists["allow"] {
		switch name, _, _ := strings.Cut(value, "="); name {
		case entitlement.NetworkHost, entitlement.SecurityInsecure, entitlement.Device:
			c.set("entitlement", value)
		}
		c.command = append(c.command, "--allow="+value)
	}
	if slices.Contains(*f.lists["network"], "host") {
		c.command = append(c.command, "--allow="+entitlement.NetworkHost)
	}
	return nil
}

type entry struct{ name, value string }

// splitEntries splits the values of a flag that sets entries. What two entries of one
// name mean, or a name that --set would read in another way, is left to docker buildx.
func splitEntries(flag string, values []string, env map[string]string) ([]entry, error) {
	if flag == "add-host" {
		values = strings.Split(strings.Join(values, ","), ",")
		values = slices.DeleteFunc(values, func(v string) bool { return v == "" })
	}
	var entries []entry
	for _, v := range values {
		name, value, ok := strings.Cut(v, "=")
		switch flag {
		case "add-host":
			if !ok {
				name, value, ok = strings.Cut(v, ":")
			}
			if !ok || slices.ContainsFunc(entries, func(e entry) bool { return e.name == name }) {
				return nil, errForeign
			}
		case "build-arg":
			if !ok {
				if value, ok = env[name]; !ok {
					continue
				}
			}
		case "build-context":
			ref, err := reference.ParseNormalizedNamed(name)
			if err != nil || !ok || value == "-" || isBakeOnly(value) {
				return nil, errForeign
			}
			name = strings.TrimSuffix(reference.FamiliarString(ref), ":latest")
		case "resource":
			if !ok {
				return nil, errForeign
			}
		}
		if name == "" || strings.HasSuffix(name, "+") {
			return nil, errForeign
		}
		entries = append(entries, entry{name, value})
	}
	return entries, nil
}

// setProgress chooses how progress is shown. To docker buildx, "quiet" means that the ID of
// the image is printed in the end, and "none" that nothing is.
func (c *imageCall) setProgress(mode string, quiet bool) error {
	if c.quiet = quiet || mode == "quiet"; c.quiet {
		if mode != "" && mode != "auto" && mode != "quiet" {
			return errForeign
		}
		mode = "quiet"
	}
	if mode == "none" {
		mode = "quiet"
	}
	if mode != "" {
		c.command = append(c.command, "--progress="+mode)
	}
	return nil
}

// maxDockerfile bounds what is read of a Dockerfile on standard input.
const maxDockerfile = 16 << 20

// readDockerfile reads the Dockerfile from standard input, if it is there.
func (c *imageCall) readDockerfile(stdin io.Reader) error {
	if c.dockerfile == nil {
		return nil
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxDockerfile+1))
	switch {
	case err != nil:
		return fmt.Errorf("read the Dockerfile from standard input: %w", err)
	case len(data) > maxDockerfile:
		return fmt.Errorf("the Dockerfile on standard input is larger than %d bytes", maxDockerfile)
	case len(strings.TrimSpace(string(data))) == 0:
		return errors.New("the Dockerfile on standard input is empty")
	}
	*c.dockerfile = string(data)
	return nil
}

// literal writes text so that a bake file does not take it for a template.
var literal = strings.NewReplacer("${", "$${", "%{", "%%{")

// definition returns the bake file of the target, to which --set adds all that flags say.
func (c *imageCall) definition() io.Reader {
	target := map[string]any{}
	if c.dockerfile != nil {
		target["dockerfile-inline"] = literal.Replace(*c.dockerfile)
	}
	data, _ := json.Marshal(map[string]any{"target": map[string]any{imageTarget: target}}) // text never fails
	return bytes.NewReader(data)
}

// flagOf returns the flag by which the caller knows a key of a target.
func (c *imageCall) flagOf(path string) string {
	key, name, named := strings.Cut(path, ".")
	switch key {
	case "context":
		return "the context"
	case "dockerfile":
		return "--file"
	case "entitlement":
		return "--allow"
	}
	for flag, set := range entryFlags {
		if set == key && named {
			return "--" + flag + " " + name
		}
	}
	return "--" + path
}

// begin removes the ID of an earlier image, so that nobody takes it for this image's.
func (c *imageCall) begin(a *app) error {
	if c == nil || c.idFile == "" {
		return nil
	}
	if err := os.Remove(a.path(c.idFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("--iidfile: %w", err)
	}
	return nil
}

// check refuses an output that has no ID where one is asked for.
func (c *imageCall) check(p *ir.Project) error {
	if c == nil || c.idFile == "" {
		return nil
	}
	for _, t := range p.Targets {
		for _, o := range t.Outputs {
			if o.Type == bkclient.ExporterLocal || o.Type == bkclient.ExporterTar {
				return errors.New("local and tar exporters are incompatible with image ID file")
			}
		}
	}
	return nil
}

// finish reports the ID of the image, and returns the metadata as docker buildx build
// writes it: that of the one target, by itself.
func (c *imageCall) finish(ctx context.Context, a *app, metadata map[string]any) (map[string]any, error) {
	flat := map[string]any{}
	for name, value := range metadata {
		if target, ok := value.(map[string]any); ok && name == imageTarget {
			maps.Copy(flat, target)
		} else {
			flat[name] = value
		}
	}
	id, _ := flat[exptypes.ExporterImageDigestKey].(string)
	if config, ok := flat[exptypes.ExporterImageConfigDigestKey].(string); ok {
		id = config
	}
	if c.quiet {
		if _, err := fmt.Fprintln(a.stdout, id); err != nil {
			return nil, err
		}
	}
	if c.idFile == "" {
		return flat, nil
	}
	if err := localfile.Write(ctx, a.path(c.idFile), []byte(id), nil); err != nil {
		return nil, fmt.Errorf("--iidfile: %w", err)
	}
	return flat, nil
}
