package compiler

import (
	"bytes"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/stretchr/testify/require"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
	"golang.org/x/crypto/bcrypt"
)

// testWorld answers the impure functions with constants.
var testWorld = functionWorld{
	Now:  func() time.Time { return time.Date(2026, 2, 3, 5, 5, 6, 0, time.FixedZone("east", 3600)) },
	Home: "/home/baker",
}

// evaluate returns the value of an HCL expression that may only call functions,
// as JSON.
func evaluate(t *testing.T, world functionWorld, source string) (string, error) {
	t.Helper()
	expr, diags := hclsyntax.ParseExpression([]byte(source), "test.hcl", hcl.InitialPos)
	require.False(t, diags.HasErrors(), diags.Error())
	v, diags := expr.Value(&hcl.EvalContext{Functions: world.functions()})
	if diags.HasErrors() {
		return "", diags
	}
	require.True(t, v.IsWhollyKnown())
	dt, err := ctyjson.Marshal(v, v.Type())
	require.NoError(t, err)
	return string(dt), nil
}

func TestBuiltinFunctionNames(t *testing.T) {
	require.Len(t, functionWorld{}.functions(), 106)
	require.Len(t, testWorld.functions(), 106)
}

// TestBuiltinFunctionBindings calls the functions whose names are easily bound to
// the wrong implementation.
func TestBuiltinFunctionBindings(t *testing.T) {
	for source, want := range map[string]string{
		`reverse("abc")`:                                 `"cba"`,
		`reverselist(["a", "b"])`:                        `["b","a"]`,
		`replace("a.b.c", ".", "-")`:                     `"a-b-c"`,
		`regex_replace("a1b2", "[0-9]", "-")`:            `"a-b-"`,
		`regex("[0-9]+", "ab12cd34")`:                    `"12"`,
		`regexall("[0-9]+", "ab12cd34")`:                 `["12","34"]`,
		`join("-", ["a", "b"])`:                          `"a-b"`,
		`split("-", "a-b")`:                              `["a","b"]`,
		`index(["a", "b"], 1)`:                           `"b"`,
		`hasindex(["a"], 1)`:                             `false`,
		`contains(["a"], "a")`:                           `true`,
		`sethaselement(["a"], "a")`:                      `true`,
		`int(1.9)`:                                       `1`,
		`modulo(7, 4)`:                                   `3`,
		`signum(-4)`:                                     `-1`,
		`log(8, 2)`:                                      `3`,
		`try(jsondecode("{"), "fallback")`:               `"fallback"`,
		`can(jsondecode("{"))`:                           `false`,
		`convert("3", number)`:                           `3`,
		`base64encode("dbake")`:                          `"ZGJha2U="`,
		`base64decode("ZGJha2U=")`:                       `"dbake"`,
		`urlencode("a b/c")`:                             `"a+b%2Fc"`,
		`md5("a")`:                                       `"0cc175b9c0f1b6a831c399e269772661"`,
		`sha1("a")`:                                      `"86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"`,
		`substr(sha256("a"), 0, 8)`:                      `"ca978112"`,
		`substr(sha512("a"), 0, 8)`:                      `"1f40fc92"`,
		`uuidv5("dns", "example.org")`:                   `"aad03681-8b63-5304-89e0-8ca8f49461b5"`,
		`cidrhost("10.0.0.0/8", 2)`:                      `"10.0.0.2"`,
		`cidrnetmask("10.0.0.0/8")`:                      `"255.0.0.0"`,
		`cidrsubnet("10.0.0.0/8", 8, 1)`:                 `"10.1.0.0/16"`,
		`cidrsubnets("10.0.0.0/8", 8, 8)`:                `["10.0.0.0/16","10.1.0.0/16"]`,
		`formatdate("YYYY", "2026-01-02T03:04:05Z")`:     `"2026"`,
		`timeadd("2026-01-02T03:04:05Z", "1h")`:          `"2026-01-02T04:04:05Z"`,
		`setsubtract(["a", "b"], ["b"])`:                 `["a"]`,
		`setsymmetricdifference(["a", "b"], ["b", "c"])`: `["a","c"]`,
		`coalesce(null, "b")`:                            `"b"`,
		`coalescelist([], ["b"])`:                        `["b"]`,
		`lookup({a = "1"}, "b", "2")`:                    `"2"`,
	} {
		t.Run(source, func(t *testing.T) {
			got, err := evaluate(t, testWorld, source)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
}

func TestOwnFunctions(t *testing.T) {
	for _, tc := range []struct {
		source string
		want   string
		err    string
	}{
		{source: `basename("")`, want: `"."`},
		{source: `basename("/")`, want: `"/"`},
		{source: `basename("/srv/app.tar.gz")`, want: `"app.tar.gz"`},
		{source: `basename("srv/app/")`, want: `"app"`},
		{source: `basename("a\\b")`, want: `"a\\b"`},
		{source: `basename(null)`, err: "argument must not be null"},

		{source: `dirname("")`, want: `"."`},
		{source: `dirname("/")`, want: `"/"`},
		{source: `dirname("/srv/app")`, want: `"/srv"`},
		{source: `dirname("srv/app/")`, want: `"srv/app"`},
		{source: `dirname("app")`, want: `"."`},

		{source: `sanitize("")`, want: `""`},
		{source: `sanitize("v1.2/linux arm")`, want: `"v1_2_linux_arm"`},
		{source: `sanitize("ok-_OK9")`, want: `"ok-_OK9"`},
		{source: `sanitize("grün")`, want: `"gr_n"`},
		{source: `sanitize(1.5)`, want: `"1_5"`},

		{source: `indexof(["a", "b", "b"], "b")`, want: `1`},
		{source: `indexof([1, "b", true], true)`, want: `2`},
		{source: `indexof(split(",", "x,y"), "x")`, want: `0`},
		{source: `indexof(["a"], "z")`, err: "item not found"},
		{source: `indexof([], "z")`, err: "cannot search an empty list"},
		{source: `indexof({a = 1}, 1)`, err: "argument must be a list or tuple"},

		{source: `semvercmp("v1.2.3", ">= 1.2")`, want: `true`},
		{source: `semvercmp("1.2.3", "< 1.2")`, want: `false`},
		{source: `semvercmp("1.2.3-rc1", ">= 1.2")`, want: `false`},
		{source: `semvercmp("1.2.3", "^1 || ^3")`, want: `true`},
		{source: `semvercmp("one", ">= 1")`, err: "nvalid semantic version"},
		{source: `semvercmp("1.0.0", "!!")`, err: "improper constraint"},

		{source: `formattimestamp("YYYY-MM-DD", "2026-01-02T03:04:05+01:00")`, want: `"2026-01-02"`},
		{source: `formattimestamp("X", "1970-01-01T01:00:01+01:00")`, want: `"1"`},
		{source: `formattimestamp("X", 1690328596)`, want: `"1690328596"`},
		{source: `formattimestamp("YYYY-MM-DD'T'hh:mm:ssZ", 1690328596)`, want: `"2023-07-25T23:43:16Z"`},
		{source: `formattimestamp("X", -1)`, want: `"-1"`},
		{source: `formattimestamp("X", "yesterday")`, err: "timestamp string must be RFC3339"},
		{source: `formattimestamp("YYYY", "yesterday")`, err: "not a valid RFC3339 timestamp"},
		{source: `formattimestamp("X", 1.5)`, err: "unix timestamp must be an integer"},
		{source: `formattimestamp("X", true)`, err: "must be a string timestamp or a unix timestamp number"},

		{source: `unixtimestampparse(1690328596)`, want: `{"day":25,"hour":23,"iso_week":30,"iso_year":2023,"minute":43,"month":7,"month_name":"July","rfc3339":"2023-07-25T23:43:16Z","second":16,"weekday":2,"weekday_name":"Tuesday","year":2023,"year_day":206}`},
		{source: `unixtimestampparse(-1).rfc3339`, want: `"1969-12-31T23:59:59Z"`},
		{source: `unixtimestampparse(1609459200).iso_year`, want: `2020`},
		{source: `unixtimestampparse("0").weekday_name`, want: `"Thursday"`},
		{source: `unixtimestampparse(0.5)`, err: "unix timestamp must be an integer"},
		{source: `unixtimestampparse(99999999999999999999)`, err: "unix timestamp must be an integer"},

		{source: `timestamp()`, want: `"2026-02-03T04:05:06Z"`},
		{source: `homedir()`, want: `"/home/baker"`},
	} {
		t.Run(tc.source, func(t *testing.T) {
			got, err := evaluate(t, testWorld, tc.source)
			if tc.err != "" {
				require.ErrorContains(t, err, tc.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestRandomFunctions(t *testing.T) {
	world := testWorld
	world.Random = bytes.NewReader(bytes.Repeat([]byte{0xff}, 16))
	got, err := evaluate(t, world, `uuidv4()`)
	require.NoError(t, err)
	require.Equal(t, `"ffffffff-ffff-4fff-bfff-ffffffffffff"`, got)
	_, err = evaluate(t, world, `uuidv4()`)
	require.ErrorContains(t, err, "EOF", "the source of randomness is used up")

	got, err = evaluate(t, functionWorld{}, `uuidv4()`)
	require.NoError(t, err)
	require.Regexp(t, `^"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"$`, got)

	hashed, err := functionWorld{}.functions()["bcrypt"].Call([]cty.Value{cty.StringVal("secret"), cty.NumberIntVal(4)})
	require.NoError(t, err)
	require.NoError(t, bcrypt.CompareHashAndPassword([]byte(hashed.AsString()), []byte("secret")))
}

// TestRealWorld checks that the zero world answers.
func TestRealWorld(t *testing.T) {
	got, err := evaluate(t, functionWorld{}, `timestamp()`)
	require.NoError(t, err)
	require.NotEqual(t, `""`, got)

	t.Setenv("HOME", "/home/real")
	got, err = evaluate(t, functionWorld{}, `homedir()`)
	require.NoError(t, err)
	require.Equal(t, `"/home/real"`, got)

	t.Setenv("HOME", "")
	got, err = evaluate(t, functionWorld{}, `homedir()`)
	require.NoError(t, err)
	require.NotEqual(t, `""`, got)
}
