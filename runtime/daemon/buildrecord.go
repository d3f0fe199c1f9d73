package daemon

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	controlapi "github.com/moby/buildkit/api/services/control"
	provenancetypes "github.com/moby/buildkit/solver/llbsolver/provenance/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// The provenance in the metadata of an output: all of it, or without the steps and the
// metadata of the build.
const (
	ProvenanceMin = "min"
	ProvenanceMax = "max"
)

// The keys of docker buildx for facts about a build besides its outputs.
const (
	buildRefKey        = "buildx.build.ref"
	buildProvenanceKey = "buildx.build.provenance"
)

// recordTimeout bounds how long a node may take to describe a build that has ended.
const recordTimeout = 10 * time.Second

// buildRef names a build in the history of a node, as docker buildx history takes it:
// builder, node and record.
func (s *solver) buildRef(ref string) string {
	builder, ok := strings.CutPrefix(s.spec.Source, "builder ")
	if !ok {
		builder = product
	}
	return fmt.Sprintf("%s/%s/%s", builder, s.spec.Name, ref)
}

// RecordOf returns the name of a build in the history of its node, as the metadata of an
// output has it; "" when it has none.
func RecordOf(metadata map[string]any) string {
	ref, _ := metadata[buildRefKey].(string)
	return ref[strings.LastIndexByte(ref, '/')+1:]
}

// provenance returns the provenance of a build that has ended as the node keeps it, under
// the keys of docker buildx. mode is ProvenanceMin or ProvenanceMax. A node that keeps no
// history returns none.
func (l *link) provenance(ctx context.Context, ref, mode string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	blobs, err := l.readRecord(ctx, ref)
	if err != nil {
		return nil, err
	}
	store := proxy.NewContentStore(l.client.ContentClient())
	found := map[string]string{}
	for key, blob := range blobs {
		dt, err := content.ReadBlob(ctx, store, ocispecs.Descriptor{Digest: digest.Digest(blob.Digest), Size: blob.Size, MediaType: blob.MediaType})
		if err != nil {
			return nil, err
		}
		if found[key], err = provenanceValue(dt, blob.Annotations[predicateType], mode); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// predicateType is the annotation of an attestation that says what it attests.
const predicateType = "in-toto.io/predicate-type"

// isProvenance reports whether a type of predicate is provenance, of any version.
func isProvenance(predicate string) bool {
	return strings.HasPrefix(predicate, "https://slsa.dev/provenance/")
}

// provenanceBlobs returns the provenance in the record of a build, by metadata key.
func provenanceBlobs(record *controlapi.BuildHistoryRecord) map[string]*controlapi.Descriptor {
	blobs := map[string]*controlapi.Descriptor{}
	add := func(key string, result *controlapi.BuildResultInfo) {
		for _, a := range result.GetAttestations() {
			if a.MediaType == "application/vnd.in-toto+json" && isProvenance(a.Annotations[predicateType]) {
				blobs[key] = a
				return
			}
		}
	}
	if results := record.GetResults(); len(results) > 0 {
		for platform, result := range results {
			add(buildProvenanceKey+"/"+platform, result)
		}
		return blobs
	}
	add(buildProvenanceKey, record.GetResult())
	return blobs
}

// provenanceValue encodes a provenance predicate for the metadata of a build.
func provenanceValue(dt []byte, predicate, mode string) (string, error) {
	p, err := readProvenance(dt, predicate)
	if err != nil {
		return "", err
	}
	if mode == ProvenanceMin {
		p.BuildConfig, p.Metadata = nil, nil
	}
	out, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode provenance: %w", err)
	}
	return base64.StdEncoding.EncodeToString(out), nil
}

// readProvenance returns a provenance predicate in version 0.2 of the format, which is
// what readers of the metadata know.
func readProvenance(dt []byte, predicate string) (*provenancetypes.ProvenancePredicateSLSA02, error) {
	var old *provenancetypes.ProvenancePredicateSLSA02
	if predicate == "https://slsa.dev/provenance/v1" {
		var v1 provenancetypes.ProvenancePredicateSLSA1
		if err := json.Unmarshal(dt, &v1); err != nil {
			return nil, fmt.Errorf("read provenance: %w", err)
		}
		old = v1.ConvertToSLSA02()
	} else if err := json.Unmarshal(dt, &old); err != nil {
		return nil, fmt.Errorf("read provenance: %w", err)
	}
	if old == nil {
		return nil, errors.New("read provenance: it is empty")
	}
	return old, nil
}
