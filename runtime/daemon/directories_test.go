package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/moby/buildkit/session/filesync"
	"github.com/stretchr/testify/require"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"

	"github.com/dbake/dbake/runtime/fault"
)

// sourceOf is a local source with some files; those whose mode is 0600 cannot
// be opened.
func sourceOf(t *testing.T, modes map[string]fs.FileMode) *sourceFS {
	dir := t.TempDir()
	for name, mode := range modes {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(name), mode))
	}
	plain, err := fsutil.NewFS(dir)
	require.NoError(t, err)
	return &sourceFS{
		FS: plain, name: "ctx", dir: dir,
		transfer: &transfer{directories: &directories{sent: &Transfers{}}, failed: make(chan struct{})},
		open: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			if info, err := os.Lstat(name); err == nil && info.Mode().Perm() == 0o600 {
				return nil, &fs.PathError{Op: "open", Path: name, Err: syscall.EACCES}
			}
			return os.OpenFile(name, flag, perm)
		},
	}
}

// listPaths are the paths that a node hears of.
func listPaths(t *testing.T, s fsutil.FS, opt *fsutil.FilterOpt, seen func(string)) []string {
	filtered, err := fsutil.NewFilterFS(s, opt)
	require.NoError(t, err)
	var list []string
	err = filtered.Walk(t.Context(), "/", func(path string, e fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := e.Info()
		require.NoError(t, err)
		st := info.Sys().(*fstypes.Stat)
		require.Zero(t, st.Uid)
		require.Zero(t, st.Gid)
		if seen != nil {
			seen(path)
		}
		list = append(list, path)
		return nil
	})
	require.NoError(t, err)
	return list
}

func TestUnreadableIsLeftOut(t *testing.T) {
	s := sourceOf(t, map[string]fs.FileMode{"a": 0o600, "b": 0o644, "d/c": 0o600, "d/e": 0o640, "x/f": 0o600})
	require.Equal(t, []string{"b", "d", "d/e"}, listPaths(t, s, &fsutil.FilterOpt{ExcludePatterns: []string{"x"}}, nil))
	unread := s.transfer.sent.TakeUnread()
	require.Len(t, unread["ctx"], 2, "what is excluded is not looked at")
	require.EqualError(t, unread["ctx"]["d/c"], "this machine cannot read "+filepath.Join(s.dir, "d/c")+": permission denied")
	require.Empty(t, s.transfer.sent.TakeUnread(), "each is taken once")
	require.Equal(t, []string{"b"}, listPaths(t, s, &fsutil.FilterOpt{IncludePatterns: []string{"a", "b"}}, nil))
}

// TestGoneWhileListed removes files while their directory is listed: those behind them
// are there.
func TestGoneWhileListed(t *testing.T) {
	s := sourceOf(t, map[string]fs.FileMode{"a": 0o644, "b": 0o644, "c": 0o644, "d": 0o644})
	list := listPaths(t, s, &fsutil.FilterOpt{}, func(path string) {
		if path == "a" {
			require.NoError(t, os.Remove(filepath.Join(s.dir, "b")))
		}
	})
	require.Equal(t, []string{"a", "c", "d"}, list)
	require.Empty(t, s.transfer.sent.TakeUnread())
}

func TestOpenWhatIsNotThereAnyMore(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"gone":      func(string) error { return nil },
		"pipe":      func(path string) error { return syscall.Mkfifo(path, 0o644) },
		"directory": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			s := sourceOf(t, map[string]fs.FileMode{"a": 0o644})
			require.NoError(t, os.Remove(filepath.Join(s.dir, "a")))
			require.NoError(t, replace(filepath.Join(s.dir, "a")))
			r, err := s.Open("a")
			require.NoError(t, err, "fsutil would send an empty file")
			_, err = io.ReadAll(r)
			require.ErrorIs(t, err, fault.ErrWentAway)
			require.NoError(t, r.Close())
			var again *fault.Unavailable
			require.ErrorAs(t, fault.Classify(errors.New("rpc error: code = Unknown desc = "+err.Error()), nil), &again)
			require.Empty(t, s.transfer.sent.TakeUnread())
		})
	}
}

// waitingNode is the other end of a transfer: it asks for the first file and waits.
type waitingNode struct {
	grpc.ServerStream
	ctx   context.Context
	asked bool
	known chan struct{} // closed once it knows of all files
	once  bool
}

func (n *waitingNode) Context() context.Context { return n.ctx }

func (n *waitingNode) SendMsg(m any) error {
	if p := m.(*fstypes.Packet); p.Type == fstypes.PACKET_STAT && p.Stat == nil && !n.once {
		n.once = true
		close(n.known)
	}
	return nil
}

func (n *waitingNode) RecvMsg(m any) error {
	<-n.known
	if !n.asked {
		n.asked = true
		m.(*fstypes.Packet).Type = fstypes.PACKET_REQ
		return nil
	}
	<-n.ctx.Done()
	return n.ctx.Err()
}

func (n *waitingNode) Send(p *fsPacket) error   { return n.SendMsg(p) }
func (n *waitingNode) Recv() (*fsPacket, error) { return nil, io.EOF }

type fsPacket = fstypes.Packet

var _ filesync.FileSync_DiffCopyServer = (*waitingNode)(nil)

// TestTransferFails has a file change between its listing and its sending: the
// transfer fails, although the node waits for the file.
func TestTransferFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	require.NoError(t, os.WriteFile(path, []byte("a"), 0o644))
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		n := &waitingNode{ctx: ctx, known: make(chan struct{})}
		sender := &directories{dirs: map[string]string{"": dir}, sent: &Transfers{}}
		err := sender.DiffCopy(&removing{n, path})
		require.ErrorIs(t, err, fault.ErrWentAway)
		require.ErrorContains(t, err, path)
	})
}

// removing removes a file when it is asked for.
type removing struct {
	*waitingNode
	path string
}

func (r *removing) RecvMsg(m any) error {
	<-r.known
	_ = os.Remove(r.path)
	return r.waitingNode.RecvMsg(m)
}
