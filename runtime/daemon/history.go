package daemon

import (
	"context"
	"errors"
	"io"

	controlapi "github.com/moby/buildkit/api/services/control"
)

// history gives take what a node's history says of the builds that req asks for, and
// returns when that is all.
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
