package compiler

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/google/uuid"
	"github.com/hashicorp/go-cty-funcs/cidr"
	"github.com/hashicorp/go-cty-funcs/crypto"
	"github.com/hashicorp/go-cty-funcs/encoding"
	ctyuuid "github.com/hashicorp/go-cty-funcs/uuid"
	"github.com/hashicorp/hcl/v2/ext/tryfunc"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// functionWorld is what the impure built-in functions see of the world outside
// the bake file. The zero value is the real world; a caller that wants the same
// output for the same input fills it in.
//
// bcrypt is the one function that stays random whatever Random is: its
// implementation draws its own salt.
type functionWorld struct {
	Now    func() time.Time // for timestamp; nil is the system clock
	Random io.Reader        // for uuidv4; nil is the system's generator
	Home   string           // for homedir; "" is the current user's
}

// functions returns the functions every expression of a bake file may call, by
// name. The map is the caller's.
func (w functionWorld) functions() map[string]function.Function {
	functions := map[string]function.Function{}
	for _, some := range []map[string]function.Function{
		ofNumbers(), ofTruth(), ofStrings(), ofCollections(), w.ofBytes(), w.ofPlaces(), w.ofTime(),
	} {
		maps.Copy(functions, some)
	}
	for name, size := range resultSizes {
		functions[name] = boundFunction(functions[name], size)
	}
	return functions
}

// ofNumbers are arithmetic and comparisons.
func ofNumbers() map[string]function.Function {
	return map[string]function.Function{
		"absolute":             stdlib.AbsoluteFunc,
		"add":                  stdlib.AddFunc,
		"ceil":                 stdlib.CeilFunc,
		"divide":               stdlib.DivideFunc,
		"equal":                stdlib.EqualFunc,
		"floor":                stdlib.FloorFunc,
		"greaterthan":          stdlib.GreaterThanFunc,
		"greaterthanorequalto": stdlib.GreaterThanOrEqualToFunc,
		"int":                  stdlib.IntFunc,
		"lessthan":             stdlib.LessThanFunc,
		"lessthanorequalto":    stdlib.LessThanOrEqualToFunc,
		"log":                  stdlib.LogFunc,
		"max":                  stdlib.MaxFunc,
		"min":                  stdlib.MinFunc,
		"modulo":               stdlib.ModuloFunc,
		"multiply":             stdlib.MultiplyFunc,
		"negate":               stdlib.NegateFunc,
		"notequal":             stdlib.NotEqualFunc,
		"parseint":             stdlib.ParseIntFunc,
		"pow":                  stdlib.PowFunc,
		"signum":               stdlib.SignumFunc,
		"subtract":             stdlib.SubtractFunc,
	}
}

// ofTruth are truth values, and evaluation as a value.
func ofTruth() map[string]function.Function {
	return map[string]function.Function{
		"and":     stdlib.AndFunc,
		"can":     tryfunc.CanFunc,
		"convert": typeexpr.ConvertFunc,
		"not":     stdlib.NotFunc,
		"or":      stdlib.OrFunc,
		"try":     tryfunc.TryFunc,
	}
}

// ofStrings are about strings: "reverse", too, as lists have "reverselist".
func ofStrings() map[string]function.Function {
	return map[string]function.Function{
		"chomp":         stdlib.ChompFunc,
		"format":        stdlib.FormatFunc,
		"formatlist":    stdlib.FormatListFunc,
		"indent":        stdlib.IndentFunc,
		"join":          stdlib.JoinFunc,
		"lower":         stdlib.LowerFunc,
		"regex":         stdlib.RegexFunc,
		"regex_replace": stdlib.RegexReplaceFunc,
		"regexall":      stdlib.RegexAllFunc,
		"replace":       stdlib.ReplaceFunc,
		"reverse":       stdlib.ReverseFunc,
		"sanitize":      sanitizeFunc,
		"semvercmp":     semvercmpFunc,
		"split":         stdlib.SplitFunc,
		"strlen":        stdlib.StrlenFunc,
		"substr":        stdlib.SubstrFunc,
		"title":         stdlib.TitleFunc,
		"trim":          stdlib.TrimFunc,
		"trimprefix":    stdlib.TrimPrefixFunc,
		"trimspace":     stdlib.TrimSpaceFunc,
		"trimsuffix":    stdlib.TrimSuffixFunc,
		"upper":         stdlib.UpperFunc,
	}
}

// ofCollections are about lists, maps and sets.
func ofCollections() map[string]function.Function {
	return map[string]function.Function{
		"chunklist":              stdlib.ChunklistFunc,
		"coalesce":               stdlib.CoalesceFunc,
		"coalescelist":           stdlib.CoalesceListFunc,
		"compact":                stdlib.CompactFunc,
		"concat":                 stdlib.ConcatFunc,
		"contains":               stdlib.ContainsFunc,
		"distinct":               stdlib.DistinctFunc,
		"element":                stdlib.ElementFunc,
		"flatten":                stdlib.FlattenFunc,
		"hasindex":               stdlib.HasIndexFunc,
		"index":                  stdlib.IndexFunc,
		"indexof":                indexofFunc,
		"keys":                   stdlib.KeysFunc,
		"length":                 stdlib.LengthFunc,
		"lookup":                 stdlib.LookupFunc,
		"merge":                  stdlib.MergeFunc,
		"range":                  stdlib.RangeFunc,
		"reverselist":            stdlib.ReverseListFunc,
		"sethaselement":          stdlib.SetHasElementFunc,
		"setintersection":        stdlib.SetIntersectionFunc,
		"setproduct":             stdlib.SetProductFunc,
		"setsubtract":            stdlib.SetSubtractFunc,
		"setsymmetricdifference": stdlib.SetSymmetricDifferenceFunc,
		"setunion":               stdlib.SetUnionFunc,
		"slice":                  stdlib.SliceFunc,
		"sort":                   stdlib.SortFunc,
		"values":                 stdlib.ValuesFunc,
		"zipmap":                 stdlib.ZipmapFunc,
	}
}

// ofBytes are bytes, encodings and digests.
func (w functionWorld) ofBytes() map[string]function.Function {
	return map[string]function.Function{
		"base64decode": encoding.Base64DecodeFunc,
		"base64encode": encoding.Base64EncodeFunc,
		"bcrypt":       crypto.BcryptFunc,
		"byteslen":     stdlib.BytesLenFunc,
		"bytesslice":   stdlib.BytesSliceFunc,
		"csvdecode":    stdlib.CSVDecodeFunc,
		"jsondecode":   stdlib.JSONDecodeFunc,
		"jsonencode":   stdlib.JSONEncodeFunc,
		"md5":          crypto.Md5Func,
		"rsadecrypt":   crypto.RsaDecryptFunc,
		"sha1":         crypto.Sha1Func,
		"sha256":       crypto.Sha256Func,
		"sha512":       crypto.Sha512Func,
		"urlencode":    encoding.URLEncodeFunc,
		"uuidv4":       uuidv4Func(w.Random),
		"uuidv5":       ctyuuid.V5Func,
	}
}

// ofPlaces are addresses and paths.
func (w functionWorld) ofPlaces() map[string]function.Function {
	return map[string]function.Function{
		"basename":    basenameFunc,
		"cidrhost":    cidr.HostFunc,
		"cidrnetmask": cidr.NetmaskFunc,
		"cidrsubnet":  cidr.SubnetFunc,
		"cidrsubnets": cidr.SubnetsFunc,
		"dirname":     dirnameFunc,
		"homedir":     homedirFunc(w.Home),
	}
}

// ofTime are times.
func (w functionWorld) ofTime() map[string]function.Function {
	return map[string]function.Function{
		"formatdate":         stdlib.FormatDateFunc,
		"formattimestamp":    formattimestampFunc,
		"timeadd":            stdlib.TimeAddFunc,
		"timestamp":          timestampFunc(w.Now),
		"unixtimestampparse": unixtimestampparseFunc,
	}
}

// stringFunc makes a function from one string to another that cannot fail.
func stringFunc(description, param string, f func(string) string) function.Function {
	return function.New(&function.Spec{
		Description: description,
		Params:      []function.Parameter{{Name: param, Type: cty.String}},
		Type:        function.StaticReturnType(cty.String),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
			return cty.StringVal(f(args[0].AsString())), nil
		},
	})
}

// basename and dirname read slash-separated paths on every system: what they
// make ends in Dockerfiles and images.
var (
	basenameFunc = stringFunc("The last element of a path.", "path", path.Base)
	dirnameFunc  = stringFunc("A path without its last element.", "path", path.Dir)
	sanitizeFunc = stringFunc("The string with every character that a target name may not have replaced by an underscore.", "name", sanitizeName)
)

// sanitizeName returns s with an underscore for every rune outside
// [a-zA-Z0-9_-].
func sanitizeName(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '-':
			return r
		}
		return '_'
	}, s)
}

// indexofFunc finds a value in a list; unlike "index" it takes the value, not
// the key.
var indexofFunc = function.New(&function.Spec{
	Description: "The index of the first element of a list that equals a value; an error if there is none.",
	Params: []function.Parameter{
		{Name: "list", Type: cty.DynamicPseudoType},
		{Name: "value", Type: cty.DynamicPseudoType},
	},
	Type: function.StaticReturnType(cty.Number),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		list, wanted := args[0], args[1]
		if ty := list.Type(); !ty.IsListType() && !ty.IsTupleType() {
			return cty.NilVal, errors.New("argument must be a list or tuple")
		}
		if list.LengthInt() == 0 {
			return cty.NilVal, errors.New("cannot search an empty list")
		}
		for it := list.ElementIterator(); it.Next(); {
			i, v := it.Element()
			eq, err := stdlib.Equal(v, wanted)
			if err != nil {
				return cty.NilVal, err
			}
			if !eq.IsKnown() {
				return cty.UnknownVal(cty.Number), nil
			}
			if eq.True() {
				return i, nil
			}
		}
		return cty.NilVal, errors.New("item not found")
	},
})

var semvercmpFunc = function.New(&function.Spec{
	Description: "Whether a version satisfies a constraint.",
	Params: []function.Parameter{
		{Name: "version", Type: cty.String},
		{Name: "constraint", Type: cty.String},
	},
	Type: function.StaticReturnType(cty.Bool),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		version, err := semver.NewVersion(args[0].AsString())
		if err != nil {
			return cty.UnknownVal(cty.Bool), err
		}
		constraint, err := semver.NewConstraint(args[1].AsString())
		if err != nil {
			return cty.UnknownVal(cty.Bool), err
		}
		return cty.BoolVal(constraint.Check(version)), nil
	},
})

// unixSecondsFormat is the one format that formattimestamp knows and formatdate
// does not.
const unixSecondsFormat = "X"

var formattimestampFunc = function.New(&function.Spec{
	Description: `A time, given as RFC 3339 text or as Unix seconds, in the format of formatdate; the format "X" is Unix seconds.`,
	Params: []function.Parameter{
		{Name: "format", Type: cty.String},
		{Name: "time", Type: cty.DynamicPseudoType},
	},
	Type: function.StaticReturnType(cty.String),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		layout, at := args[0], args[1]
		switch at.Type() {
		case cty.Number:
			t, err := unixTime(at)
			if err != nil {
				return cty.DynamicVal, function.NewArgError(1, err)
			}
			at = cty.StringVal(t.Format(time.RFC3339))
		case cty.String:
		default:
			return cty.DynamicVal, function.NewArgErrorf(1, "must be a string timestamp or a unix timestamp number")
		}
		if layout.AsString() != unixSecondsFormat {
			return stdlib.FormatDate(layout, at)
		}
		t, err := time.Parse(time.RFC3339, at.AsString())
		if err != nil {
			return cty.DynamicVal, function.NewArgErrorf(1, "timestamp string must be RFC3339")
		}
		return cty.StringVal(strconv.FormatInt(t.Unix(), 10)), nil
	},
})

// unixTime reads a whole number of seconds since 1970 as a time in UTC.
func unixTime(v cty.Value) (time.Time, error) {
	seconds, accuracy := v.AsBigFloat().Int64()
	if accuracy != big.Exact {
		return time.Time{}, errors.New("unix timestamp must be an integer")
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// unixTimeType is the type of what unixtimestampparse returns.
var unixTimeType = cty.Object(map[string]cty.Type{
	"year":         cty.Number,
	"year_day":     cty.Number,
	"day":          cty.Number,
	"month":        cty.Number,
	"month_name":   cty.String,
	"weekday":      cty.Number,
	"weekday_name": cty.String,
	"hour":         cty.Number,
	"minute":       cty.Number,
	"second":       cty.Number,
	"rfc3339":      cty.String,
	"iso_year":     cty.Number,
	"iso_week":     cty.Number,
})

var unixtimestampparseFunc = function.New(&function.Spec{
	Description: "The parts of a time given as whole seconds since 1970 UTC.",
	Params:      []function.Parameter{{Name: "unix_timestamp", Type: cty.Number}},
	Type:        function.StaticReturnType(unixTimeType),
	Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		t, err := unixTime(args[0])
		if err != nil {
			return cty.DynamicVal, function.NewArgError(0, err)
		}
		number := func(n int) cty.Value { return cty.NumberIntVal(int64(n)) }
		isoYear, isoWeek := t.ISOWeek()
		return cty.ObjectVal(map[string]cty.Value{
			"year":         number(t.Year()),
			"year_day":     number(t.YearDay()),
			"day":          number(t.Day()),
			"month":        number(int(t.Month())),
			"month_name":   cty.StringVal(t.Month().String()),
			"weekday":      number(int(t.Weekday())),
			"weekday_name": cty.StringVal(t.Weekday().String()),
			"hour":         number(t.Hour()),
			"minute":       number(t.Minute()),
			"second":       number(t.Second()),
			"rfc3339":      cty.StringVal(t.Format(time.RFC3339)),
			"iso_year":     number(isoYear),
			"iso_week":     number(isoWeek),
		}), nil
	},
})

func timestampFunc(now func() time.Time) function.Function {
	if now == nil {
		now = time.Now
	}
	return function.New(&function.Spec{
		Description: "The current time in UTC as RFC 3339 text.",
		Type:        function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) {
			return cty.StringVal(now().UTC().Format(time.RFC3339)), nil
		},
	})
}

func uuidv4Func(random io.Reader) function.Function {
	if random == nil {
		random = rand.Reader
	}
	return function.New(&function.Spec{
		Description: "A random UUID.",
		Type:        function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) {
			id, err := uuid.NewRandomFromReader(random)
			if err != nil {
				return cty.UnknownVal(cty.String), fmt.Errorf("draw a random UUID: %w", err)
			}
			return cty.StringVal(id.String()), nil
		},
	})
}

func homedirFunc(home string) function.Function {
	return function.New(&function.Spec{
		Description: "The home directory of the current user.",
		Type:        function.StaticReturnType(cty.String),
		Impl: func([]cty.Value, cty.Type) (cty.Value, error) {
			if home != "" {
				return cty.StringVal(home), nil
			}
			// The environment decides, as it does for every other program; the
			// user's entry in the system only where it says nothing.
			if dir, err := os.UserHomeDir(); err == nil {
				return cty.StringVal(dir), nil
			}
			u, err := user.Current()
			if err != nil {
				return cty.UnknownVal(cty.String), fmt.Errorf("find the home directory: %w", err)
			}
			return cty.StringVal(u.HomeDir), nil
		},
	})
}
