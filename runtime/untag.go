package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/registry"
)

const (
	// untagLimit bounds how long the registry may take to delete the tags of a run, and
	// untagHurry when the user waits for the end, or the registry failed before.
	untagLimit = 10 * time.Second
	untagHurry = time.Second
	// untagAtOnce is how many tags are deleted at one time.
	untagAtOnce = 4
)

// newMark returns a mark for the tags of one run.
func newMark() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// untag deletes the tags under which nodes wrote results for each other, now that none
// reads or writes any more. It runs after failures and interruptions too. A tag that was
// never written is no failure, and neither is a registry that deletes no tags or a user
// who may not: then the tags stay for "dbake cache prune". Anything else is a warning.
//
// The manifests are left alone. Another tag can stand for the same one, as equal content
// is one manifest, and a node may have kept no more of a layer than where it is; their
// end is the registry's own garbage collection.
//
// open gives access to registries; the insecure ones need not speak TLS.
func (x *exchange) untag(ctx context.Context, open func(insecure []string) tagStore) (warnings []string) {
	if len(x.tags) == 0 {
		return nil
	}
	limit := untagLimit
	if ctx.Err() != nil || x.direct {
		limit = untagHurry
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, fmt.Errorf("no answer within %s", limit))
	defer cancel()
	var insecure []string
	if ref, err := reference.ParseNormalizedNamed(x.store.Name); err == nil && x.store.Insecure {
		insecure = append(insecure, reference.Domain(ref))
	}
	store := open(insecure)
	defer store.Close()

	tags := slices.Sorted(maps.Keys(x.tags))
	errs := make([]error, len(tags))
	// One is tried alone: a registry that refuses it would refuse all.
	if errs[0] = store.Delete(ctx, tags[0]); refused(errs[0]) {
		return nil
	}
	var eg errgroup.Group
	eg.SetLimit(untagAtOnce)
	for i, tag := range tags[1:] {
		eg.Go(func() error {
			errs[i+1] = store.Delete(ctx, tag)
			return nil
		})
	}
	_ = eg.Wait() // errors are in errs
	stay := 0
	var why error
	for _, err := range errs {
		if err != nil && !refused(err) && !errors.Is(err, registry.ErrNotFound) {
			stay++
			why = err
		}
	}
	if stay == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d tags of results that nodes sent each other stay in %s until 'dbake cache prune' removes them: %v", stay, x.store.Name, fault.Plain(why))}
}

// refused reports whether a registry does not delete tags, for anybody or for this user.
func refused(err error) bool {
	return errors.Is(err, registry.ErrKept) || errors.Is(err, registry.ErrDenied)
}
