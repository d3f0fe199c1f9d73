package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/publish"
	"github.com/dbake/dbake/runtime/registry"
)

// publish publishes all that the run has written, and the names that unchanged images lack, if
// nothing has failed. With failed, or when not everything can be published, it publishes
// nothing, and the result gives the reason. Without [Request.Atomic] it does nothing.
func (x *execution) publish(ctx context.Context, images *Images, failed error) error {
	if !x.request.Atomic {
		return failed
	}
	batch := x.result.Withheld
	if batch == nil {
		batch = &publish.Batch{}
	}
	if failed != nil {
		x.result.NoteUnpublished(reasonOf(x.result))
		return errors.Join(failed, batch.Discard())
	}
	batch.Tags = append(batch.Tags, images.lacking()...)
	if n := len(batch.Tags); n > 0 {
		x.engine.Report.Note(fmt.Sprintf("everything is built; setting %d tags", n))
	}
	access := images.pushed.standby.registries()
	if x.work != nil {
		access = x.work.Registries
	}
	err := batch.Publish(ctx, func(insecure []string) publish.Registry { return registry.New(access.Insecure(insecure...)) })
	if err == nil {
		x.result.NotePublished()
		return nil
	}
	x.result.NoteUnpublished("publishing failed")
	var why *publish.Error
	if errors.As(err, &why) && ctx.Err() != nil && len(why.Kept) > 0 {
		x.engine.Report.Warn(why.Error()) // the only message of an interrupted command
	}
	return err
}

// reasonOf says in a few words why nothing is published.
func reasonOf(r *runtime.Result) string {
	var failed []string
	for _, t := range r.Targets() {
		if t.State == runtime.Failed {
			failed = append(failed, t.Name)
		}
	}
	if len(failed) == 0 {
		return "not everything was built"
	}
	return strings.Join(failed, ", ") + " failed"
}
