package entitlement

import (
	"fmt"
	"strings"
)

// The keys of --allow.
const (
	allowSSH         = "ssh"
	allowFS          = "fs"
	allowFSRead      = "fs.read"
	allowFSWrite     = "fs.write"
	allowImage       = "image"
	allowImagePush   = "image.push"
	allowImageLoad   = "image.load"
	allowLocalDelete = "buildx.local.delete"
)

// The environment that changes how files are guarded.
const (
	envFS             = "BUILDX_BAKE_ENTITLEMENTS_FS"
	envRemoteFSAccess = "BAKE_ALLOW_REMOTE_FS_ACCESS"
)

// anyPath, as a path of --allow, is every path.
const anyPath = "*"

// Privileges are what a build may do beyond running sandboxed steps on
// the files of the working directory: what was granted, or what is missing.
type Privileges struct {
	networkHost, securityInsecure bool
	ssh                           bool // the agent of the environment
	localDelete                   bool
	allDevices                    bool
	devices                       map[string]bool
	read, write                   map[string]bool // paths
}

func newPrivileges() *Privileges {
	return &Privileges{devices: map[string]bool{}, read: map[string]bool{}, write: map[string]bool{}}
}

// Parse reads the values of --allow.
func Parse(values []string) (*Privileges, error) {
	p := newPrivileges()
	for _, v := range values {
		key, value, hasValue := strings.Cut(v, "=")
		switch key {
		case NetworkHost, SecurityInsecure, allowSSH:
			if hasValue {
				return nil, fmt.Errorf("unknown entitlement key %q", key)
			}
		}
		switch key {
		case NetworkHost:
			p.networkHost = true
		case SecurityInsecure:
			p.securityInsecure = true
		case allowSSH:
			p.ssh = true
		case allowLocalDelete:
			if hasValue {
				return nil, fmt.Errorf("%s does not accept a value", allowLocalDelete)
			}
			p.localDelete = true
		case Device:
			if err := p.addDevice(value); err != nil {
				return nil, err
			}
		case allowFS:
			p.read[value], p.write[value] = true, true
		case allowFSRead:
			p.read[value] = true
		case allowFSWrite:
			p.write[value] = true
		case allowImage, allowImagePush, allowImageLoad:
			// Images are pushed and loaded without a grant; bake reads these keys
			// and asks for none of them either.
		default:
			return nil, fmt.Errorf("unknown entitlement key %q", key)
		}
	}
	return p, nil
}

// addDevice adds the device that the value of a "device" key names.
func (p *Privileges) addDevice(value string) error {
	name, err := DeviceName(value)
	if err != nil {
		return err
	}
	if name == "" {
		p.allDevices = true
	} else {
		p.devices[name] = true
	}
	return nil
}
