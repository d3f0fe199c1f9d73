package daemon

import (
	"context"
	"errors"
	"io"

	controlapi "github.com/moby/buildkit/api/services/control"
)

// history calls take with the events in a node's history of the builds that req asks for. It
// returns when those are all.
func (l *link) history(ctx context.Context, req *controlapi.BuildHistoryRequest, take func(*controlapi.BuildHistoryEvent)) error {
	req.EarlyExit = true
	events, err := l.client.ControlClient().ListenBuildHistory(ctx, req)
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		take(event)
	}
}
