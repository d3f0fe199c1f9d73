package printable

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"plain", "a\tb\nc", "a\tb\nc"},
		{"not ASCII", "größer → 世界", "größer → 世界"},
		{"NUL and bell", "a\x00b\x07c\x08", "abc"},
		{"colour", "\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"},
		{"colour left on", "\x1b[31mred\nnext", "\x1b[31mred\x1b[0m\nnext"},
		{"cursor and erase", "a\x1b[2J\x1b[1;1Hb\x1b[Kc", "abc"},
		{"private mode", "a\x1b[?1049hb", "ab"},
		{"title", "a\x1b]0;title\x07b\x1b]2;t\x1b\\c", "abc"},
		{"title without end", "a\x1b]0;title\nb", "a\nb"},
		{"device string", "a\x1bPq#0\x1b\\b", "ab"},
		{"full reset", "a\x1bcb", "ab"},
		{"character set", "a\x1b(0b", "ab"},
		{"C1", "a\u009b31mb\u0085c", "a31mbc"},
		{"carriage return", "10%\r20%\r\n::error::x\r::error::y", "10%\n20%\n::error::x\n::error::y"},
		{"bad UTF-8", "a\xff\xfeb\xc3", "a\ufffd\ufffdb\ufffd"},
		{"delete", "a\x7fb", "ab"},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.Equal(t, test.want, Text(test.in))
		})
	}
}

func TestLine(t *testing.T) {
	require.Equal(t, "[build 1/2] RUN a  b", Line("[build 1/2] RUN a\n\tb\x1b[31m"))
	require.Equal(t, "ä", Line("ä"))
}

func TestLines(t *testing.T) {
	require.Equal(t, "failed\n  | ::error file=x::forged\nfine :: here", Lines("failed\n  ::error file=x::forged\nfine :: here"))
	require.Equal(t, "a\n| ::stop-commands::x", Lines("a\r::stop-commands::x"))
	for _, space := range []string{"\u00a0", "\u2003", "\u2028", "\u3000"} {
		require.Equal(t, space+"| ::error::forged", Lines(space+"::error::forged"))
	}
	require.Equal(t, "a ## [error]x ## vso[task.x] ## teamcity[x] ## # [ok]", Lines("a ##[error]x ##vso[task.x] ##teamcity[x] ## # [ok]"))
}

// FuzzFilter: what is shown does not depend on how the stream was cut, holds no
// control character but colours, and is UTF-8.
func FuzzFilter(f *testing.F) {
	f.Add("a\x1b[31mb\r\nc\x1b]0;x\x07\xe4\xb8\x96\xff", 3)
	f.Add("\x1b\x1b[\x1bP\x1b", 1)
	f.Fuzz(func(t *testing.T, s string, cut int) {
		if len(s) > maxSequence {
			t.Skip()
		}
		want := Text(s)
		if cut = cut % (len(s) + 1); cut < 0 {
			cut = -cut
		}
		var two Filter
		got := string(two.Write([]byte(s[:cut]))) + string(two.Write([]byte(s[cut:]))) + string(two.Close())
		if !plain(s) {
			require.Equal(t, want, got)
		}
		require.True(t, utf8.ValidString(got))
		rest := got
		for {
			i := strings.IndexByte(rest, escape)
			if i < 0 {
				break
			}
			end := strings.IndexByte(rest[i:], 'm')
			require.Positive(t, end)
			require.True(t, colour([]byte(rest[i+2:i+end])))
			rest = rest[:i] + rest[i+end+1:]
		}
		require.False(t, strings.ContainsFunc(rest, control))
	})
}
