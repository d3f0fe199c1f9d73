package ir

import "strings"

// SourceKind is the kind of a context.
type SourceKind int

// The kinds of contexts.
const (
	SourceDir    SourceKind = iota // a directory of this machine
	SourceTree                     // a directory of the remote definition
	SourceGit                      // a repository
	SourceHTTP                     // what is behind a URL
	SourceImage                    // an image in a registry
	SourceLayout                   // an image in an OCI layout on this machine
	SourceTarget                   // the result of another target
)

// Source is a context: what it is was decided when it was read, and whoever uses it,
// grants it or fetches it goes by that. The zero Source is the directory ".".
type Source struct {
	Kind SourceKind
	// Text is the value as it is printed.
	Text string
	// Path is a path of this machine for SourceDir and SourceLayout, relative ones
	// from Project.Dir, and one in the definition for SourceTree, "." for its root.
	Path string
	// Ref is the name of the image or of the target; of a layout the tag, "latest"
	// by default.
	Ref string
	// Digest is that of the image in the layout, if HasDigest.
	Digest    string
	HasDigest bool
	// Git is the repository of SourceGit, and of SourceTree when the definition came
	// from one; nil for others.
	Git *Git
}

const (
	// linkPrefix marks a context value that names another target, imagePrefix an
	// image, layoutPrefix a layout.
	linkPrefix   = "target:"
	imagePrefix  = "docker-image://"
	layoutPrefix = "oci-layout://"
	// cwdPrefix marks a path that starts from the working directory of the command
	// even where others start elsewhere.
	cwdPrefix = "cwd://"
)

// ParseContext returns the source that the value of the attribute "context" names: a
// directory, a repository or a URL. isDir reports whether there is a directory of that
// name, which counts even if it reads like a repository; nil is never.
func ParseContext(text string, isDir func(path string) bool) Source {
	where := strings.TrimPrefix(text, cwdPrefix)
	if where == "" {
		where = "."
	}
	if !IsRemote(where) || isDir != nil && isDir(where) {
		return Source{Text: text, Path: where}
	}
	return remote(text, where)
}

// remote returns the source of what [IsRemote].
func remote(text, where string) Source {
	if git := ParseGit(where); git != nil {
		return Source{Kind: SourceGit, Text: text, Git: git}
	}
	return Source{Kind: SourceHTTP, Text: text}
}

// ParseNamedContext returns the source that an entry of the attribute "contexts"
// names.
func ParseNamedContext(text string) Source {
	if name, ok := LinkTarget(text); ok {
		return Source{Kind: SourceTarget, Text: text, Ref: name}
	}
	where := strings.TrimPrefix(text, cwdPrefix)
	if ref, ok := strings.CutPrefix(where, imagePrefix); ok {
		return Source{Kind: SourceImage, Text: text, Ref: ref}
	}
	if layout, ok := strings.CutPrefix(where, layoutPrefix); ok {
		s := Source{Kind: SourceLayout, Text: text, Ref: "latest"}
		s.Path, s.Digest, s.HasDigest = strings.Cut(layout, "@")
		// A colon after a single letter is that of a drive.
		if i := strings.LastIndexByte(s.Path, ':'); i > strings.LastIndexAny(s.Path, `/\`) && i > 1 {
			s.Path, s.Ref = s.Path[:i], s.Path[i+1:]
		}
		return s
	}
	if IsRemote(where) {
		return remote(text, where)
	}
	return Source{Text: text, Path: where}
}

// Tree returns the directory of a remote definition; url is the URL of that directory,
// "" if it has none.
func Tree(dir, url string) Source {
	return Source{Kind: SourceTree, Text: url, Path: dir, Git: ParseGit(url)}
}

// Dir is Path, "." for that of the zero Source.
func (s Source) Dir() string {
	if s.Path == "" {
		return "."
	}
	return s.Path
}

// URL is where a source is fetched from, "" for those that are not.
func (s Source) URL() string {
	switch s.Kind {
	case SourceGit, SourceHTTP:
		return strings.TrimPrefix(s.Text, cwdPrefix)
	case SourceTree:
		return s.Text
	}
	return ""
}

// LinkTarget returns the name of the target that the value of a named context links
// to.
func LinkTarget(text string) (name string, ok bool) { return strings.CutPrefix(text, linkPrefix) }

// ParsePath returns the path in a value that may be marked to start from the working
// directory; cwd reports whether it is.
func ParsePath(text string) (path string, cwd bool) { return strings.CutPrefix(text, cwdPrefix) }
