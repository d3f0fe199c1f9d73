// Package redact hides tokens and passwords in text that is shown or kept: those in
// URLs, as user information or as parameters, and those among the attributes of
// caches.
//
// It works on finished text, whatever the URL stood in: an error, a line of a log, the name
// of a step, JSON. So it is applied once, where text leaves the process, and makers of
// errors need not care.
package redact

import (
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Mark stands in the place of what is hidden. It is what BuildKit writes there.
const Mark = "xxxxx"

var (
	// userinfo is what precedes the host in a URL. A password may hold an at sign. In
	// the references of images an at sign precedes the digest, so that only schemes of
	// URLs count.
	userinfo = pattern(`(?i)\b(https?|git|git\+https?|ssh|git\+ssh|ftps?|tcp|wss?|socks5h?)://([^/?#\s"<>\\` + "`" + `]*)@`)
	// host is what git and ssh say of the host of a URL that they took apart and decoded:
	// they do so without its scheme, and take for the host what is none to them.
	host = pattern(`(?i)(unable to look up |unable to connect to |strange hostname '|could not resolve hostname |connect to host )` +
		`([^\n"]{1,1000}?)( \(port \d+\)|:(?:\n|\\n|$)|' blocked| port \d+: |: (?:name or service not known|temporary failure in name resolution|no address associated with hostname|nodename nor servname provided))`)
	// login is whom they say it of.
	login = pattern(`(?i)(\\n|)[^\s"'\\:@]+:[^\s"'\\]+(@[^\s"'\\@/]+?)(: permission denied|'s password: )`)
	// address is where they tried to reach it.
	address = pattern(`(\\n|)[^\s"'\\]+(@[^\s"'\\@/]+?\[\d+: [0-9a-f.:]+\]: errno=)`)
	// parameter is a secret among the parameters of a URL.
	parameter = pattern(`(?i)([?&](?:[a-z0-9]+[_-])*(?:token|password|passwd|secret|signature|sig|credential|api_?key|access_?key|auth|authtoken)=)[^&#\s"'<>\\,]+`)
	// attribute is a secret among the attributes of a cache, as text.
	attribute = pattern(`(?i)\b(access_key_id|secret_access_key|session_token|account_key|ghtoken)=[^,\s"'\\]+`)
	// token is the attribute of a list, as in type=gha,token=x: the word alone is that
	// of many programs.
	token = pattern(`(?i)(type=[a-z0-9]+,(?:[^\s"'\\]*,)?token=|[=\s"']token=)([^,\s"'\\]+)((?:,[^\s"'\\]*)?)`)
	// member is such an attribute in JSON.
	member = pattern(`("(?:access_key_id|secret_access_key|session_token|account_key|token|ghtoken)"\s*:\s*)"(?:[^"\\]|\\.)*"`)
)

// pattern compiles an expression when it is first asked for: most runs of dbake end without
// a text that could hold a secret.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// rules hide what stands in one line. An expression reads a long text at some MB a second, a
// plan of thousands of targets for seconds, so that each reads only lines with its words in.
var rules = []struct {
	// may reports whether there can be a match in a line; lower is the line in lower case.
	may  func(line, lower string) bool
	hide func(line string) string
}{
	{
		may:  func(line, _ string) bool { return strings.Contains(line, "://") && strings.Contains(line, "@") },
		hide: func(line string) string { return userinfo().ReplaceAllStringFunc(line, hideUser) },
	},
	{
		may:  func(_, lower string) bool { return containsOne(lower, hostWords) },
		hide: func(line string) string { return host().ReplaceAllStringFunc(line, hideHost) },
	},
	{
		may:  func(line, lower string) bool { return strings.Contains(line, "@") && containsOne(lower, loginWords) },
		hide: func(line string) string { return login().ReplaceAllString(line, "${1}"+Mark+":"+Mark+"${2}${3}") },
	},
	{
		may:  func(line, _ string) bool { return strings.Contains(line, "@") && strings.Contains(line, addressWord) },
		hide: func(line string) string { return address().ReplaceAllString(line, "${1}"+Mark+"${2}") },
	},
	{
		may:  func(line, _ string) bool { return strings.Contains(line, "=") && strings.ContainsAny(line, "?&") },
		hide: func(line string) string { return parameter().ReplaceAllString(line, "${1}"+Mark) },
	},
	{
		may: func(line, lower string) bool {
			return strings.Contains(line, "=") && containsOne(lower, attributeWords)
		},
		hide: func(line string) string { return attribute().ReplaceAllString(line, "${1}="+Mark) },
	},
	{
		may:  func(_, lower string) bool { return strings.Contains(lower, "token=") },
		hide: func(line string) string { return token().ReplaceAllStringFunc(line, hideToken) },
	},
}

// The words without which an expression finds nothing.
var (
	hostWords      = []string{"unable to look up", "unable to connect", "strange hostname", "hostname ", "to host "}
	loginWords     = []string{": permission denied", "'s password: "}
	addressWord    = "]: errno="
	attributeWords = []string{"token", "_key"}
	memberWords    = []string{`"access_key_id"`, `"secret_access_key"`, `"session_token"`, `"account_key"`, `"token"`, `"ghtoken"`}
)

// Text returns s without secrets.
func Text(s string) string {
	if !suspect(s) {
		return s
	}
	s = hideInLines(s)
	if !containsOne(s, memberWords) {
		return s
	}
	return member().ReplaceAllString(s, `${1}"`+Mark+`"`)
}

// hideInLines applies the rules to the lines of s.
func hideInLines(s string) string {
	var out strings.Builder
	done := 0 // of s, in out
	for from := 0; from < len(s); {
		// The end of the line before belongs to this one: a token may come after it.
		to := len(s)
		if end := strings.IndexByte(s[from+1:], '\n'); end >= 0 {
			to = from + 1 + end
		}
		line := s[from:to]
		if hidden := hideInLine(line); hidden != line {
			out.WriteString(s[done:from])
			out.WriteString(hidden)
			done = to
		}
		from = to
	}
	if done == 0 {
		return s
	}
	out.WriteString(s[done:])
	return out.String()
}

func hideInLine(line string) string {
	lower := strings.ToLower(line)
	for _, r := range rules {
		if r.may(line, lower) {
			line = r.hide(line)
		}
	}
	return line
}

// suspect reports whether there can be anything to hide: most text is an answer of
// some build tool.
func suspect(s string) bool {
	if strings.Contains(s, "://") {
		return true
	}
	lower := strings.ToLower(s)
	return containsOne(lower, attributeWords) || containsOne(lower, hostWords) || containsOne(lower, loginWords) || strings.Contains(lower, addressWord)
}

// containsOne reports whether one of the words stands in s.
func containsOne(s string, words []string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.Contains(s, word) })
}

// hideUser hides the user and the password of a URL. The user of ssh alone is no
// secret: keys are.
func hideUser(match string) string {
	parts := userinfo().FindStringSubmatch(match)
	scheme, user := parts[1], parts[2]
	_, _, both := strings.Cut(user, ":")
	switch {
	case user == "":
		return match
	case both:
		return scheme + "://" + Mark + ":" + Mark + "@"
	case strings.HasSuffix(strings.ToLower(scheme), "ssh"):
		return match
	}
	return scheme + "://" + Mark + "@"
}

// hideHost hides the user and the password in what git or ssh took for a host. A password
// with a slash in it ends there, to them.
func hideHost(match string) string {
	parts := host().FindStringSubmatch(match)
	before, name, after := parts[1], parts[2], parts[3]
	at := strings.LastIndexByte(name, '@')
	if at >= 0 {
		hidden := Mark
		if strings.Contains(name[:at], ":") {
			hidden = Mark + ":" + Mark
		}
		return before + hidden + name[at:] + after
	}
	if _, rest, ok := strings.Cut(name, ":"); !ok || strings.Trim(rest, "0123456789") == "" || strings.Contains(rest, ":") {
		return match // a host, with its port, or an address of IPv6
	}
	return before + Mark + after
}

// hideToken hides the token in a list of attributes, if it is one.
func hideToken(match string) string {
	parts := token().FindStringSubmatch(match)
	before, after := parts[1], parts[3]
	if !strings.Contains(before, "type=") && !strings.Contains(after, "type=") {
		return match
	}
	return before + Mark + after
}
