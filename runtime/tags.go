package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/watchdog"
)

const (
	// verifyTimeout bounds how long registries may take to say what tags stand for.
	verifyTimeout = 10 * time.Second
	// afterlife is how long a daemon goes on when its client has vanished without a
	// word: BuildKit v0.34.2 looks after a session every 5 s, waits 15 s for an
	// answer, and ends it after two failures (session/grpc.go).
	afterlife = 45 * time.Second
)

// cutPush is an export that was under way on a node when the connection ended. That node may
// write its tags later than the node that was given the job next.
type cutPush struct {
	node string
	at   time.Duration // since the start of the run
	// silent is set when the connection ended because nothing was heard. The node may not know of
	// the end.
	silent bool
}

// tagStore is a registry as far as tags go.
type tagStore interface {
	Manifest(ctx context.Context, ref string) ([]byte, ocispecs.Descriptor, error)
	Push(ctx context.Context, ref string, desc ocispecs.Descriptor, data []byte) error
	Delete(ctx context.Context, ref string) error
	Close()
}

// openTags returns access to registries; the insecure ones need not speak TLS.
func (b *Build) openTags(insecure []string) tagStore {
	return registry.New(b.Registries.Insecure(insecure...))
}

// insecureHosts are the registries that outputs push to without asking for TLS.
func insecureHosts(outs []output.Output) []string {
	var hosts []string
	for _, o := range outs {
		v, ok := o.Entry.Attrs[string(exptypes.OptKeyInsecure)]
		if insecure, err := strconv.ParseBool(v); !ok || err == nil && !insecure {
			continue
		}
		if ref, err := reference.ParseNormalizedNamed(firstName(o.Entry.Attrs["name"])); err == nil {
			hosts = append(hosts, reference.Domain(ref))
		}
	}
	return hosts
}

func firstName(list string) string {
	for i := range list {
		if list[i] == ',' {
			return list[:i]
		}
	}
	return list
}

// cutOff notes the exports of p that end with its connection.
func (x *exports) cutOff(p *submission) {
	var silence *watchdog.SilenceError
	silent := errors.As(context.Cause(p.conn.Ended), &silence)
	for u := range p.writing {
		if _, step := x.work.step(u); !step {
			x.cut[int(u)] = cutPush{node: p.node.info.Name, at: x.reporter.since(), silent: silent}
		}
	}
}

// verifyTags checks the tags that a node may have written after it was cut off. It sets right
// those that stand for something else than this run reports, and returns warnings.
func (x *exports) verifyTags(ctx context.Context, a *accounts) []string {
	if x.work.Withhold {
		return nil // nodes set none
	}
	var said []string
	ctx, cancel := context.WithTimeoutCause(ctx, verifyTimeout, fmt.Errorf("no answer within %s", verifyTimeout))
	defer cancel()
	for u := range x.work.Jobs {
		cut, ok := x.cut[u]
		if !ok || !a.isDone(u) || slices.ContainsFunc(x.divided, func(d *divided) bool { return slices.Contains(d.jobs, u) }) {
			continue
		}
		store := x.tags(insecureHosts(x.outputs[u]))
		for _, img := range a.images(u) {
			if img.Place != output.InRegistry || img.Name == "" {
				continue
			}
			now, err := verifyTag(ctx, store, img)
			switch {
			case err != nil:
				said = append(said, fmt.Sprintf("node %s was cut off while it pushed %s; cannot check whether it wrote the tag later: %v", cut.node, img.Name, err))
			case now != "":
				said = append(said, fmt.Sprintf("node %s was cut off while it pushed %s, and wrote the tag later (%s); the tag stands for %s again", cut.node, img.Name, now, img.Digest))
			case cut.silent && x.reporter.since()-cut.at < afterlife:
				said = append(said, fmt.Sprintf("node %s was cut off while it pushed %s; if it still pushes, the tag may change once more", cut.node, img.Name))
			}
		}
		store.Close()
	}
	return said
}

// verifyTag makes a tag stand for the image that was reported, and returns what it
// stood for instead, "" when it was right.
func verifyTag(ctx context.Context, store tagStore, img output.Image) (now digest.Digest, err error) {
	_, found, err := store.Manifest(ctx, img.Name)
	if err != nil || found.Digest.String() == img.Digest {
		return "", err
	}
	ref, err := reference.ParseNormalizedNamed(img.Name)
	if err != nil {
		return "", fmt.Errorf("name %q: %w", img.Name, err)
	}
	data, desc, err := store.Manifest(ctx, reference.TrimNamed(ref).String()+"@"+img.Digest)
	if err != nil {
		return "", errors.Join(fmt.Errorf("the tag stands for %s", found.Digest), err)
	}
	return found.Digest, store.Push(ctx, img.Name, desc, data)
}
