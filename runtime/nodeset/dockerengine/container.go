package dockerengine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Container is a container that runs BuildKit, as docker buildx makes one for a node of
// its docker-container driver.
type Container struct {
	Name  string
	Image string
	// Cmd are the arguments of buildkitd, Env its variables as NAME=VALUE.
	Cmd, Env []string
	// Files are put into the container, by absolute name.
	Files map[string][]byte
	// Volume is what keeps the state in StateDir.
	Volume string
	// Limits and Network are those of the container; the zero value is docker's default.
	Limits  Limits
	Network string
	// CgroupParent is where an engine with cgroupfs puts it.
	CgroupParent string
	// Restart is when the engine starts it again, as "unless-stopped".
	Restart string
}

// Limits are what a container may use.
type Limits struct {
	Memory, MemorySwap             int64 // bytes
	CPUQuota, CPUPeriod, CPUShares int64
	CPUSetCPUs, CPUSetMems         string
}

// StateDir is where BuildKit keeps its state in a container.
const StateDir = "/var/lib/buildkit"

// Boot runs a container: it starts a stopped one and makes a missing one, for which it
// pulls the image. notice takes remarks on the progress. BuildKit in it may not answer yet.
func (e *Engine) Boot(ctx context.Context, c Container, notice func(string)) error {
	var found struct {
		State struct{ Running, Paused bool }
	}
	err := e.get(ctx, "/containers/"+url.PathEscape(c.Name)+"/json", &found)
	switch {
	case err == nil && found.State.Paused:
		return fmt.Errorf("container %s is paused: docker unpause %s", c.Name, c.Name)
	case err == nil && found.State.Running:
		return nil
	case IsNotFound(err):
		if err := e.create(ctx, c, notice); err != nil {
			return fmt.Errorf("create container %s: %w", c.Name, err)
		}
	case err != nil:
		return err
	}
	notice("starting container " + c.Name)
	if err := e.post(ctx, "/containers/"+url.PathEscape(c.Name)+"/start", nil, nil); err != nil {
		return fmt.Errorf("start container %s: %w", c.Name, err)
	}
	return nil
}

// create makes a container that does not run yet.
func (e *Engine) create(ctx context.Context, c Container, notice func(string)) error {
	notice("pulling image " + c.Image)
	pullErr := e.Pull(ctx, c.Image)
	var image struct{ ID string }
	if err := e.get(ctx, "/images/"+c.Image+"/json", &image); err != nil {
		return errors.Join(pullErr, err)
	}
	info, err := e.Info(ctx)
	if err != nil {
		return err
	}
	type object = map[string]any
	host := object{
		"Privileged": true, "Init": true,
		"RestartPolicy": object{"Name": c.Restart},
		"Mounts":        []object{{"Type": "volume", "Source": c.Volume, "Target": StateDir}},
		"Memory":        c.Limits.Memory, "MemorySwap": c.Limits.MemorySwap,
		"CpuQuota": c.Limits.CPUQuota, "CpuPeriod": c.Limits.CPUPeriod, "CpuShares": c.Limits.CPUShares,
		"CpusetCpus": c.Limits.CPUSetCPUs, "CpusetMems": c.Limits.CPUSetMems,
	}
	if c.Network != "" {
		host["NetworkMode"] = c.Network
	}
	if info.CgroupDriver == "cgroupfs" {
		host["CgroupParent"] = c.CgroupParent
	}
	if slices.ContainsFunc(info.SecurityOptions, func(s string) bool { return strings.HasPrefix(s, "name=userns") }) {
		host["UsernsMode"] = "host"
	}
	notice("creating container " + c.Name)
	err = e.post(ctx, "/containers/create?"+url.Values{"name": {c.Name}}.Encode(), object{
		"Image": c.Image, "Env": c.Env, "Cmd": c.Cmd, "HostConfig": host,
	}, nil)
	var status *StatusError
	if errors.As(err, &status) && status.Code == http.StatusConflict {
		return nil // somebody else made it at the same moment
	}
	if err != nil || len(c.Files) == 0 {
		return err
	}
	return e.copyTo(ctx, c)
}

// copyTo puts the files of a container into it.
func (e *Engine) copyTo(ctx context.Context, c Container) error {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	made := map[string]bool{"/": true}
	var names []string
	for name := range c.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		var dirs []string
		for dir := path.Dir(name); !made[dir]; dir = path.Dir(dir) {
			made[dir] = true
			dirs = append(dirs, dir)
		}
		for _, dir := range slices.Backward(dirs) {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o700}); err != nil {
				return err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name[1:], Mode: 0o644, Size: int64(len(c.Files[name]))}); err != nil {
			return err
		}
		if _, err := w.Write(c.Files[name]); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	resp, err := e.do(ctx, http.MethodPut, "/containers/"+url.PathEscape(c.Name)+"/archive?path=/", &archive, http.Header{"Content-Type": {"application/x-tar"}})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
