// Package dockerconfig is the Docker configuration of a user: config.json with logins,
// proxies and the docker context in use, and the contexts beside it. It reads them with
// docker's own packages.
//
// A command has one [Config]. It reads each file once, when it is first needed. A caller
// that cannot do without the configuration gets an error that names the file; one that can
// takes [Config.Optional], which warns once.
package dockerconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/context"
	"github.com/docker/cli/cli/context/store"
)

// DefaultContext is the docker context that is not stored.
const DefaultContext = "default"

// Config is the configuration that an environment names. It is safe for concurrent use.
type Config struct {
	env  map[string]string
	dir  string
	read func() (*configfile.ConfigFile, error)
	warn func()
}

// New returns the configuration that env names, and reads nothing. warn takes errors about
// a configuration that is optional; nil drops them.
func New(env map[string]string, warn func(error)) *Config {
	c := &Config{env: env, dir: env["DOCKER_CONFIG"]}
	home := env["HOME"]
	if home == "" {
		home = env["USERPROFILE"]
	}
	if c.dir == "" && home != "" {
		c.dir = filepath.Join(home, ".docker")
	}
	c.read = sync.OnceValues(c.load)
	c.warn = sync.OnceFunc(func() {
		if _, err := c.read(); err != nil && warn != nil {
			warn(err)
		}
	})
	return c
}

// Env is the environment.
func (c *Config) Env() map[string]string { return c.env }

// Dir is the directory of the configuration, "" when the environment names none.
func (c *Config) Dir() string { return c.dir }

// load reads config.json; without one the configuration is empty.
func (c *Config) load() (*configfile.ConfigFile, error) {
	name := filepath.Join(c.dir, config.ConfigFileName)
	file := configfile.New(name)
	if c.dir == "" {
		return file, nil
	}
	err := checkRegular(name)
	if err == nil {
		var r *os.File
		if r, err = os.Open(name); err == nil {
			err = errors.Join(file.LoadFromReader(r), r.Close())
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if !file.ContainsAuth() {
		// As docker does: the keychain of the system, if its helper is installed.
		file.CredentialsStore = credentials.DetectDefaultStore(file.CredentialsStore)
	}
	return file, nil
}

// checkRegular refuses files that a reader would wait for, such as pipes.
func checkRegular(name string) error {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	return err
}

// File is config.json, empty when there is none. Its maps are shared: nobody changes them.
func (c *Config) File() (*configfile.ConfigFile, error) { return c.read() }

// Optional is File for callers that can do without: a file that cannot be read counts as
// empty, and the user is warned once.
func (c *Config) Optional() *configfile.ConfigFile {
	file, err := c.read()
	if err != nil {
		c.warn()
		return configfile.New("")
	}
	return file
}

// Helper is the program that file names for the credentials of a registry, "" when they are
// in file itself. The registry is given by the key of its credentials in file.
func Helper(file *configfile.ConfigFile, registry string) string {
	name, ok := file.CredentialHelpers[registry]
	if !ok {
		name = file.CredentialsStore
	}
	if name == "" {
		return ""
	}
	return "docker-credential-" + name
}

// ContextName is the docker context in use: that of $DOCKER_CONTEXT, else that of
// config.json; "" is the default one.
func (c *Config) ContextName() (string, error) {
	name := c.env["DOCKER_CONTEXT"]
	if name == "" {
		file, err := c.read()
		if err != nil {
			return "", err
		}
		name = file.CurrentContext
	}
	if name == DefaultContext {
		name = ""
	}
	return name, nil
}

// ProxyArgs are the build args by which steps reach the network: the proxies for the
// engine at host, or those for all. There are none where the configuration cannot be read.
func (c *Config) ProxyArgs(host string) map[string]string {
	proxies := c.Optional().Proxies
	p, ok := proxies[host]
	if !ok {
		p = proxies["default"]
	}
	args := map[string]string{}
	for name, value := range map[string]string{"HTTP_PROXY": p.HTTPProxy, "HTTPS_PROXY": p.HTTPSProxy, "NO_PROXY": p.NoProxy, "FTP_PROXY": p.FTPProxy} {
		if value != "" {
			args[name] = value
		}
	}
	return args
}

// PluginDirs are where docker looks for plugins of this user, in its order.
func (c *Config) PluginDirs() []string {
	if c.dir == "" {
		return nil
	}
	return append(slices.Clone(c.Optional().CLIPluginsExtraDirs), filepath.Join(c.dir, "cli-plugins"))
}

// Context is a stored docker context: where its engine is, and the files of its TLS, ""
// where it has none.
type Context struct {
	Host              string
	SkipVerify        bool
	CACert, Cert, Key string
}

// endpoint is the name of the engine's endpoint in contexts.
const endpoint = "docker"

func (c *Config) contexts() *store.ContextStore {
	return store.New(filepath.Join(c.dir, "contexts"), store.NewConfig(
		func() any { return &map[string]any{} },
		store.EndpointTypeGetter(endpoint, func() any { return &context.EndpointMetaBase{} }),
	))
}

// metadataFile is where a context is stored. "" is nowhere.
func (c *Config) metadataFile(name string) string {
	if c.dir == "" || store.ValidateContextName(name) != nil {
		return ""
	}
	return filepath.Join(c.contexts().GetStorageInfo(name).MetadataPath, "meta.json")
}

// HasContext reports whether there is a docker context of that name.
func (c *Config) HasContext(name string) bool {
	if name == DefaultContext {
		return true
	}
	file := c.metadataFile(name)
	if file == "" {
		return false
	}
	_, err := os.Stat(file)
	return err == nil
}

// ContextNames are the names of the stored contexts. What cannot be read is left out.
func (c *Config) ContextNames() []string {
	if c.dir == "" {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(c.dir, "contexts", "meta", "*", "meta.json")) // the pattern is well formed
	var names []string
	for _, file := range files {
		if checkRegular(file) != nil {
			continue
		}
		var meta struct{ Name string }
		if data, err := os.ReadFile(file); err == nil && json.Unmarshal(data, &meta) == nil && meta.Name != "" {
			names = append(names, meta.Name)
		}
	}
	return names
}

// Context returns a stored context.
func (c *Config) Context(name string) (Context, error) {
	file := c.metadataFile(name)
	if file == "" {
		return Context{}, fmt.Errorf("docker context %s: not found", name)
	}
	if err := checkRegular(file); err != nil {
		return Context{}, fmt.Errorf("docker context %s: read %s: %w", name, file, err)
	}
	contexts := c.contexts()
	meta, err := contexts.GetMetadata(name)
	if err != nil {
		return Context{}, fmt.Errorf("docker context %s: %w", name, err)
	}
	var found Context
	if at, ok := meta.Endpoints[endpoint].(context.EndpointMetaBase); ok {
		found.Host, found.SkipVerify = at.Host, at.SkipTLSVerify
	}
	files, err := contexts.ListTLSFiles(name)
	if err != nil {
		return Context{}, fmt.Errorf("docker context %s: %w", name, err)
	}
	dir := filepath.Join(contexts.GetStorageInfo(name).TLSPath, endpoint)
	for _, tls := range files[endpoint] {
		switch tls {
		case "ca.pem":
			found.CACert = filepath.Join(dir, tls)
		case "cert.pem":
			found.Cert = filepath.Join(dir, tls)
		case "key.pem":
			found.Key = filepath.Join(dir, tls)
		}
	}
	return found, nil
}
