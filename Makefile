# Spillway. `make help` lists what there is.

MODULES   := schemas service redirector ingest rollup profileapi standalone bench
PACKAGES  := $(MODULES:%=./%/...)
TOOLS     := $(CURDIR)/.build/tools
GOLANGCI  := $(TOOLS)/golangci-lint
S3SERVER  := $(TOOLS)/versitygw
PGO       ?= off
VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)

BUF_VERSION           := v1.75.0
PROTOC_GEN_GO_VERSION := v1.36.12
VTPROTO_VERSION       := v0.6.0
GOLANGCI_VERSION      := v2.15.0
GOVULNCHECK_VERSION   := v1.1.4
K6_VERSION            := v1.8.1
VERSITYGW_VERSION     := v1.8.0

export SPILLWAY_BIN := $(CURDIR)/bin/spillway

.PHONY: help
help: ## List the targets
	@[ -t 1 ] && bold=$$(printf '\033[1m') plain=$$(printf '\033[0m'); \
	awk -F ':.*## ' -v b="$$bold" -v p="$$plain" '/^[a-z0-9-]+:.*## / {printf "  %smake %-16s%s %s\n", b, $$1, p, $$2}' $(MAKEFILE_LIST)

.PHONY: check
check: # What everything below needs; says what to install
	@command -v go >/dev/null || { echo "Go 1.26 or newer is missing: install it from your package manager or go.dev/dl" >&2; exit 1; }
	@v=$$(go env GOVERSION | sed 's/^go//'); case "$$v" in 1.2[6-9]*|1.[3-9][0-9]*|[2-9].*) ;; *) echo "Go 1.26 or newer is needed, this is $$v" >&2; exit 1;; esac

.PHONY: setup
setup: check ## Fetch the embedded engines (ClickHouse and PostgreSQL, pinned and verified)
	@standalone/engines/setup

.PHONY: build
build: check ## Build bin/spillway
	@mkdir -p bin
	@CGO_ENABLED=0 go build -pgo=$(PGO) -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/spillway ./standalone/cmd/spillway

.PHONY: run
run: setup build ## Start everything on embedded engines with a demo profile, until Ctrl-C
	@exec bin/spillway run

.PHONY: test
test: setup build generated $(S3SERVER) ## Run every test: unit, integration on embedded engines, end to end
	go test -timeout 10m $(PACKAGES)

.PHONY: race
race: setup build ## Run the tests of what is concurrent under the race detector
	@command -v cc >/dev/null || { echo "a C compiler is missing, which Go's race detector needs: install gcc or clang" >&2; exit 1; }
	CGO_ENABLED=1 go test -race -timeout 10m ./schemas/event ./service/lifecycle ./service/admin ./redirector/journal/... ./redirector/shipper ./redirector/directory ./ingest/presence ./ingest/columns ./ingest/group ./ingest/partition

.PHONY: chaos
chaos: setup build ## Break everything under load and write docs/reliability.md (some 25 minutes; root for the full disks)
	go run ./bench/cmd/chaos --report docs/reliability.md

.PHONY: chaos-short
chaos-short: setup build ## The most telling faults only, in a minute and a half
	go run ./bench/cmd/chaos --short

KAFKA_NODES ?= 1 3
.PHONY: test-kafka
test-kafka: setup build ## The short chaos against a real Apache Kafka of one and of three nodes, fetched through Maven
	@command -v mvn >/dev/null && command -v java >/dev/null || { echo "Java 17 or newer and Maven are missing: install default-jre-headless and maven" >&2; exit 1; }
	cd bench && go test -tags kafka -timeout 20m ./kafka/
	@for n in $(KAFKA_NODES); do echo "Apache Kafka, nodes: $$n"; go run ./bench/cmd/chaos --short --kafka $$n || exit 1; done

.PHONY: test-browser
test-browser: setup build ## Look at the pages in a real browser, on a phone and on a desktop, with axe
	@command -v chromium >/dev/null || { echo "Chromium is missing: install chromium (apt-get install chromium)" >&2; exit 1; }
	cd profileapi && go test -tags browser -timeout 10m -count 1 ./browsertest/

.PHONY: fuzz-api
fuzz-api: setup build ## Fuzz the API by its own OpenAPI document, with schemathesis, for some three minutes
	cd profileapi && go run ./browsertest/beside api/fuzz

.PHONY: lighthouse
lighthouse: setup build ## Measure the pages with Lighthouse; fails below 95
	@command -v chromium >/dev/null || { echo "Chromium is missing: install chromium (apt-get install chromium)" >&2; exit 1; }
	cd profileapi && go run ./browsertest/beside browsertest/lighthouse

.PHONY: screenshots
screenshots: setup build ## Draw the pages for docs/screenshots, light and dark, phone and desktop
	@command -v chromium >/dev/null || { echo "Chromium is missing: install chromium (apt-get install chromium)" >&2; exit 1; }
	cd profileapi && go run ./browsertest/screenshots

.PHONY: test-warehouse
test-warehouse: setup build $(S3SERVER) ## Read an export with pyarrow, DuckDB and polars and compare it row by row
	cd rollup && go test -tags warehouse -timeout 15m ./export/

.PHONY: bench
bench: setup build ## Measure against nginx and ClickHouse's own Kafka engine and write docs/performance.md
	go run ./bench/cmd/bench $(if $(ONLY),--only $(ONLY)) --out docs/performance.md

SCENARIO ?= smoke
.PHONY: k6
# What deploy/grafana shows of a run that writes to Prometheus (bench/k6); testid tells runs apart there.
k6: export K6_PROMETHEUS_RW_TREND_STATS ?= p(50),p(99),max
k6: $(TOOLS)/k6 ## Run a k6 scenario against what runs: SCENARIO=smoke, spike, soak, breakpoint, previews, creators
	cd bench/k6 && $(TOOLS)/k6 run --tag testid=$(SCENARIO)-$$(date +%H:%M:%S) $(SCENARIO).js

.PHONY: audit
audit: build ## Prove that every answered view and click of the running standalone is counted once
	@bin/spillway audit

.PHONY: fuzz
fuzz: check ## Fuzz every decoder, half a minute each
	@for m in $(MODULES); do (cd $$m && for f in $$(grep -rlE '^func Fuzz' --include=*_test.go . ); do \
		for t in $$(grep -oE '^func Fuzz[A-Za-z0-9]*' $$f | cut -c6-); do \
		echo "$$m/$$f $$t"; go test -run '^$$' -fuzz "^$$t$$" -fuzztime 30s ./$$(dirname $$f) || exit 1; done; done) || exit 1; done

.PHONY: lint
lint: check $(GOLANGCI) ## gofmt, go vet, staticcheck and more; known vulnerabilities where their database can be had
	@out=$$(gofmt -l $(MODULES)); test -z "$$out" || { echo "not formatted by gofmt: $$out" >&2; exit 1; }
	@for m in $(MODULES); do echo "lint $$m"; (cd $$m && $(GOLANGCI) run --allow-serial-runners ./...) || exit 1; done
	@for m in $(MODULES); do (cd $$m && GOWORK=off go build ./... && GOWORK=off go mod tidy -diff >/dev/null) || { echo "$$m does not build alone, or its go.mod is not tidy: cd $$m && GOWORK=off go mod tidy" >&2; exit 1; }; done
	@for t in $$(grep -oE '\bTest[A-Z][A-Za-z]+' docs/exactly-once.md | sort -u); do grep -rqE "^func $$t\(" --include='*_test.go' $(MODULES) || { echo "docs/exactly-once.md names $$t, which is no test" >&2; exit 1; }; done
	@! grep -rn 'apache/arrow/go/v1[0-7]' --include=go.mod $(MODULES) || { echo "use github.com/apache/arrow-go/v18" >&2; exit 1; }
	@$(MAKE) --no-print-directory vulnerabilities

.PHONY: vulnerabilities
vulnerabilities: check
	@if curl -fsS -m 5 -o /dev/null https://vuln.go.dev/index/db.json 2>/dev/null; then \
		for m in $(MODULES); do (cd $$m && go run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION) ./...) || exit 1; done; \
	else echo "known vulnerabilities: not checked, their database cannot be reached from here"; fi

$(GOLANGCI):
	@mkdir -p $(TOOLS)
	@echo "building golangci-lint $(GOLANGCI_VERSION) (once, a minute or two)"
	@GOBIN=$(TOOLS) GOWORK=off go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

$(S3SERVER):
	@mkdir -p $(TOOLS)
	@echo "building versitygw $(VERSITYGW_VERSION), an S3 server for the tests (once, some minutes)"
	@GOBIN=$(TOOLS) GOWORK=off go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)

$(TOOLS)/k6:
	@mkdir -p $(TOOLS)
	@echo "building k6 $(K6_VERSION) (once, a minute or two)"
	@GOBIN=$(TOOLS) GOWORK=off go install go.k6.io/k6@$(K6_VERSION)

.PHONY: bots
bots: ## Take over a newer list of crawlers: VERSION_OF_BOTS=x.y.z of npm's crawler-user-agents
	@ingest/enrich/update $(VERSION_OF_BOTS)
	@echo "now raise enrich.Version, so that it can be told which rows the older list judged"

.PHONY: country
country: ## Take over the newest database of countries (npm, CC0)
	cd standalone/engines && npm install --ignore-scripts --save-optional --save-exact @ip-location-db/geo-whois-asn-country-mmdb@latest

.PHONY: generate-tools
generate-tools:
	@mkdir -p $(TOOLS)
	@GOBIN=$(TOOLS) GOWORK=off go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	@GOBIN=$(TOOLS) GOWORK=off go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
	@GOBIN=$(TOOLS) GOWORK=off go install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@$(VTPROTO_VERSION)

.PHONY: generate
generate: check generate-tools ## Generate code from the schemas again
	@cd schemas && PATH=$(TOOLS):$$PATH buf lint && PATH=$(TOOLS):$$PATH buf generate

.PHONY: generated
generated: check generate-tools # The checked-in code is what the schemas give
	@mkdir -p .build/generated && rm -rf .build/generated/*
	@cd schemas && PATH=$(TOOLS):$$PATH buf generate -o ../.build/generated
	@for f in event/event.pb.go event/event_vtproto.pb.go; do \
		cmp -s schemas/$$f .build/generated/$$f || { echo "schemas/$$f is not what event.proto gives: run 'make generate'" >&2; exit 1; }; done

.PHONY: clean
clean: ## Remove what was built; data and engines stay
	@rm -rf bin .build
