package compiler

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// maxJSONDepth is how deeply the text that jsondecode reads may be nested.
const maxJSONDepth = 10_000

// resultSizes are the functions whose one call can make far more than it is given,
// each with at least the bytes that the call would make, as sizeOf counts them. No
// estimate costs more than reading the arguments; it may stop counting at maxValueSize.
// What other functions make is about as large as what they are given.
var resultSizes = map[string]func(args []cty.Value) int{
	"concat":        sizeOfAll,
	"csvdecode":     func(args []cty.Value) int { return marks(args[0], ",\n") * elementSize },
	"format":        func(args []cty.Value) int { return formatSize(args[0].AsString(), args[1:]) },
	"formatlist":    formatListSize,
	"indent":        indentSize,
	"join":          joinSize,
	"jsondecode":    jsonSize,
	"merge":         sizeOfAll,
	"regex_replace": regexReplaceSize,
	"regexall":      regexAllSize,
	"replace":       replaceSize,
	"setproduct":    setProductSize,
	"setunion":      sizeOfAll,
	"split":         func(args []cty.Value) int { return (occurrences(args[1], args[0]) + 1) * elementSize },
}

// boundFunction returns f with calls that would make too large a value refused before
// they make it. All else is left to f: the arguments reach it as they are.
func boundFunction(f function.Function, size func(args []cty.Value) int) function.Function {
	pass := func(p function.Parameter) function.Parameter {
		p.AllowUnknown, p.AllowDynamicType, p.AllowMarked = true, true, true
		return p
	}
	spec := &function.Spec{Description: f.Description()}
	for _, p := range f.Params() {
		spec.Params = append(spec.Params, pass(p))
	}
	if p := f.VarParam(); p != nil {
		passed := pass(*p)
		spec.VarParam = &passed
	}
	// The type of a result can be as large as the result.
	spec.Type = function.StaticReturnType(cty.DynamicPseudoType)
	spec.Impl = func(args []cty.Value, _ cty.Type) (cty.Value, error) {
		for _, a := range args {
			if !a.IsWhollyKnown() || a.ContainsMarked() {
				return f.Call(args)
			}
		}
		if size(args) > maxValueSize {
			return cty.DynamicVal, errValueTooLarge
		}
		return f.Call(args)
	}
	return function.New(spec)
}

// times multiplies sizes, and stops counting far above maxValueSize.
func times(a, b int) int {
	const most = 1 << 31
	return min(a, most) * min(b, most)
}

// sizeOfAll is the size of all arguments together.
func sizeOfAll(args []cty.Value) int {
	left := maxValueSize + len(args)*elementSize
	for _, a := range args {
		if left >= 0 {
			left = sizeOf(a, left)
		}
	}
	return maxValueSize - left
}

// textSize is the size of a value as text, of a number too.
func textSize(v cty.Value) int { return maxValueSize - sizeOf(v, maxValueSize) }

// marks counts the characters of a text that are in set.
func marks(text cty.Value, set string) int {
	n, s := 0, []byte(text.AsString())
	for i := range len(set) {
		n += bytes.Count(s, []byte{set[i]})
	}
	return n
}

// jsonSize takes text that is nested more deeply than files may be for endless: what
// reads it would need a stack that no process has.
func jsonSize(args []cty.Value) int {
	depth, text := 0, args[0].AsString()
	for i := range len(text) {
		switch text[i] {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		}
		if depth > maxJSONDepth {
			return maxValueSize + 1
		}
	}
	return marks(args[0], ",:[{") * elementSize
}

// occurrences is how often part is in text.
func occurrences(text, part cty.Value) int {
	return strings.Count(text.AsString(), part.AsString())
}

func replaceSize(args []cty.Value) int {
	text, with := args[0].AsString(), args[2].AsString()
	return len(text) + times(occurrences(args[0], args[1]), len(with))
}

// regexReplaceSize takes every reference to a group for all of the text, divided
// over the matches.
func regexReplaceSize(args []cty.Value) int {
	text, with := args[0].AsString(), args[2].AsString()
	pattern, err := regexp.Compile(args[1].AsString())
	if err != nil {
		return 0 // for the function to report
	}
	size := len(text) + times(strings.Count(with, "$"), len(text))
	if len(with) == 0 || size > maxValueSize {
		return size
	}
	most := maxValueSize/len(with) + 1
	return size + times(len(pattern.FindAllStringIndex(text, most)), len(with))
}

func regexAllSize(args []cty.Value) int {
	pattern, err := regexp.Compile(args[0].AsString())
	if err != nil {
		return 0 // for the function to report
	}
	each := (1 + pattern.NumSubexp()) * elementSize
	return times(len(pattern.FindAllStringIndex(args[1].AsString(), maxValueSize/each+1)), each)
}

func indentSize(args []cty.Value) int {
	text := args[1].AsString()
	spaces, _ := args[0].AsBigFloat().Int64() // at most, the largest there is
	return len(text) + times(strings.Count(text, "\n"), int(max(spaces, 0)))
}

func joinSize(args []cty.Value) int {
	elements := 0
	for _, list := range args[1:] {
		if !list.IsNull() {
			elements += list.LengthInt()
		}
	}
	return sizeOfAll(args[1:]) + times(elements, len(args[0].AsString()))
}

// setProductSize counts every combination with its elements.
func setProductSize(args []cty.Value) int {
	combinations := 1
	for _, a := range args {
		if a.IsNull() || !a.CanIterateElements() {
			return 0 // for the function to report
		}
		combinations = times(combinations, a.LengthInt())
	}
	return times(combinations, (1+len(args))*elementSize)
}

// formatVerb finds the verbs of a format, with their width, precision and the
// number of their argument.
var formatVerb = pattern(`%(?:%|[0#+ -]*([1-9][0-9]*)?(?:\.([0-9]*))?(?:\[([0-9]+)\])?[a-zA-Z])`)

func formatSize(format string, args []cty.Value) int {
	sizes := make([]int, len(args))
	for i, a := range args {
		sizes[i] = textSize(a)
	}
	size, next := len(format), 1
	for len(format) > 0 && size <= maxValueSize {
		at := formatVerb().FindStringSubmatchIndex(format)
		if at == nil {
			break
		}
		number := func(group int) int { // 0 for none, the largest there is for more
			if at[2*group] < 0 {
				return 0
			}
			n, _ := strconv.Atoi(format[at[2*group]:at[2*group+1]])
			return n
		}
		if format[at[0]:at[1]] != "%%" {
			if n := number(3); n > 0 {
				next = n
			}
			if next <= len(sizes) {
				size += sizes[next-1]
			}
			next++
			size += min(number(1), maxValueSize+1) + min(number(2), maxValueSize+1)
		}
		format = format[at[1]:]
	}
	return size
}

// formatListSize takes the first list for as long as the others, as they have to be.
func formatListSize(args []cty.Value) int {
	rows, first := 1, make([]cty.Value, 0, len(args))
	var lists []cty.Value
	for _, a := range args[1:] {
		if ty := a.Type(); a.IsNull() || !ty.IsListType() && !ty.IsSetType() && !ty.IsTupleType() {
			first = append(first, a)
			continue
		}
		rows = a.LengthInt()
		lists = append(lists, a)
		first = append(first, largest(a))
	}
	one := formatSize(args[0].AsString(), first)
	if len(lists) == len(args)-1 {
		// Nothing stands in every row, so that the rows are about as large as the lists
		// unless the format repeats them.
		repeats := strings.Count(args[0].AsString(), "%")
		return min(times(rows, one), times(repeats+1, sizeOfAll(lists))+times(rows, formatSize(args[0].AsString(), nil)))
	}
	return times(rows, one)
}

// largest is the largest element of a list, null when it has none.
func largest(list cty.Value) cty.Value {
	most := cty.NullVal(cty.String)
	for it := list.ElementIterator(); it.Next(); {
		if _, v := it.Element(); textSize(v) > textSize(most) {
			most = v
		}
	}
	return most
}
