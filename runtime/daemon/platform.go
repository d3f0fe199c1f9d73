package daemon

import (
	"slices"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/plan"
)

// allot leaves to each node the platforms that it is used for; it changes list. A builder
// of docker buildx can name platforms for its nodes. A platform that is named is built
// where it is named. Any other is built by nodes without names, if it is that of their
// machine.
func allot(list []NodeInfo) {
	named := func(p ocispecs.Platform) bool {
		return slices.ContainsFunc(list, func(n NodeInfo) bool { return matches(n.prefers(), p) })
	}
	for i, n := range list {
		own := n.prefers()
		list[i].Platforms = slices.DeleteFunc(slices.Clone(n.Platforms), func(p ocispecs.Platform) bool {
			switch {
			case !named(p) || matches(own, p):
				return false
			case len(own) > 0:
				return true
			}
			return plan.Emulates(n.Native, p)
		})
	}
}

// allotIn is allot for nodes with more facts.
func allotIn[T any](list []T, info func(*T) *NodeInfo) {
	infos := make([]NodeInfo, len(list))
	for i := range list {
		infos[i] = *info(&list[i])
	}
	allot(infos)
	for i := range list {
		info(&list[i]).Platforms = infos[i].Platforms
	}
}

// prefers returns the platforms that the node's builder names for it.
func (n NodeInfo) prefers() []ocispecs.Platform {
	list, err := ParsePlatforms(n.Prefers)
	if err != nil {
		return nil // probe has refused it
	}
	return list
}

// Runs reports whether the node runs a platform.
func (n NodeInfo) Runs(p ocispecs.Platform) bool { return matches(n.Platforms, p) }

// matches reports whether one of the platforms is p or runs it.
func matches(list []ocispecs.Platform, p ocispecs.Platform) bool {
	return slices.ContainsFunc(list, func(have ocispecs.Platform) bool { return platforms.Only(have).Match(p) })
}

// with returns list with those of more that it lacks.
func with(list, more []ocispecs.Platform) []ocispecs.Platform {
	for _, p := range more {
		if !slices.ContainsFunc(list, func(have ocispecs.Platform) bool { return platforms.FormatAll(have) == platforms.FormatAll(p) }) {
			list = append(list, p)
		}
	}
	return list
}
