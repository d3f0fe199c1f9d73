package redact

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain",
		"find the commit of https://user:tok3n@example.com/x.git#main: no":    "find the commit of https://xxxxx:xxxxx@example.com/x.git#main: no",
		"https://ghp_abc@github.com/x.git":                                    "https://xxxxx@github.com/x.git",
		"https://user:p@ss@example.com/x":                                     "https://xxxxx:xxxxx@example.com/x",
		"HTTPS://a:b@h https://c:d@h/":                                        "HTTPS://xxxxx:xxxxx@h https://xxxxx:xxxxx@h/",
		"ssh://git@example.com/x.git":                                         "ssh://git@example.com/x.git",
		"ssh://git:pass@example.com/x.git":                                    "ssh://xxxxx:xxxxx@example.com/x.git",
		"git@github.com:x/y.git":                                              "git@github.com:x/y.git",
		`{"url":"https://u:p@h/x?a=1&token=t0k","b":"c"}`:                     `{"url":"https://xxxxx:xxxxx@h/x?a=1&token=xxxxx","b":"c"}`,
		"docker-image://docker.io/library/busybox@sha256:00 busybox@sha256:1": "docker-image://docker.io/library/busybox@sha256:00 busybox@sha256:1",
		"docker-image://busybox@sha256:00":                                    "docker-image://busybox@sha256:00",
		"oci-layout://dir@sha256:00":                                          "oci-layout://dir@sha256:00",
		"https://example.com/@scope/package":                                  "https://example.com/@scope/package",
		"https://example.com/?user=a@b.c":                                     "https://example.com/?user=a@b.c",
		"https://s3/x?X-Amz-Credential=abc%2F1&X-Amz-Signature=00ff&x=1":      "https://s3/x?X-Amz-Credential=xxxxx&X-Amz-Signature=xxxxx&x=1",
		"https://x/?X-Amz-Security-Token=abc":                                 "https://x/?X-Amz-Security-Token=xxxxx",
		"https://account.blob.core.windows.net/c?sv=1&sig=abc%3D":             "https://account.blob.core.windows.net/c?sv=1&sig=xxxxx",
		"--set x.cache-to=type=gha,scope=a,token=abc,url=http://h/":           "--set x.cache-to=type=gha,scope=a,token=xxxxx,url=http://h/",
		"x.cache-to=token=abc,type=gha":                                       "x.cache-to=token=xxxxx,type=gha",
		"type=s3,bucket=b,access_key_id=ID,secret_access_key=KEY":             "type=s3,bucket=b,access_key_id=xxxxx,secret_access_key=xxxxx",
		"type=s3,session_token=a/b+c==,region=r":                              "type=s3,session_token=xxxxx,region=r",
		"type=azblob,account_key=a":                                           "type=azblob,account_key=xxxxx",
		`{"type":"gha","token":"a\"b","scope":"x"}`:                           `{"type":"gha","token":"xxxxx","scope":"x"}`,
		`{"secret_access_key": "KEY"}`:                                        `{"secret_access_key": "xxxxx"}`,
		"type=gha,ghtoken=abc,token=x":                                        "type=gha,ghtoken=xxxxx,token=xxxxx",
		`{"ghtoken":"abc"}`:                                                   `{"ghtoken":"xxxxx"}`,
		"http://us:t0'ken@h/x":                                                "http://xxxxx:xxxxx@h/x",
		// What git and ssh say.
		"fatal: unable to look up user:t0ken@h.invalid (port 9418) (Name or service not known)": "fatal: unable to look up xxxxx:xxxxx@h.invalid (port 9418) (Name or service not known)",
		"fatal: unable to look up user:t0ken@h:99999 (port 9418) (Name)":                        "fatal: unable to look up xxxxx:xxxxx@h:99999 (port 9418) (Name)",
		"fatal: unable to look up us er:t0 (port 9418) (Name)":                                  "fatal: unable to look up xxxxx (port 9418) (Name)",
		"fatal: unable to look up t0ken@h (port 1) (Name)":                                      "fatal: unable to look up xxxxx@h (port 1) (Name)",
		"fatal: unable to look up h.invalid (port 1) (Name)":                                    "fatal: unable to look up h.invalid (port 1) (Name)",
		"fatal: unable to connect to t0ken@h:\nt0ken@h[0: 10.0.0.1]: errno=Connection refused":  "fatal: unable to connect to xxxxx@h:\nxxxxx@h[0: 10.0.0.1]: errno=Connection refused",
		"fatal: unable to connect to h:\nh[0: 10.0.0.1]: errno=Connection refused":              "fatal: unable to connect to h:\nh[0: 10.0.0.1]: errno=Connection refused",
		"a:b@h[0: ::1]: errno=Connection refused":                                               "xxxxx@h[0: ::1]: errno=Connection refused",
		"ssh: Could not resolve hostname user:t0: Name or service not known":                    "ssh: Could not resolve hostname xxxxx: Name or service not known",
		"ssh: connect to host h port 22: Connection refused":                                    "ssh: connect to host h port 22: Connection refused",
		"ssh: connect to host fe80::1 port 22: Connection refused":                              "ssh: connect to host fe80::1 port 22: Connection refused",
		"fatal: strange hostname '-oProxy:t0ken@h' blocked":                                     "fatal: strange hostname 'xxxxx:xxxxx@h' blocked",
		`{"e":"git stderr:\nuser:t0k/en@h: Permission denied (publickey).\n"}`:                  `{"e":"git stderr:\nxxxxx:xxxxx@h: Permission denied (publickey).\n"}`,
		"git@github.com: Permission denied (publickey).":                                        "git@github.com: Permission denied (publickey).",
		"open npm:x@1/y: permission denied":                                                     "open npm:x@1/y: permission denied",
		"cp: a@b: Permission denied":                                                            "cp: a@b: Permission denied",
		"RUN make token=abc":                                                                    "RUN make token=abc",
		"id=GIT_AUTH_TOKEN,env=TOKEN":                                                           "id=GIT_AUTH_TOKEN,env=TOKEN",
		"tcp://10.0.0.5:1234 unix:///run/x":                                                     "tcp://10.0.0.5:1234 unix:///run/x",
	} {
		require.Equal(t, want, Text(in), in)
		require.Equal(t, want, Text(want), "what is hidden stays so")
	}
}

// withoutLines is Text as each expression means it, for the whole text.
func withoutLines(s string) string {
	s = userinfo().ReplaceAllStringFunc(s, hideUser)
	s = host().ReplaceAllStringFunc(s, hideHost)
	s = login().ReplaceAllString(s, "${1}"+Mark+":"+Mark+"${2}${3}")
	s = address().ReplaceAllString(s, "${1}"+Mark+"${2}")
	s = parameter().ReplaceAllString(s, "${1}"+Mark)
	s = attribute().ReplaceAllString(s, "${1}="+Mark)
	s = token().ReplaceAllStringFunc(s, hideToken)
	return member().ReplaceAllString(s, `${1}"`+Mark+`"`)
}

// Whatever stands in which line, nothing is hidden that would not be in the whole text, and
// nothing else is left.
func TestLines(t *testing.T) {
	words := []string{
		"\n", "\n", " ", "\"", "'", ",", ":", "=", "@", "?", "&", "/", "\\n", "\r\n", "://", "a", "B", "x.y", "123", "\u017f", "\u212a",
		"https://", "HTTPS://u:p@h", "git+ssh://u:p@h/", "ssh://git@h", "docker-image://x@sha256:00",
		"unable to look up ", "Unable to connect to ", "strange hostname '", "' blocked", "could not resolve hostname ", "connect to host ", " port 22: ", " (port 1)", ": Name or service not known",
		"u:p@h: Permission denied", "'s password: ", "t@h[0: ::1]: errno=", "?sig=", "&token=", "token=", "type=gha,", "type=s3,x,", "account_key=", "ACCESS_KEY_ID=", "ghtoken=",
		`"token"`, `"account_key"`, `: "`, `\"`,
	}
	random := rand.New(rand.NewPCG(1, 2))
	hidden := 0
	for range 20_000 {
		var b strings.Builder
		for range 1 + random.IntN(12) {
			b.WriteString(words[random.IntN(len(words))])
		}
		in := b.String()
		want := in
		if suspect(in) {
			want = withoutLines(in)
		}
		require.Equal(t, want, Text(in), "%q", in)
		if want != in {
			hidden++
		}
	}
	require.Greater(t, hidden, 4_000)
}

// A long text with little of interest, as a plan is.
func BenchmarkText(b *testing.B) {
	line := `    "image_key": "sha256:0123456789abcdef", "source": "docker-image://docker.io/library/golang@sha256:00",` + "\n"
	text := strings.Repeat(line+strings.Repeat("      \"step\": \"RUN make\",\n", 20), 1_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Text(text)
	}
}
