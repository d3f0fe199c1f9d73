package layout

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/moby/buildkit/client/ociindex"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/runtime/fault"
)

const (
	// indexWait bounds the wait for another process that writes the same index, and
	// indexInterval is how often it is tried.
	indexWait     = 10 * time.Second
	indexInterval = 20 * time.Millisecond
)

// Enter adds the image that was written into an OCI layout to its index, under the
// names of the response.
func Enter(ctx context.Context, dir string, resp map[string]string) error {
	dt, err := base64.StdEncoding.DecodeString(resp[exptypes.ExporterImageDescriptorKey])
	if err != nil || len(dt) == 0 {
		return fmt.Errorf("image layout in %s: the node did not describe the image", dir)
	}
	var desc ocispecs.Descriptor
	if err := json.Unmarshal(dt, &desc); err != nil {
		return fmt.Errorf("image layout in %s: %w", dir, err)
	}
	names := []ociindex.NameOrTag{ociindex.Tag("latest")}
	if list := resp[exptypes.ExporterImageNameKey]; list != "" {
		names = nil
		for name := range strings.SplitSeq(list, ",") {
			names = append(names, ociindex.Name(name))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, indexWait)
	defer cancel()
	for {
		err := ociindex.NewStoreIndex(dir).Put(desc, names...)
		switch {
		case err == nil:
			return nil
		case !strings.Contains(err.Error(), "could not lock"), pause.For(ctx, indexInterval) != nil:
			return &fault.Rejected{Err: &fault.OutputError{Place: dir, Err: err}}
		}
	}
}
