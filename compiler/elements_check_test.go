package compiler

import (
	"crypto/ed25519"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/dbake/dbake/compiler/ir"
)

func TestValidateTarget(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	write("file", []byte("x"))
	write("big", make([]byte, maxSecretSize+1))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	require.NoError(t, err)
	write("key", pem.EncodeToMemory(block))
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte("secret"))
	require.NoError(t, err)
	write("locked", pem.EncodeToMemory(locked))
	listener, err := net.Listen("unix", filepath.Join(dir, "sock"))
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })

	text := func(s string) *string { return &s }
	secret := func(id, src, env string) ir.Target {
		return ir.Target{Secrets: []ir.Secret{{ID: id, Src: src, Env: env}}}
	}
	agent := func(paths ...string) ir.Target { return ir.Target{SSH: []ir.SSH{{ID: "k", Paths: paths}}} }
	out := func(outputs ...string) ir.Target {
		list, err := parseOutputs(outputs)
		require.NoError(t, err)
		return ir.Target{Outputs: list}
	}
	const agentPrefix = "failed to convert agent config {k [%] false}: failed to convert agent config for ID: \"k\": "

	for name, tc := range map[string]struct {
		target ir.Target
		opt    checkOptions
		env    map[string]string
		err    string // a "%" stands for the paths
	}{
		"nothing": {},

		"shm-size":     {target: ir.Target{ShmSize: text("64m")}},
		"shm-size bad": {target: ir.Target{ShmSize: text("much")}, err: "invalid value much for membytes key shm-size"},

		"platforms":     {target: ir.Target{Platforms: []string{"linux/amd64,Local", "windows(10.0.17763)/amd64"}}},
		"platforms bad": {target: ir.Target{Platforms: []string{"linux/amd64,a/b/c/d"}}, err: `"a/b/c/d": cannot parse platform specifier: invalid argument`},

		"secret file":         {target: secret("a", "file", "")},
		"secret missing":      {target: secret("a", "none", ""), err: "failed to stat none: stat none: no such file or directory"},
		"secret env":          {target: secret("a", "", "NOT_SET")},
		"secret by id":        {target: secret("file", "", "")},
		"secret id in env":    {target: secret("A", "", ""), env: map[string]string{"A": ""}},
		"secret id nowhere":   {target: secret("A", "", ""), err: `failed to stat A: stat A: no such file or directory; secret "A" names no source, and there is neither an environment variable nor a file of that name: set one, or add env= or src=`},
		"secret without id":   {target: secret("", "file", ""), err: "secret missing ID"},
		"secret big":          {target: secret("a", "big", ""), err: "secret a too big. max size 500KiB"},
		"secret both":         {target: secret("a", "none", "E"), err: "failed to stat none: stat none: no such file or directory"},
		"secret directory":    {target: secret("a", "dir", ""), err: "secret a: dir is a directory, not a file"},
		"secret below a file": {target: secret("a", "file/x", ""), err: "failed to stat file/x: stat file/x: not a directory"},

		"ssh agent":         {target: agent(), env: map[string]string{"SSH_AUTH_SOCK": "sock"}},
		"ssh empty path":    {target: agent(""), env: map[string]string{"SSH_AUTH_SOCK": "sock"}},
		"ssh no agent":      {target: agent(), err: "failed to convert agent config {k [] false}: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"},
		"ssh key":           {target: agent("key", "key")},
		"ssh socket":        {target: agent("sock")},
		"ssh missing":       {target: agent("none"), err: strings.Replace(agentPrefix, "%", "none", 1) + "stat none: no such file or directory"},
		"ssh no key":        {target: agent("file"), err: strings.Replace(agentPrefix, "%", "file", 1) + "failed to parse file: ssh: no key found"},
		"ssh locked":        {target: agent("locked"), err: strings.Replace(agentPrefix, "%", "locked", 1) + "failed to parse locked: ssh: this private key is passphrase protected"},
		"ssh two sockets":   {target: agent("sock", "key"), err: strings.Replace(agentPrefix, "%", "sock key", 1) + "only single socket allowed"},
		"ssh mixed":         {target: agent("key", "sock"), err: strings.Replace(agentPrefix, "%", "key sock", 1) + "invalid combination of keys and sockets"},
		"ssh twice":         {target: ir.Target{SSH: []ir.SSH{{ID: "default", Paths: []string{"key"}}, {Paths: []string{"key"}}}}, err: `duplicate agent ID "default"`},
		"ssh of a context":  {target: ir.Target{Context: ir.ParseContext("git@example.com:a/b.git", nil)}, err: "failed to convert agent config {default [] false}: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"},
		"ssh given for one": {target: ir.Target{Context: ir.ParseContext("ssh://git@example.com/a/b.git", nil), SSH: []ir.SSH{{ID: "k", Paths: []string{"key"}}}}},
		"ssh of definition": {target: agent("key"), opt: checkOptions{URL: "git@example.com:a/b.git"}, err: "failed to convert agent config {default [] false}: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"},

		"output local":            {target: out("dir", "type=local,dest=new")},
		"output local no dest":    {target: out("type=local"), err: "dest is required for local exporter"},
		"output local stdout":     {target: out("type=local,dest=-"), err: "dest cannot be stdout for local exporter"},
		"output local file":       {target: out("file"), err: "destination directory file is a file"},
		"output local below file": {target: out("file/x"), err: "invalid destination directory: file/x: stat file/x: not a directory"},
		"output tar":              {target: out("type=tar,dest=file", "type=tar,dest=new/a.tar", "-")},
		"output tar directory":    {target: out("type=tar,dest=dir"), err: "destination file dir is a directory"},
		"output tar below file":   {target: out("type=tar,dest=file/x"), err: "invalid destination file: file/x: stat file/x: not a directory"},
		"output two stdout":       {target: out("type=tar", "type=oci"), err: "multiple outputs configured to write to stdout"},
		"output terminal":         {target: out("type=oci"), opt: checkOptions{Terminal: true}, err: "dest file is required for oci exporter. refusing to write to console"},
		"output docker":           {target: out("type=docker", "type=docker"), opt: checkOptions{Terminal: true}},
		"output docker layout":    {target: out("type=docker,tar=false"), err: "dest is required for docker exporter"},
		"output oci layout":       {target: out("type=oci,tar=false,dest=dir")},
		"output others":           {target: out("type=image", "type=registry", "type=cacheonly")},

		"annotations":              {target: ir.Target{Annotations: []string{"", "a=b", "index,manifest[linux/amd64]:a=b:c"}}},
		"annotations no value":     {target: ir.Target{Annotations: []string{"a"}}, err: `invalid annotation "a", expected key=value`},
		"annotations bad type":     {target: ir.Target{Annotations: []string{"Index:a=b"}}, err: `invalid annotation type "Index", expected type and optional platform in square brackets`},
		"annotations unknown type": {target: ir.Target{Annotations: []string{"image:a=b"}}, err: `unknown annotation type "image"`},
		"annotations bad platform": {target: ir.Target{Annotations: []string{"index[a/b/c/d]:a=b"}}, err: `invalid platform "a/b/c/d": "a/b/c/d": cannot parse platform specifier: invalid argument`},

		"source policy":         {env: map[string]string{"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": "file"}},
		"source policy missing": {env: map[string]string{"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": "none"}, err: "failed to read policy file: open none: no such file or directory"},

		"ulimits":     {target: ir.Target{Ulimits: []string{"nofile=1024", "nproc=1:2"}}},
		"ulimits bad": {target: ir.Target{Ulimits: []string{"files=1"}}, err: "invalid ulimit type: files"},

		"resources":             {target: ir.Target{Resources: &ir.Resources{Memory: text(" 1g "), MemorySwap: text("-1")}}},
		"resources memory":      {target: ir.Target{Resources: &ir.Resources{Memory: text("-1")}}, err: `invalid value "-1" for resource memory: invalid size: '-1'`},
		"resources memory-swap": {target: ir.Target{Resources: &ir.Resources{MemorySwap: text("x")}}, err: `invalid value "x" for resource memory-swap: invalid size: 'x'`},
	} {
		t.Run(name, func(t *testing.T) {
			tc.opt.Dir = dir
			tc.opt.Lookup = func(name string) (string, bool) { v, ok := tc.env[name]; return v, ok }
			err := validateTarget(&tc.target, tc.opt)
			if tc.err == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tc.err)
		})
	}
}

// TestValidateTargetPlace: a problem carries the range of its attribute.
func TestValidateTargetPlace(t *testing.T) {
	place := ir.Range{Filename: "a.hcl", Start: ir.Pos{Line: 3, Column: 1}, End: ir.Pos{Line: 3, Column: 9}}
	target := &ir.Target{Ulimits: []string{"x"}, Origins: map[string]ir.Range{"ulimits": place}}
	err := validateTarget(target, checkOptions{})
	var source *ir.SourceError
	require.ErrorAs(t, err, &source)
	require.Equal(t, place, source.Range)
}

// TestDeferFaults: what is missing here is left to a target that is built; what is wrong
// in the definition is not, nor what is missing for a question.
func TestDeferFaults(t *testing.T) {
	missing := ir.Secret{ID: "a", Src: "none"}
	opt := checkOptions{Dir: t.TempDir(), Defer: true}
	for name, target := range map[string]*ir.Target{
		"secret": {Secrets: []ir.Secret{missing}},
		"both":   {Secrets: []ir.Secret{missing}, SSH: []ir.SSH{{ID: "k", Paths: []string{"nokey"}}}, Call: "build"},
	} {
		require.NoError(t, validateTarget(target, opt), name)
		require.EqualError(t, target.Fault, "failed to stat none: stat none: no such file or directory", name)
	}
	for name, target := range map[string]*ir.Target{
		"failed to stat none": {Secrets: []ir.Secret{missing}, Call: "check"},
		"invalid ulimit type": {Secrets: []ir.Secret{missing}, Ulimits: []string{"files=1"}},
	} {
		require.ErrorContains(t, validateTarget(target, opt), name)
	}
	plain := &ir.Target{}
	require.NoError(t, validateTarget(plain, opt))
	require.NoError(t, plain.Fault)
}

func TestArchiveDestination(t *testing.T) {
	list, err := parseOutputs([]string{"type=oci", "type=docker", "type=image"})
	require.NoError(t, err)
	target := &ir.Target{Outputs: list}
	require.NoError(t, validateTarget(target, checkOptions{}))
	require.Equal(t, []string{"-", "", ""}, []string{target.Outputs[0].Dest, target.Outputs[1].Dest, target.Outputs[2].Dest})
}
