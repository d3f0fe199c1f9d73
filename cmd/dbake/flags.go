package main

import (
	"time"

	"github.com/dbake/dbake/internal/engine"
)

// definitionFlags choose what is built: the files, the targets and their overrides. They
// are those of "docker buildx bake".
type definitionFlags struct {
	Targets []string `arg:"" optional:"" name:"target" help:"Targets, groups or patterns to build; \"default\" when there are none. A Git or HTTP URL before them is where the definition is read from. To build a plan saved as JSON, its file alone."`

	File       []string `short:"f" sep:"none" placeholder:"FILE" help:"Build definition: Bake HCL or JSON, or a compose file; - is standard input. Repeatable."`
	Set        []string `sep:"none" placeholder:"TARGET.KEY=VALUE" help:"Override a value of the targets that match, for example \"*.platform=linux/arm64\" or \"web.tags+=x:1\". Repeatable."`
	Var        []string `sep:"none" placeholder:"NAME=VALUE" help:"Set a variable of the definition. Repeatable."`
	NoCache    *bool    `help:"Run every step again, without the cache."`
	Pull       *bool    `help:"Ask the registry for every base image again."`
	Call       string   `placeholder:"METHOD" help:"Ask about the Dockerfiles instead of building: check, outline or targets; METHOD,format=json for JSON, METHOD,ignorestatus=true to exit with 0 whatever the answer."`
	Check      bool     `help:"Same as --call=check."`
	SBOM       string   `name:"sbom" placeholder:"VALUE" help:"Same as --set \"*.attest=type=sbom\"."`
	Provenance string   `placeholder:"VALUE" help:"Same as --set \"*.attest=type=provenance\"."`
	Policy     []string `sep:"none" placeholder:"OPTION" help:"Source policy options, as docker buildx bake takes them; policies are printed but not evaluated, so a build takes disabled=true only."`
	Allow      []string `sep:"none" placeholder:"ENTITLEMENT" help:"Grant what a build asks for: network.host, security.insecure, device, ssh, fs=PATH, fs.read=PATH, fs.write=PATH, buildx.local.delete. PATH may be *. Repeatable."`
	Push       bool     `help:"Push every image to its registry."`
	Load       bool     `help:"Load every image into the local Docker engine."`

	Strict   strictness `placeholder:"off|warn|error" help:"Report what bake accepts in silence: unknown attributes, blocks and keys of compose files, unused variables, values of --var that nobody asks for, versions that lose a zero, cache refs and tags written twice. With --strict=error they are errors."`
	Exclude  []string   `placeholder:"NAME" help:"Leave these targets out."`
	WithDeps bool       `help:"Build also what the targets read or depend on, by depends_on of compose files too."`
	Gate     []string   `sep:"none" placeholder:"TARGET=TEST,..." help:"Publish TARGET only if these tests succeed: targets that are built with it, and write nothing unless they are asked for themselves. Names of targets or groups, or patterns. Repeatable; files say it with gates."`
	// saved is set when the flags come from a plan, and so grant nothing.
	saved bool
	// deferFaults makes a missing input an error of its target only.
	deferFaults bool
	// moment is the state of the files and the environment that the definition sees; nil is
	// the present one.
	moment *engine.Moment

	Profile []string `placeholder:"NAME" help:"Of compose services that have profiles, take only those of these profiles. Repeatable."`
}

// nodeChoice says which nodes build.
type nodeChoice struct {
	Nodes     []string `sep:"none" placeholder:"ADDR" help:"A BuildKit node: local:N starts N daemons on this machine; tcp://HOST:PORT, unix://PATH, ssh://HOST and others are nodes elsewhere. NAME=ADDR,speed=2,slots=4 names it and says how fast it is and how many steps it is given at once (default: all it can start). Repeatable."`
	Builder   string   `placeholder:"NAME" help:"Use the nodes of this buildx builder ($BUILDX_BUILDER)."`
	Platform  []string `placeholder:"PLATFORM" help:"Build on nodes of this platform only, and for it where a target names none. Repeatable, or separated by commas."`
	MaxNodes  int      `placeholder:"N" help:"Use at most N of the nodes: the fastest, and of equal ones the first."`
	StateDir  string   `placeholder:"DIR" help:"Where local nodes and the local registry keep their state (default: dbake in the user's data directory)."`
	Buildkitd string   `placeholder:"FILE" help:"The buildkitd to start local nodes with (default: beside dbake, then on PATH)."`
}

// nodeFlags say which nodes build, and how long they are waited for.
type nodeFlags struct {
	nodeChoice

	Expect      []string      `sep:"none" placeholder:"N@TIME" help:"N of the nodes that do not answer yet are expected TIME after the start, as 3@20s: the plan has work for them from then on. Nodes that came late before are expected again as they came. Repeatable."`
	NodeTimeout time.Duration `default:"10s" placeholder:"TIME" help:"How long a node may give no sign of life although it is asked, before its work goes to others."`
}

// planFlags say how the work is divided.
type planFlags struct {
	Strategy      string     `default:"affinity" placeholder:"NAME" help:"How targets are given to nodes: ${strategies}."`
	PlanBudget    planBudget `placeholder:"N|TIME" help:"How long to search for a better plan: a number of tasks to schedule (the same plan on every machine; default 12000000, under a second), or a time, such as 2s."`
	Duplicates    string     `placeholder:"RULE" help:"Which steps that targets share several nodes may execute: reproducible (the default) only those that do the same everywhere, such as COPY, so that an image stands on the layers that were pushed; never none; any where that ends sooner."`
	History       string     `placeholder:"FILE" help:"Where measured costs of steps are kept; none keeps nothing (default: in the user's cache directory)."`
	Reuse         string     `default:"auto" enum:"auto,always,never" help:"When a pushed image that is made of the same inputs is kept, so that its target needs no node: auto, when only times in attestations would differ; always, even if attestations would differ in other ways; never."`
	CacheRegistry []string   `sep:"none" placeholder:"REF" help:"Repository through which the nodes share results: HOST[:PORT], HOST[:PORT]/NAME or ref=NAME. REF,ATTR=VALUE: insecure=true for a registry over plain HTTP, bases=true to have base images from it, copied there once, ignore-error=false to fail when a cache cannot be written, mode, compression, compression-level and force-compression as of docker buildx. Repeatable: all are read and written; what nodes send to each other goes through the first."`
}
