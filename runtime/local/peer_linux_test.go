package local

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPeerUser(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		require.NoError(t, err)
		defer l.Close()
		client, err := net.Dial("tcp", l.Addr().String())
		require.NoError(t, err)
		defer client.Close()
		served, err := l.Accept()
		require.NoError(t, err)
		defer served.Close()
		peer := netip.MustParseAddrPort(served.RemoteAddr().String())
		own := netip.MustParseAddrPort(served.LocalAddr().String())
		uid, err := peerUser(peer, own)
		require.NoError(t, err)
		require.Equal(t, os.Getuid(), uid)

		_, err = peerUser(netip.AddrPortFrom(peer.Addr(), peer.Port()+1), own)
		require.ErrorContains(t, err, "does not come from this machine")

		// What a socket was whose process has closed it is not known.
		require.NoError(t, client.Close())
		_, err = peerUser(peer, own)
		require.ErrorContains(t, err, "is closed")
	}
}

func TestSocketOwner(t *testing.T) {
	table := filepath.Join(t.TempDir(), "tcp")
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	local, remote := netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("127.0.0.1:5000")
	for line, want := range map[string]string{
		"   0: 0100007F:1F90 0100007F:1388 01 00000000:00000000 00:00000000 00000000  1000        0 40926 2 0 100": "",
		// Closed by its process, the kernel shows no user, which reads as root.
		"   0: 0100007F:1F90 0100007F:1388 06 00000000:00000000 00:00000000 00000000     0        0 0 2 0 100": "no such connection",
		"   0: 0100007F:1F90 0100007F:1388 01 00000000:00000000 00:00000000 00000000     0        0 0 2 0 100": "no such connection",
		"   0: 0100007F:1388 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 7 2 0 100": "no such connection",
		"   0: nonsense 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 7 2 0 100":      "no such connection",
		"short": "no such connection",
		"   0: 0000000000000000FFFF00000100007F:1F90 0000000000000000FFFF00000100007F:1388 01 0:0 00:0 0  1000        0 40926 2 0 100": "",
	} {
		require.NoError(t, os.WriteFile(table, []byte(head+line+"\n"), 0o600))
		uid, err := socketOwner(table, local, remote)
		if want != "" {
			require.ErrorContains(t, err, want, line)
			continue
		}
		require.NoError(t, err, line)
		require.Equal(t, 1000, uid)
	}
}
