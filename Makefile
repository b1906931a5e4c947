.POSIX:

GO = go
TEST = .
ARGS = ./...
# Tests of a package that run at once. Two packages do so as well on two processors, and
# what waits for a moment waits longer the more there are.
PARALLEL = 4
# The race detector leaves out SQLite's C code, which is translated to Go: with it
# each statement takes ten to thirty times as long, and the code guards itself. The
# driver around it is looked at.
RACE = -race -gcflags=modernc.org/sqlite/lib=-race=false -gcflags=modernc.org/libc=-race=false
# What talks to Postgres is tested on a foreign server, too: one that says
# everything in German, and whose defaults are not those of most. The command line, the
# middleware and the examples use what these packages test.
FOREIGN = -c lc_messages=de_DE.UTF-8 -c default_transaction_isolation=serializable -c timezone=Asia/Kolkata -c "DateStyle=German, DMY"
FOREIGN_ARGS = . ./bus ./migrations ./pubsub ./replay ./store
# What the server's language and defaults have no part in, such as SQLite; what loses or
# delays the answer to a statement that is committed by itself, which there it is not; and
# two SQLSTATEs of triggers that only the word for ERROR tells from the end of a connection.
# The first pattern that matches a part of a name decides: those with a slash come last.
FOREIGN_SKIP = TestARollingUpgrade|TestNothingOnRecordControls|TestPlansAtAMillionDue|TestWatermillsMiddlewares|TestAClaimUnderWay|TestAStatementThatOutlives|TestAnInsertWhoseAnswer|TestACommitOfInTx|TestAClaimWhoseAnswer|TestARefusalAfterALost|TestALateCommitWakes|TestAnInsertThatIsCommitted|TestRunningHandlersOutlive|TestAClaimThatOutlives|Conformance|TestARefusedPublishFailsAlone/(XX000|55000)|./sqlite|././sqlite|./unprepared|./settings
SOAK = -for 10m
FUZZTIME = 30s
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' Makefile | awk -F ': ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

test: lint ## check everything; narrow with TEST=regexp and ARGS='-v ./store/...'
	@race="$(RACE)"; $(GO) build -race runtime/cgo 2>/dev/null || \
	{ race=; echo 'testing without -race, which needs cgo and a C compiler'; }; \
	set -x; $(GO) run ./internal/testpg -- $(GO) run ./internal/testkafka -- $(GO) test $$race -shuffle=on -parallel $(PARALLEL) -timeout 20m -run '$(TEST)' $(ARGS)
	@test '$(ARGS)' != ./... || $(MAKE) foreign
	$(GO) build -o bin/ ./cmd/reprise ./example/incident && dir=$$(mktemp -d) && \
	INVOICES=1000 DATABASE_URL=sqlite:$$dir/demo.db sh example/incident/demo.sh bin >"$$dir/out" 2>&1 || \
	{ cat "$$dir/out"; exit 1; }; rm -r "$$dir"
	cd bench && $(GO) vet ./... && $(GO) test ./...
	cd soak && $(GO) vet . && $(GO) test . && $(GO) run . -for 20s && $(GO) run . -for 20s -db sqlite

foreign: ## the tests on a German, serializable Postgres in another time zone
	TEST_DATABASE_URL= $(GO) run ./internal/testpg $(FOREIGN) -- $(GO) run ./internal/testkafka -- $(GO) test -shuffle=on -parallel $(PARALLEL) -timeout 20m -run '$(TEST)' -skip '$(FOREIGN_SKIP)' $(FOREIGN_ARGS)

lint: ## check formatting, go vet, staticcheck
	@files=$$("$$($(GO) env GOROOT)/bin/gofmt" -l .) && test -z "$$files" || \
	{ echo "not formatted (run make fmt): $$files"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...
	for module in bench soak; do (cd $$module && $(GO) run $(STATICCHECK) ./...) || exit 1; done

fmt: ## format the code
	"$$($(GO) env GOROOT)/bin/gofmt" -l -w .

conformance: ## the long and the stress form of Watermill's Pub/Sub suite
	CONFORMANCE=full $(GO) run ./internal/testpg -- $(GO) run ./internal/testkafka -- $(GO) test $(RACE) -timeout 60m -run Conformance ./pubsub ./pubsub/kafka ./pubsub/nats
	$(GO) run ./internal/testpg -- $(GO) test $(RACE) -tags stress -timeout 60m -run Stress ./pubsub

fuzz: ## fuzz what parses, FUZZTIME=30s each
	set -e; for target in ./handlers:FuzzPolicy ./store:FuzzMessagePattern ./store:FuzzFilter ./store:FuzzCondition ./store:FuzzEvent ./internal/queue:FuzzPayload ./internal/sqldb:FuzzPrintable ./internal/sqldb:FuzzArray ./internal/sqldb:FuzzMetadata ./replay:FuzzReadDocument ./replay:FuzzDocumentPayload \
		./internal/visible:FuzzJSON ./cli:FuzzWhen ./cli:FuzzRate ./pubsub/kafka:FuzzParse ./pubsub/nats:FuzzParse ./schedule:FuzzParse ./schedule:FuzzNext; do \
		$(GO) test -run '^$$' -fuzz "^$${target#*:}$$" -fuzztime $(FUZZTIME) "$${target%:*}"; done

soak: ## cause every failure, then count every promise; SOAK='-for 1h', '-db sqlite', '-h'
	cd soak && $(GO) run . $(SOAK)

cover: ## test coverage by function, the total last; profile in coverage.out
	$(GO) run ./internal/testpg -- $(GO) run ./internal/testkafka -- $(GO) test -timeout 15m -coverpkg ./... -coverprofile coverage.out ./...
	$(GO) tool cover -func coverage.out

example: ## run the example
	$(GO) run ./example

demo-replay: ## 100,000 invoices, three kinds of trouble, and the command line that heals them
	$(GO) build -o bin/ ./cmd/reprise ./example/incident
	$(GO) run ./internal/testpg -- sh example/incident/demo.sh bin

postgres: ## keep a throwaway Postgres up until interrupted
	$(GO) run ./internal/testpg

kafka: ## keep a throwaway Kafka up until interrupted
	$(GO) run ./internal/testkafka

.PHONY: help test foreign lint fmt conformance fuzz soak cover example demo-replay postgres kafka
