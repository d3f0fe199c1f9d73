package ir

import (
	"fmt"
	"strconv"
)

// Types of outputs.
const (
	TypeImage     = "image"
	TypeRegistry  = "registry" // an image that is pushed
	TypeLocal     = "local"
	TypeTar       = "tar"
	TypeOCI       = "oci"
	TypeDocker    = "docker"
	TypeCacheOnly = "cacheonly"
)

// Types of caches whose place dbake understands; TypeRegistry and TypeLocal are others.
const (
	TypeInline = "inline"
	TypeGHA    = "gha"
	TypeS3     = "s3"
	TypeAzblob = "azblob"
)

// OutputForm is the kind of thing that an output makes.
type OutputForm int

// The forms of outputs.
const (
	FormUnknown OutputForm = iota // a type that does not exist
	FormNone                      // nothing is written
	FormImage                     // an image on the node, which may be pushed
	FormFiles                     // the files of the result, in a directory
	FormArchive                   // one file, or what is written to standard output
	FormLayout                    // an OCI layout, in a directory
	FormLoad                      // an image in the Docker engine of this machine
)

// Form returns what o makes. It is the one place where that is read from its type.
func (o Output) Form() OutputForm {
	switch o.Type {
	case TypeCacheOnly:
		return FormNone
	case TypeImage, TypeRegistry:
		return FormImage
	case TypeLocal:
		return FormFiles
	case TypeTar:
		return FormArchive
	case TypeOCI, TypeDocker:
		if tar, err := strconv.ParseBool(o.Attrs["tar"]); err == nil && !tar {
			return FormLayout
		}
		if o.Type == TypeDocker && o.Dest == "" {
			return FormLoad
		}
		return FormArchive
	}
	return FormUnknown
}

// Path returns the path of this machine that o writes, "" when it writes none.
func (o Output) Path() string {
	switch o.Form() {
	case FormFiles, FormArchive, FormLayout:
		if o.Dest != "-" {
			return o.Dest
		}
	}
	return ""
}

// Pushes reports whether o pushes an image under its names.
func (o Output) Pushes() bool {
	return !o.On("push-by-digest") && (o.Type == TypeRegistry || o.Type == TypeImage && o.On("push"))
}

// Switch returns the value of an attribute that is a switch: false when it is not there,
// true when it has no value.
func Switch(attrs map[string]string, key string) (bool, error) {
	v, ok := attrs[key]
	if !ok {
		return false, nil
	}
	if v == "" {
		return true, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("invalid value %q for %s", v, key)
	}
	return b, nil
}

// On reports whether an attribute is given and not switched off.
func (o Output) On(attr string) bool {
	v, ok := o.Attrs[attr]
	on, err := strconv.ParseBool(v)
	return ok && (v == "" || err == nil && on)
}

// Path returns the directory of this machine that the cache is in, "" when it is
// elsewhere. attr is "src" for one that is read, "dest" for one that is written.
func (e CacheEntry) Path(attr string) string {
	if e.Type != TypeLocal {
		return ""
	}
	return e.Attrs[attr]
}

// MayFail reports whether failing to write the cache is only a warning.
func (e CacheEntry) MayFail() bool {
	may, err := strconv.ParseBool(e.Attrs["ignore-error"])
	return err == nil && may
}
