# Every target works from a clean clone and may be repeated.
#   make run    a pod on this machine, until Ctrl-C     make test    all tests
#   make build  bin/berthd bin/berth-shim bin/berth     make lint    the house rules
#   make test-vm   tests in a Debian 13 guest with systemd and cgroup v2
#   make test-arm64   a pod of the arm64 build on an emulated arm64 machine
#   make unit   the tests that make no pods
#   make attack | critest | bench | churn | soak | house | fmt | clean | install
SHELL   := /bin/bash
GO      ?= go
export PATH := $(PATH):/usr/local/go/bin
VERSION ?= $(shell hack/version.sh)
LDFLAGS := -s -w -X main.version=$(VERSION)
BUILD   := $(GO) build -buildvcs=false -trimpath -ldflags "$(LDFLAGS)"
# Of libcontainer: with seccomp, without checkpoints, which would need another program.
TAGS    := seccomp,runc_nocriu
TEST    := $(GO) test -buildvcs=false -tags $(TAGS)
PREFIX  ?= /usr/local
# Where the programs are built; tests of upgrades have several builds.
BIN     ?= bin

.PHONY: all build static cni crictl shims shims-runc peers deps deps-test older run test unit test-vm test-arm64 attack critest bench bench-pull churn crash house lint fmt clean install deb debs archive release cross alerts go-is-here tools
.NOTPARALLEL: # packages are installed before they are used; go build is parallel by itself
all: build

go-is-here:
	@hack/deps.sh go

tools:
	@hack/deps.sh go build

# Only the shims link C (libseccomp, through libcontainer). They are static: each container and
# exec executes the shim, which has no libraries to find and to map then.
build: tools static
	CGO_ENABLED=0 $(BUILD) -tags nri_no_wasm -o $(BIN)/ ./cmd/berthd ./cmd/berth
	CGO_ENABLED=1 $(GO) build -buildvcs=false -trimpath -ldflags "$(LDFLAGS) -linkmode external -extldflags -static" \
		-tags $(TAGS),osusergo,netgo -o $(BIN)/ ./cmd/berth-shim ./cmd/berth-shim-v2

# The programs without libc: pause and init.
static:
	@hack/build-static.sh

# CNI plugins, pinned by hack/tools/go.mod and its go.sum.
cni: go-is-here
	@mkdir -p bin/cni
	@CGO_ENABLED=0 $(GO) -C hack/tools build -buildvcs=false -trimpath -ldflags "-s -w" -o "$(CURDIR)/bin/cni/" tool

# crictl, with which the tests of the pages do what these say.
crictl: go-is-here
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) -C hack/tools/crictl build -buildvcs=false -trimpath -ldflags "-s -w" -o "$(CURDIR)/bin/" tool

# Other runtimes, for the tests of runtime classes: containerd's shim with runc, and gVisor,
# whose compilation takes minutes.
shims: tools
	@GO="$(GO)" hack/shims.sh gvisor

# Of the tests of CI: without gVisor, which takes minutes to build.
shims-runc: tools
	@GO="$(GO)" hack/shims.sh

# containerd with runc, which the bench runs beside berth.
peers: tools
	@GO="$(GO)" hack/shims.sh peers

deps:
	@hack/deps.sh go build run

deps-test: deps
	@hack/deps.sh test

run: deps build cni
	@CGO_ENABLED=0 $(BUILD) -o bin/ ./hack/demo
	@hack/run.sh

# Older releases, which the test of upgrades starts from: the first that is to be upgraded
# from, and the last before each change of the wire or the records.
OLDER := e6e2f7b 16b5588
older: tools
	@hack/older.sh $(OLDER)

# Packages one after the other: several of them look at what the whole machine
# has (mounts, links, cgroups) before and after.
test: deps-test build cni crictl older shims-runc
	@$(TEST) -c -o /dev/null ./... >/dev/null
	$(TEST) -p 1 -timeout 40m ./...
	$(GO) -C hack/house test -buildvcs=false ./...

# Packages whose tests start no daemon and no pod; most of them need no root.
unit: tools static
	$(TEST) ./oci ./sandbox/... ./cri/... ./cni ./image/... ./server/... ./cmd/...

# The crash tests of `make test` and those that take long or kill at random, with so many
# losses of power on each file system. The end is a table of what was killed where.
CUTS ?= 1000
crash: deps-test build cni older
	cd test/crash && BERTH_SOAK=1 $(TEST) -count=1 -timeout 2h -cuts $(CUTS)

# Random calls of many clients against a model of what must be so, without kills, under
# kills of programs built with -race, and with probes; test/soak/doc.go tells of SOAK.
soak: deps build cni
	@mkdir -p bin/race
	CGO_ENABLED=1 $(GO) build -race -buildvcs=false -trimpath -tags nri_no_wasm -o bin/race/ ./cmd/berthd
	CGO_ENABLED=1 $(GO) build -race -buildvcs=false -trimpath -tags $(TAGS) -o bin/race/ ./cmd/berth-shim
	$(GO) run -buildvcs=false ./test/soak -race bin/race $(SOAK)

# What a hostile tenant tries, as a table of what held; test/attack/doc.go tells how
# to run it on a machine without Go.
attack: deps build cni
	@$(GO) run -buildvcs=false ./test/attack

# In a virtual machine with systemd and cgroup v2; test/vm/doc.go tells of SUITES and RUN.
SUITES ?= integration scenarios attack critest
test-vm: deps build cni
	@hack/deps.sh vm
	@CGO_ENABLED=0 $(BUILD) -o bin/test-vm ./test/vm
	bin/test-vm -suites "$(SUITES)" -run '$(value RUN)' -node "$(NODE)" -peer "$(PEER)" $(VMFLAGS)

critest: deps build cni
	test/critest/run.sh

bench bench-pull: deps build cni peers
	$(if $(filter bench,$@),$(GO) -C test/streams build -buildvcs=false -trimpath -o ../../bin/streams-client ./client)
	$(GO) run -buildvcs=false ./test/bench $(if $(filter bench-pull,$@),pull)

churn: deps build
	$(GO) run -buildvcs=false ./test/churn

bin/golangci-lint: hack/tools/lint/go.mod hack/tools/lint/go.sum
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) -C hack/tools/lint build -buildvcs=false -trimpath -ldflags "-s -w" -o "$(CURDIR)/bin/" tool
	@touch $@

# Figures about the source: sizes, shapes, tests and how deep the calls are.
house: tools static
	@$(GO) -C hack/house run -buildvcs=false . -root ../.. -tags $(TAGS)

lint: tools static bin/golangci-lint
	bin/golangci-lint run ./...

fmt: go-is-here bin/golangci-lint
	bin/golangci-lint fmt ./...

install: build
	install -D -t $(DESTDIR)$(PREFIX)/bin bin/berthd bin/berth-shim bin/berth-shim-v2 bin/berth
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system hack/berthd.service

# A Debian package in bin/dist, and archives of the programs with checksums and an SBOM.
deb: build
	@hack/deb.sh $(VERSION) "" $(BIN)

archive: build
	@hack/release.sh $(VERSION)

# For amd64 and arm64, which an amd64 machine builds by Debian's cross compiler.
release: archive cross
	@[ ! -d bin/linux_arm64 ] || hack/release.sh $(VERSION) arm64 bin/linux_arm64

cross: tools
	@[ "$$($(GO) env GOHOSTARCH)" != amd64 ] || GO="$(GO)" VERSION="$(VERSION)" hack/cross.sh arm64

# A pod of the arm64 build on an arm64 machine that QEMU emulates: minutes.
test-arm64: cross
	@hack/deps.sh arm64
	@GO="$(GO)" hack/arm64.sh

# Two packages of this tree, whose later one upgrades the earlier, for tests in bin/life.
debs: tools static
	@DEB_COMPRESSION="-Zgzip -z1" $(MAKE) -s deb VERSION=1.0.0-rc.1 BIN=bin/life/older
	@DEB_COMPRESSION="-Zgzip -z1" $(MAKE) -s deb VERSION=1.0.0 BIN=bin/life/newer
	@mv bin/dist/berth_1.0.0~rc.1_*.deb bin/dist/berth_1.0.0_*.deb bin/life/

# Each alert of hack/monitoring fires when it is provoked: by Prometheus's code, which is a
# module of its own, larger than berth.
alerts: go-is-here
	$(GO) -C test/alerts test ./...

clean:
	rm -rf bin oci/shim/pause/pause_*.bin oci/tinyinit/init_*.bin
