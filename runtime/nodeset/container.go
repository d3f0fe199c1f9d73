package nodeset

import (
	"context"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// buildkitImage is the image that docker buildx runs when a builder names none.
const buildkitImage = "moby/buildkit:buildx-stable-1"

// configDir is where the files of a builder are put into its container.
const configDir = "/etc/buildkit"

// configFile is the name of the daemon's configuration among them.
const configFile = "buildkitd.toml"

// Boot runs the container of the node, if the node is one that docker buildx keeps in a
// container: a stopped one is started, a missing one is made. notice takes remarks on the
// progress. booted is false when there was nothing to do, or no engine to ask: dialling the
// node then reports why it cannot be reached.
func (s Spec) Boot(ctx context.Context, notice func(string)) (booted bool, err error) {
	if s.Container == nil || s.Engine == nil {
		return false, nil
	}
	e, err := dockerengine.New(*s.Engine)
	if err != nil {
		return false, err
	}
	defer e.Close()
	if _, err := e.Info(ctx); err != nil {
		return false, nil
	}
	err = e.Boot(ctx, *s.Container, func(text string) {
		booted = true
		notice(text)
	})
	return booted, err
}

// container is the container of a node of the docker-container driver.
func container(n builderNode) (*dockerengine.Container, error) {
	c := &dockerengine.Container{
		Name: containerPrefix + n.Name, Image: buildkitImage, Cmd: n.Flags,
		Volume: containerPrefix + n.Name + "_state", CgroupParent: "/docker/buildx", Restart: "unless-stopped",
	}
	for k, v := range n.DriverOpts {
		if err := containerOption(c, k, v); err != nil {
			return nil, fmt.Errorf("driver option %s=%s: %w", k, v, err)
		}
	}
	for name, data := range n.Files {
		if c.Files == nil {
			c.Files = map[string][]byte{}
		}
		c.Files[path.Join(configDir, name)] = data
		if name == configFile {
			c.Cmd = append(c.Cmd[:len(c.Cmd):len(c.Cmd)], "--config", path.Join(configDir, configFile))
		}
	}
	return c, nil
}

// containerOption applies a driver option to the container. Options about other things are
// not read.
func containerOption(c *dockerengine.Container, key, value string) (err error) {
	number := func(to *int64) { *to, err = strconv.ParseInt(value, 10, 64) }
	size := func(to *int64) {
		if value == "-1" {
			*to = -1
			return
		}
		*to, err = units.RAMInBytes(value)
	}
	switch key {
	case "image":
		c.Image = value
	case "network":
		c.Network = value
	case "memory":
		size(&c.Limits.Memory)
	case "memory-swap":
		size(&c.Limits.MemorySwap)
	case "cpu-quota":
		number(&c.Limits.CPUQuota)
	case "cpu-period":
		number(&c.Limits.CPUPeriod)
	case "cpu-shares":
		number(&c.Limits.CPUShares)
	case "cpuset-cpus":
		c.Limits.CPUSetCPUs = value
	case "cpuset-mems":
		c.Limits.CPUSetMems = value
	case "cgroup-parent":
		c.CgroupParent = value
	case "restart-policy":
		c.Restart = value
	default:
		if name, ok := strings.CutPrefix(key, "env."); ok {
			c.Env = append(c.Env, name+"="+value)
		}
	}
	return err
}
