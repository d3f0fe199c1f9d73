package view

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// width is how wide tables are made.
const width = 100

// table is text in columns. Its last column takes the rest of the width; text that does not
// fit loses its middle.
type table struct {
	// right holds the columns that are aligned right.
	right map[int]bool
	rows  [][]string
}

func newTable(right ...int) *table {
	t := &table{right: map[int]bool{}}
	for _, c := range right {
		t.right[c] = true
	}
	return t
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// minLast is the least width of the last column, however wide the others.
const minLast = 24

func (t *table) write(w io.Writer) error {
	var sizes []int
	for _, r := range t.rows {
		for c, cell := range r {
			if c == len(sizes) {
				sizes = append(sizes, 0)
			}
			sizes[c] = max(sizes[c], utf8.RuneCountInString(cell))
		}
	}
	for _, r := range t.rows {
		var b strings.Builder
		used := 0
		for c, cell := range r {
			if c == len(sizes)-1 {
				b.WriteString(middle(cell, max(minLast, width-used)))
				break
			}
			pad := strings.Repeat(" ", sizes[c]-utf8.RuneCountInString(cell))
			if t.right[c] {
				cell = pad + cell
			} else {
				cell += pad
			}
			b.WriteString(cell + "  ")
			used += sizes[c] + 2
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// paragraph writes words with line breaks; lines after the first are indented.
func paragraph(w io.Writer, indent, text string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width:
			fmt.Fprintln(w, line)
			line = indent + word
		default:
			line += " " + word
		}
	}
	if line != "" {
		fmt.Fprintln(w, line)
	}
}

// Some lists at most n names and counts the others.
func Some(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n-1], ", "), len(names)-n+1)
}

// ellipsis cuts s to at most n characters.
func ellipsis(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

// middle cuts s to at most n characters, so that its beginning and its end stay:
// the steps of several targets often differ at the end only.
func middle(s string, n int) string {
	r := []rune(s)
	if len(r) <= n || n < 5 {
		return ellipsis(s, n)
	}
	tail := (n - 1) / 3
	return string(r[:n-1-tail]) + "…" + string(r[len(r)-tail:])
}
