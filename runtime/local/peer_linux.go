package local

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// established is the state in /proc/net/tcp of a connection with both ends open.
const established = "01"

// peerUser returns the user id of the process on this machine that holds the other
// end of a TCP connection, given that end and ours.
func peerUser(peer, own netip.AddrPort) (int, error) {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		uid, err := socketOwner(file, peer, own)
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return uid, err
		}
	}
	return 0, fmt.Errorf("the connection from %s is closed, or does not come from this machine", peer)
}

// socketOwner looks a connection up in a table of the kernel. Once its process has
// closed a socket the kernel shows user 0 for it, so one that is not open, or has
// no inode, proves nothing.
func socketOwner(file string, local, remote netip.AddrPort) (int, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[3] != established || fields[9] == "0" {
			continue
		}
		if a, err := parseSocketAddr(fields[1]); err != nil || a != local {
			continue
		}
		if a, err := parseSocketAddr(fields[2]); err != nil || a != remote {
			continue
		}
		return strconv.Atoi(fields[7])
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return 0, fmt.Errorf("%w: no such connection in %s", os.ErrNotExist, file)
}

// parseSocketAddr reads an address as the kernel prints it: 32-bit words of the
// machine's byte order, and the port, both in hexadecimal.
func parseSocketAddr(s string) (netip.AddrPort, error) {
	host, port, ok := strings.Cut(s, ":")
	p, err := strconv.ParseUint(port, 16, 16)
	b, hexErr := hex.DecodeString(host)
	if !ok || err != nil || hexErr != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("address %q is not understood", s)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("address %q is not understood", s)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), nil
}

func fileOwner(fi os.FileInfo) (uid int, known bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
