# Everything is built without cgo and without paths of this machine.
export CGO_ENABLED = 0
GOBUILD = go build -trimpath
FUZZTIME ?= 30s

# Packages with tests of real daemons.
integration = $(addprefix ./,$(sort $(dir $(shell git ls-files --cached --others --exclude-standard '*_test.go' | xargs grep -l '^//go:build integration'))))

# Where install puts things: root installs for all users, others for themselves.
# DESTDIR is put before every name, for packagers.
ROOT := $(filter 0,$(shell id -u))
PREFIX ?= $(if $(ROOT),/usr/local,$(HOME)/.local)
BINDIR ?= $(PREFIX)/bin
PLUGINDIR ?= $(if $(ROOT)$(DESTDIR),$(PREFIX)/lib/docker/cli-plugins,$(or $(DOCKER_CONFIG),$(HOME)/.docker)/cli-plugins)
DATADIR ?= $(PREFIX)/share
bash_completion = $(DATADIR)/bash-completion/completions/dbake
zsh_completion = $(DATADIR)/zsh/site-functions/_dbake
fish_completion = $(DATADIR)/fish/vendor_completions.d/dbake.fish

.NOTPARALLEL:
.PHONY: install uninstall build buildkitd bases demo test lint unit integration faults seeds race fuzz golden reference bench bench-peers bench-quick check release release-check clean install-deps

build: ## bin/dbake
	$(GOBUILD) -o bin/dbake ./cmd/dbake

install: build ## dbake, the plugin for "docker dbake", and completions: BINDIR, PLUGINDIR and DATADIR below PREFIX
	install -d $(foreach d,$(BINDIR) $(PLUGINDIR) $(dir $(bash_completion) $(zsh_completion) $(fish_completion)),"$(DESTDIR)$(d)")
	install -m 755 bin/dbake "$(DESTDIR)$(BINDIR)/dbake"
	ln -sf "$(BINDIR)/dbake" "$(DESTDIR)$(PLUGINDIR)/docker-dbake"
	bin/dbake completion bash > "$(DESTDIR)$(bash_completion)"
	bin/dbake completion zsh > "$(DESTDIR)$(zsh_completion)"
	bin/dbake completion fish > "$(DESTDIR)$(fish_completion)"

uninstall: ## remove what install has installed
	rm -f $(foreach f,$(BINDIR)/dbake $(PLUGINDIR)/docker-dbake $(bash_completion) $(zsh_completion) $(fish_completion),"$(DESTDIR)$(f)")

buildkitd: ## bin/buildkitd, of the version that go.mod names
	$(GOBUILD) -ldflags "-X github.com/moby/buildkit/version.Version=$$(go list -m -f '{{.Version}}' github.com/moby/buildkit)" -o bin/buildkitd github.com/moby/buildkit/cmd/buildkitd

bases: build buildkitd ## base images, on the cluster of the default state directory
	DBAKE=bin/dbake testdata/bases/build.sh --nodes local:1

demo: install-deps build buildkitd ## the whole path, on three local nodes
	scripts/demo.sh

test: lint unit integration ## everything that must pass

check: test ## what continuous integration runs

lint:
	@files=$$(git ls-files --cached --others --exclude-standard '*.go' | xargs -r ls -d 2>/dev/null | xargs -r gofmt -l) && \
	  if [ -n "$$files" ]; then echo "gofmt would change:"; echo "$$files"; exit 1; fi
	go vet -tags integration ./...
	go tool staticcheck -tags integration ./...
	go run ./scripts/survey -check

unit:
	go test ./...
	cd testdata/bakefiles/storefront && go vet ./... && go test ./...

integration: buildkitd ## with real daemons; one package at a time, as they share the machine
	@if [ "$$(uname -s)-$$(id -u)" = Linux-0 ]; then scripts/install-deps.sh --docker; fi # elsewhere these tests say why they do not run
	DBAKE_BUILDKITD=$(CURDIR)/bin/buildkitd go test -tags integration -p 1 -timeout 60m $(integration)

seeds: ## 10,000 seeded runs of the whole client on simulated nodes
	go test -timeout 300m ./runtime/simnode -run TestSeeds -args -seeds 10000

faults: buildkitd ## the standing fault suite: 66 runs on three nodes and a registry that misbehave
	DBAKE_BUILDKITD=$(CURDIR)/bin/buildkitd go test -tags integration -timeout 60m ./runtime/faults -run TestFaults -v -args -runs 66

race: ## all tests under the race detector; it needs cgo
	GORACE=suppressions=$(CURDIR)/scripts/race.suppressions CGO_ENABLED=1 go test -race -timeout 60m ./...

# Inputs are minimized for a little only: a minute for each, as by default, can take up all
# of the time.
fuzz: ## every fuzz test for FUZZTIME
	@git ls-files '*_test.go' | xargs grep -o '^func Fuzz[A-Za-z0-9_]*' | while IFS=: read -r file func; do \
	  echo "== $${func#func } in $$(dirname "$$file")"; \
	  go test -run '^$$' -fuzz "^$${func#func }$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s "./$$(dirname "$$file")" || exit 1; \
	done

golden: ## rewrite the golden files; look at the difference before committing it
	go test $$(git ls-files '*_test.go' | xargs grep -l 'flag.Bool("update"' | xargs -n1 dirname | sort -u | sed 's|^|./|') -update

reference: ## docs/reference.md from the command line itself, docs/schema from the types that are printed
	go run ./cmd/dbake reference > docs/reference.md
	go run ./scripts/schema

bench:
	go test -run '^$$' -bench . -benchmem ./...

bench-peers: install-deps build buildkitd ## dbake beside docker buildx bake (the binary BUILDX) and a queue of targets
	go run ./bench peers -readme bench/README.md -csv bench-peers.csv -json bench-peers.json -chart bench-peers.svg

bench-quick: install-deps build buildkitd ## the same in under ten minutes
	go run ./bench peers -quick

release: buildkitd ## dist/: archives, packages, an image, and their checksums, from the commit at hand
	scripts/release/release.sh

release-check: install-deps buildkitd ## the release twice, with equal checksums, and its package installed into an empty root
	scripts/release/check.sh

clean:
	rm -rf bin dist

install-deps: ## runc and busybox, where apt exists
	scripts/install-deps.sh
