package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// proxyArgs are the build args by which steps reach the network: the proxies that
// the user's docker configuration names for the engine in use, or for all.
func (d userDocker) proxyArgs() map[string]string {
	dir := dockerengine.ConfigDir(d.env)
	if dir == "" {
		return nil
	}
	type proxy struct {
		HTTP  string `json:"httpProxy"`
		HTTPS string `json:"httpsProxy"`
		No    string `json:"noProxy"`
		FTP   string `json:"ftpProxy"`
	}
	var config struct {
		Proxies map[string]proxy `json:"proxies"`
	}
	if err := dockerengine.ReadJSON(filepath.Join(dir, "config.json"), &config); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			d.progress.Warn(fmt.Sprintf("the Docker configuration cannot be used, so that registries are asked without credentials and steps get no proxies of it: %v", err))
		}
		return nil
	}
	p := config.Proxies["default"]
	if at, err := dockerengine.FromEnv(d.env); err == nil { // else those for all are as good a guess
		if of, ok := config.Proxies[at.Host]; ok {
			p = of
		}
	}
	args := map[string]string{}
	for name, value := range map[string]string{"HTTP_PROXY": p.HTTP, "HTTPS_PROXY": p.HTTPS, "NO_PROXY": p.No, "FTP_PROXY": p.FTP} {
		if value != "" {
			args[name] = value
		}
	}
	return args
}
