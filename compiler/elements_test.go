package compiler

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/stretchr/testify/require"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/dbake/dbake/compiler/ir"
)

// elementCase is an element as a string and, as JSON, what it means.
type elementCase struct {
	in   string
	want string
	err  string
}

func testElements[T any](t *testing.T, parse func(string) (T, error), cases []elementCase) {
	t.Helper()
	for _, tc := range cases {
		t.Run(tc.in, func(t *testing.T) {
			got, err := parse(tc.in)
			if tc.err != "" {
				require.EqualError(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, asJSON(t, got))
		})
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	dt, err := json.Marshal(v)
	require.NoError(t, err)
	return string(dt)
}

func TestParseCacheEntry(t *testing.T) {
	testElements(t, parseCacheEntry, []elementCase{
		{in: "user/app:cache", want: `[{"Type":"registry","Attrs":{"ref":"user/app:cache"}}]`},
		{in: "a/b,c/d", want: `[{"Type":"registry","Attrs":{"ref":"a/b"}},{"Type":"registry","Attrs":{"ref":"c/d"}}]`},
		{in: "Type=local,SRC=Cache Dir", want: `[{"Type":"local","Attrs":{"src":"Cache Dir"}}]`},
		{in: "type=registry,ref=a=b", want: `[{"Type":"registry","Attrs":{"ref":"a=b"}}]`},
		{in: `type=gha,"scope=a,b"`, want: `[{"Type":"gha","Attrs":{"scope":"a,b"}}]`},
		{in: "type=inline", want: `[{"Type":"inline","Attrs":{}}]`},
		{in: "ref=a/b", err: `type required for "ref=a/b"`},
		{in: "type=local,dest", err: "invalid value dest"},
		{in: `"a,b"`, err: "invalid value a"},
		{in: `type=local,"src`, err: `split "type=local,\"src" into fields: parse error on line 1, column 13: extraneous or missing " in quoted-field`},
	})
	got, err := parseCacheEntries([]string{"", "a,b", "type=inline"})
	require.NoError(t, err)
	require.Len(t, got, 3)
	got, err = parseCacheEntries(nil)
	require.NoError(t, err)
	require.Nil(t, got)
	got, err = parseCacheEntries([]string{""})
	require.NoError(t, err)
	require.NotNil(t, got, "a list of nothing is not an unset list")
	_, err = parseCacheEntries([]string{"x="})
	require.Error(t, err)
}

func TestParseOutput(t *testing.T) {
	testElements(t, parseOutput, []elementCase{
		{in: "./out", want: `{"Type":"local","Dest":"./out","Attrs":{}}`},
		{in: "-", want: `{"Type":"tar","Dest":"-","Attrs":{}}`},
		{in: "dest=out", want: `{"Type":"local","Dest":"dest=out","Attrs":{}}`},
		{in: "type=docker", want: `{"Type":"docker","Dest":"","Attrs":{}}`},
		{in: " TYPE =oci, DEST=a.tar,Name=x", want: `{"Type":"oci","Dest":"a.tar","Attrs":{"name":"x"}}`},
		{in: `type=image,"name=a,b",push=true`, want: `{"Type":"image","Dest":"","Attrs":{"name":"a,b","push":"true"}}`},
		{in: "name=x,push=true", err: "type is required for output"},
		{in: "type=", err: "type is required for output"},
		{in: "type=image,push", err: "invalid value push"},
		{in: `"a,b"`, err: "invalid value a,b"},
	})
}

func TestParseAttest(t *testing.T) {
	testElements(t, parseAttest, []elementCase{
		{in: "type=provenance,mode=max", want: `{"Type":"provenance","Disabled":false,"Attrs":{"mode":"max"}}`},
		{in: "type=sbom,disabled=1", want: `{"Type":"sbom","Disabled":true,"Attrs":{}}`},
		{in: " Type=sbom,DISABLED=false,Generator=X", want: `{"Type":"sbom","Disabled":false,"Attrs":{"Generator":"X"}}`},
		{in: "mode=max", err: "attestation type not specified"},
		{in: "type=sbom,disabled=maybe", err: `invalid value disabled=maybe: strconv.ParseBool: parsing "maybe": invalid syntax`},
		{in: "sbom", err: "invalid value sbom"},
	})
}

func TestAttestShorthand(t *testing.T) {
	for value, want := range map[string]string{
		"":                 "",
		"true":             "type=sbom,disabled=false",
		"0":                "type=sbom,disabled=true",
		"generator=a/scan": "type=sbom,generator=a/scan",
	} {
		require.Equal(t, want, attestShorthand("sbom", value))
	}
}

func TestParseSecret(t *testing.T) {
	testElements(t, parseSecret, []elementCase{
		{in: "id=a", want: `{"ID":"a","Src":"","Env":""}`},
		{in: "id=a,src=f,env=E", want: `{"ID":"a","Src":"f","Env":"E"}`},
		{in: "ID=a,Source=f", want: `{"ID":"a","Src":"f","Env":""}`},
		{in: "type=env,id=a,src=E", want: `{"ID":"a","Src":"","Env":"E"}`},
		{in: "id=a,src=f,env=E,type=env", want: `{"ID":"a","Src":"f","Env":"E"}`},
		{in: "type=file,id=a,src=f", want: `{"ID":"a","Src":"f","Env":""}`},
		{in: "type=vault,id=a", err: `unsupported secret type "vault"`},
		{in: "id=a,Uid=0", err: "unexpected key 'uid' in 'Uid=0'"},
		{in: "a", err: "invalid field 'a' must be a key=value pair"},
	})
}

func TestParseSSH(t *testing.T) {
	testElements(t, parseSSH, []elementCase{
		{in: "default", want: `{"ID":"default","Paths":null}`},
		{in: "git=a,b", want: `{"ID":"git","Paths":["a","b"]}`},
		{in: "git=", want: `{"ID":"git","Paths":[""]}`},
		{in: "git=a=b", want: `{"ID":"git","Paths":["a=b"]}`},
	})
	require.Negative(t, compareSSH(ir.SSH{ID: "a"}, ir.SSH{ID: "b"}))
	require.Negative(t, compareSSH(ir.SSH{ID: "a", Paths: []string{"x"}}, ir.SSH{ID: "a", Paths: []string{"x", "y"}}))
	require.Positive(t, compareSSH(ir.SSH{ID: "a", Paths: []string{"y"}}, ir.SSH{ID: "a", Paths: []string{"x", "y"}}))
}

func TestParsePolicy(t *testing.T) {
	testElements(t, parsePolicy, []elementCase{
		{in: "filename=a.rego,Reset=true", want: `{"Filename":"a.rego","Reset":true,"Disabled":false,"Strict":null,"LogLevel":null}`},
		{in: "disabled=true,strict=0,log-level=WARN", want: `{"Filename":"","Reset":false,"Disabled":true,"Strict":false,"LogLevel":"warning"}`},
		{in: "filename=", err: "invalid value filename="},
		{in: "strict=x", err: `invalid value strict=x: strconv.ParseBool: parsing "x": invalid syntax`},
		{in: "log-level=loud", err: `invalid value log-level=loud: not a valid logrus Level: "loud"`},
		{in: "color=blue", err: "invalid value color=blue"},
		{in: "", err: `split "" into fields: EOF`},
	})
}

// TestDecodeElements decodes HCL expressions, one attribute each, and shows the
// result as a reference to the attribute would.
func TestDecodeElements(t *testing.T) {
	decode := map[string]func(cty.Value) (cty.Value, error){
		"cache":  roundTrip(decodeCacheEntries, cacheEntriesValue),
		"output": roundTrip(decodeOutputs, outputsValue),
		"attest": roundTrip(decodeAttests, attestsValue),
		"secret": roundTrip(decodeSecrets, secretsValue),
		"ssh":    roundTrip(decodeSSHs, sshsValue),
		"policy": roundTrip(decodePolicies, policiesValue),
	}
	for _, tc := range []struct{ attribute, source, want, err string }{
		{attribute: "cache", source: `["a,b", "", null, {type = "local", src = "x", n = 1}]`,
			want: `[{"ref":"a","type":"registry"},{"ref":"b","type":"registry"},{"n":"1","src":"x","type":"local"}]`},
		{attribute: "cache", source: `[]`, want: `[]`},
		{attribute: "cache", source: `[{ref = "a", n = 1}]`, err: `type required for "{\"n\":1,\"ref\":\"a\"}"`},
		{attribute: "cache", source: `"a"`, err: "list of map of string required"},
		{attribute: "cache", source: `{type = "local"}`, err: "list of map of string required"},
		{attribute: "cache", source: `[["a"]]`, err: "map of string required"},
		{attribute: "output", source: `["out", "type=docker", {type = "oci", dest = "x.tar", tar = true}]`,
			want: `[{"dest":"out","type":"local"},{"dest":"","type":"docker"},{"dest":"x.tar","tar":"true","type":"oci"}]`},
		{attribute: "output", source: `[{type = null, dest = "x"}]`, err: "type is required for output"},
		{attribute: "attest", source: `["type=sbom", {type = "provenance", disabled = true}, {mode = "max"}]`,
			want: `[{"type":"sbom"},{"disabled":"true","type":"provenance"},{"mode":"max","type":""}]`},
		{attribute: "attest", source: `[{type = "sbom", disabled = "x"}]`, err: `invalid value for disabled: strconv.ParseBool: parsing "x": invalid syntax`},
		{attribute: "secret", source: `["id=a,src=f", {id = "b", env = "E", type = "env"}, {}]`,
			want: `[{"env":"","id":"a","src":"f"},{"env":"E","id":"b","src":""},{"env":"","id":"","src":""}]`},
		{attribute: "ssh", source: `["default", {id = "k", paths = ["a", "b"]}, {id = "n", paths = null}]`,
			want: `[{"id":"default","paths":[]},{"id":"k","paths":["a","b"]},{"id":"n","paths":[]}]`},
		{attribute: "policy", source: `["filename=a", {filename = "b", strict = false, log-level = "debug", reset = ""}, {disabled = true, reset = "true"}]`,
			want: `[{"filename":"a"},{"filename":"b","log-level":"debug","strict":"false"},{"disabled":"true","reset":"true"}]`},
		{attribute: "policy", source: `[{strict = 1}]`, want: `[{"strict":"true"}]`},
		{attribute: "policy", source: `[{strict = []}]`, err: "string required, but have tuple"},
		{attribute: "policy", source: `[1]`, err: "map of string required, but have number"},
	} {
		t.Run(fmt.Sprintf("%s = %s", tc.attribute, tc.source), func(t *testing.T) {
			expr, diags := hclsyntax.ParseExpression([]byte(tc.source), "test.hcl", hcl.InitialPos)
			require.False(t, diags.HasErrors(), diags.Error())
			v, diags := expr.Value(nil)
			require.False(t, diags.HasErrors(), diags.Error())
			got, err := decode[tc.attribute](v)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			dt, err := ctyjson.Marshal(got, got.Type())
			require.NoError(t, err)
			require.Equal(t, tc.want, string(dt))
		})
	}
}

func roundTrip[T any](decode func(cty.Value) ([]T, error), encode func([]T) cty.Value) func(cty.Value) (cty.Value, error) {
	return func(v cty.Value) (cty.Value, error) {
		list, err := decode(v)
		if err != nil {
			return cty.NilVal, err
		}
		return encode(list), nil
	}
}

func TestElementsFromMap(t *testing.T) {
	c, err := cacheEntryFromMap(map[string]string{"type": "local", "src": "x"})
	require.NoError(t, err)
	require.Equal(t, ir.CacheEntry{Type: "local", Attrs: map[string]string{"src": "x"}}, c)
	_, err = cacheEntryFromMap(map[string]string{"src": "x"})
	require.EqualError(t, err, `type required for "{\"src\":\"x\"}"`)
}

func FuzzElements(f *testing.F) {
	for _, s := range []string{"", "-", "a,b", "type=local,src=x", `type=gha,"scope=a,b"`, "id=a,env=B", "default=a,b", "filename=a,strict=true", "type=sbom,disabled=true", `"`, "=", ",,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if entries, err := parseCacheEntry(s); err == nil {
			for _, e := range entries {
				require.NotEmpty(t, e.Type)
			}
		}
		if o, err := parseOutput(s); err == nil {
			require.NotEmpty(t, o.Type)
		}
		if a, err := parseAttest(s); err == nil {
			require.NotEmpty(t, a.Type)
		}
		_, _ = parseSecret(s)
		_, _ = parseSSH(s)
		_, _ = parsePolicy(s)
	})
}
