package daemon

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/session/filesync"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/output"
)

// sending is a node that sends one piece of an archive, then ends as the test says.
type sending struct {
	grpc.ServerStream
	ctx   context.Context
	piece []byte
	end   error
}

func (s *sending) Context() context.Context              { return s.ctx }
func (s *sending) Send(*filesync.BytesMessage) error     { return nil }
func (s *sending) Recv() (*filesync.BytesMessage, error) { return nil, s.end }
func (s *sending) RecvMsg(m any) error {
	if s.piece == nil {
		return s.end
	}
	m.(*filesync.BytesMessage).Data, s.piece = s.piece, nil
	return nil
}

// A failure of this machine is known as one, whatever the node says of it; one of the
// node is not.
func TestFaultsOfThisMachine(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	broken := errors.New("connection broken")
	for _, tt := range []struct {
		name, dest string
		end        error
		want       string
	}{
		{name: "full disk", dest: "/dev/full", end: io.EOF, want: "write /dev/full: no space left on device"},
		{name: "no directory", dest: "file/out.tar", end: io.EOF, want: "not a directory"},
		{name: "good", dest: "out.tar", end: io.EOF},
		{name: "node gone", dest: "out.tar", end: broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			outs, err := output.All(&ir.Target{Name: "app", Outputs: []ir.Output{{Type: "tar", Dest: tt.dest}}}, dir, nil, nil)
			if err != nil {
				require.ErrorContains(t, err, tt.want)
				return
			}
			w := outs[0].Begin(t.Context(), nil)
			var f faults
			req := ExportRequest{Entry: w.Export(), Place: w.Place()}
			_, receivers, err := req.receiving(&f)
			require.NoError(t, err)
			require.Len(t, receivers, 1)
			err = receivers[0].(*receiver).DiffCopy(&sending{ctx: t.Context(), piece: []byte("x"), end: tt.end})
			require.Equal(t, tt.want == "" && errors.Is(tt.end, io.EOF), err == nil, "%v", err)
			here := f.at(req.Place)
			if tt.want == "" {
				require.NoError(t, here)
				return
			}
			var output *fault.OutputError
			require.ErrorAs(t, here, &output)
			require.ErrorContains(t, here, tt.want)
			require.False(t, fault.Retryable(here))
			require.Equal(t, here, fault.Classify(here, nil), "not a sick node")
		})
	}
}
