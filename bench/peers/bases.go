package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/dbake/dbake/bench/real"
)

// manifestType is the type of the base images' manifests.
const manifestType = "application/vnd.oci.image.manifest.v1+json"

// bases is the registry with the base images, which all arenas share. It stands for
// Docker Hub.
type bases struct {
	registry *registry
}

// openBases makes the base images that projects ask for, with dbake on a node of
// their own.
func openBases(ctx context.Context, dir, source, dbake string, programs programs, projects []project) (_ *bases, err error) {
	b := &bases{}
	if b.registry, err = newRegistry(ctx, filepath.Join(dir, "bases")); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.registry.close())
		}
	}()
	n := &node{name: "bases", dir: filepath.Join(dir, "bases-node")}
	if err := n.start(ctx, programs, b.registry.addr, os.DevNull); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.close(), os.RemoveAll(n.dir)) }()
	host, err := real.HostEnv(ctx)
	if err != nil {
		return nil, err
	}
	var env []string
	for k, v := range host {
		env = append(env, k+"="+v)
	}
	names := map[string]bool{}
	for _, p := range projects {
		for _, name := range p.bases {
			names[name] = true
		}
	}
	args := []string{"build", "--progress", "plain", "--history", "none", "--nodes", "bases=" + n.addr}
	for _, dir := range []string{host["BUSYBOX_DIR"], host["GOROOT"]} {
		args = append(args, "--allow", "fs.read="+dir)
	}
	build := func(args ...string) error {
		cmd := exec.CommandContext(ctx, dbake, args...)
		cmd.Dir = source
		cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+filepath.Join(dir, "bases-home"), "DBAKE_REGISTRY="+b.registry.addr)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("make the base images: %w\n%s", err, out)
		}
		return nil
	}
	next := []string{"--set", "busybox.labels.next=1", "--set", "busybox.tags=" + b.registry.addr + "/library/busybox:next", "busybox"}
	if err := build(append(args, next...)...); err != nil {
		return nil, err
	}
	for name := range names {
		args = append(args, name)
	}
	if err := build(args...); err != nil {
		return nil, err
	}
	return b, b.copyTag(ctx, "1", "first")
}

// reset gives the busybox image its first content.
func (b *bases) reset(ctx context.Context) error { return b.copyTag(ctx, "first", "1") }

// replace gives the busybox image other content under the same tag.
func (b *bases) replace(ctx context.Context) error { return b.copyTag(ctx, "next", "1") }

// copyTag lets the tag to of the busybox image be what from is.
func (b *bases) copyTag(ctx context.Context, from, to string) error {
	url := "http://" + b.registry.addr + "/v2/library/busybox/manifests/"
	manifest, err := request(ctx, http.MethodGet, url+from, nil)
	if err != nil {
		return err
	}
	_, err = request(ctx, http.MethodPut, url+to, manifest)
	return err
}

// request sends a request for a manifest and returns the body of the answer.
func request(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", manifestType)
	req.Header.Set("Content-Type", manifestType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return text, err
}
