package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/spf13/pflag"
)

// The docker command runs a plugin in one of three ways: with the name of a command
// that asks what it is; with the docker command's own arguments, in which the plugin's
// name follows the flags of docker; and with what completes a command line.
const (
	pluginName      = "dbake"
	pluginFile      = "docker-" + pluginName
	metadataCommand = "docker-cli-plugin-metadata"
	completeCommand = "__complete"

	// envPluginSocket is where docker says, by hanging up, that it is to stop.
	envPluginSocket = "DOCKER_CLI_PLUGIN_SOCKET"
)

// asks reports whether a command line asks about dbake, as docker and shells do.
func asks(args []string) bool {
	return len(args) > 0 && (args[0] == metadataCommand || args[0] == completeCommand)
}

// answerShell answers a question of docker or a shell.
func (a *app) answerShell(root *kong.Node, args []string) error {
	if args[0] == metadataCommand {
		return writePluginMetadata(a.stdout)
	}
	return complete(a, root, args[1:])
}

// writePluginMetadata describes the plugin to docker.
func writePluginMetadata(w io.Writer) error {
	return json.NewEncoder(w).Encode(struct{ SchemaVersion, Vendor, Version, ShortDescription, URL string }{
		"0.1.0", "dbake", readVersions().Dbake, "Build many images over several BuildKit nodes", "https://github.com/dbake/dbake",
	})
}

// pluginArgs returns the command line of dbake within one of the docker command, and
// applies the flags of docker to env. program is the name by which this process was called;
// args stay as they are unless docker called it.
func pluginArgs(program string, args []string, env map[string]string) ([]string, error) {
	if strings.TrimSuffix(filepath.Base(program), ".exe") != pluginFile {
		return args, nil
	}
	var g dockerFlags
	rest, err := g.parse(args)
	switch {
	case err != nil, len(rest) == 0:
		return args, nil // not by docker, which has checked its flags
	case rest[0] == pluginName:
		rest = rest[1:]
	case len(rest) > 1 && rest[0] == completeCommand && rest[1] == pluginName:
		rest = append([]string{completeCommand}, rest[2:]...)
	case len(rest) > 1 && rest[0] == "help" && rest[1] == pluginName:
		rest = append(rest[2:len(rest):len(rest)], "--help")
	default:
		return args, nil
	}
	if err := g.apply(env); err != nil {
		return nil, err
	}
	if g.debug || g.logLevel == "debug" {
		rest = append([]string{"--debug"}, rest...)
	}
	return rest, nil
}

// dockerVars are the variables that the flags of docker stand for.
var dockerVars = []string{
	"DOCKER_CONFIG", "DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS", "DOCKER_TLS_VERIFY",
	"DOCKER_TLS_CACERT", "DOCKER_TLS_CERT", "DOCKER_TLS_KEY",
}

// dockerFlags are the flags of the docker command itself.
type dockerFlags struct {
	config, context, logLevel    string
	hosts                        []string
	debug, tls, tlsVerify        bool
	tlsCACert, tlsCert, tlsKey   string
	tlsGiven, verifyGiven        bool
	contextGiven, hostGiven, ver bool
}

// parse reads the flags at the start of args and returns what follows them.
func (g *dockerFlags) parse(args []string) (rest []string, err error) {
	set := pflag.NewFlagSet("docker", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.SetInterspersed(false)
	set.StringVar(&g.config, "config", "", "")
	set.StringVarP(&g.context, "context", "c", "", "")
	set.BoolVarP(&g.debug, "debug", "D", false, "")
	set.StringArrayVarP(&g.hosts, "host", "H", nil, "")
	set.StringVarP(&g.logLevel, "log-level", "l", "", "")
	set.BoolVar(&g.tls, "tls", false, "")
	set.BoolVar(&g.tlsVerify, "tlsverify", false, "")
	set.StringVar(&g.tlsCACert, "tlscacert", "", "")
	set.StringVar(&g.tlsCert, "tlscert", "", "")
	set.StringVar(&g.tlsKey, "tlskey", "", "")
	set.BoolVarP(&g.ver, "version", "v", false, "")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	g.tlsGiven, g.verifyGiven = set.Changed("tls"), set.Changed("tlsverify")
	g.contextGiven, g.hostGiven = set.Changed("context"), set.Changed("host")
	return set.Args(), nil
}

// apply writes the flags into the environment, where all readers of the Docker engine's
// address and configuration look.
func (g *dockerFlags) apply(env map[string]string) error {
	if g.config != "" {
		env["DOCKER_CONFIG"] = g.config
	}
	switch {
	case g.contextGiven && g.hostGiven:
		return usageError{errors.New("conflicting options: cannot specify both --host and --context")}
	case g.contextGiven:
		env["DOCKER_CONTEXT"] = g.context
		delete(env, "DOCKER_HOST")
	case len(g.hosts) > 1:
		return usageError{errors.New("specify only one --host")}
	case g.hostGiven:
		env["DOCKER_HOST"] = g.hosts[0]
		delete(env, "DOCKER_CONTEXT")
	}
	for name, given := range map[string]*bool{"DOCKER_TLS": only(g.tlsGiven, &g.tls), "DOCKER_TLS_VERIFY": only(g.verifyGiven, &g.tlsVerify)} {
		switch {
		case given == nil:
		case *given:
			env[name] = "1"
		default:
			delete(env, name)
		}
	}
	for name, file := range map[string]string{"DOCKER_TLS_CACERT": g.tlsCACert, "DOCKER_TLS_CERT": g.tlsCert, "DOCKER_TLS_KEY": g.tlsKey} {
		if file != "" {
			env[name] = file
		}
	}
	return nil
}

func only(given bool, v *bool) *bool {
	if given {
		return v
	}
	return nil
}

// hangups returns a channel that is closed when the docker command that runs this plugin is
// to stop: away from a terminal, no signal reaches the plugin. It is nil when no docker
// command that offers a socket runs it. release ends the watch and waits for it.
func hangups(env map[string]string) (hangup <-chan struct{}, release func()) {
	addr := env[envPluginSocket]
	if addr == "" {
		return nil, func() {}
	}
	conn, err := net.Dial("unix", addr)
	if err != nil {
		return nil, func() {} // the variable outlived that command
	}
	gone, watched, released := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		buf := make([]byte, 1)
		for {
			if _, err := conn.Read(buf); err != nil {
				break
			}
		}
		select {
		case <-released:
		default:
			close(gone)
		}
	}()
	return gone, func() {
		close(released)
		_ = conn.Close() // nothing is written to it
		<-watched
	}
}
