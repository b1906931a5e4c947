#!/bin/sh
# What an operator does after a bad night, with nothing but the command line.
#
#   make demo-replay                                            on a throwaway Postgres
#   DATABASE_URL=sqlite:incident.db sh example/incident/demo.sh bin
#
# The argument is where the programs reprise and incident are.
set -eu
PATH=$(cd "$1" && pwd):$PATH
DATABASE_URL=${DATABASE_URL:-${TEST_DATABASE_URL:?name a database: DATABASE_URL=sqlite:incident.db}}
REPRISE_DATABASE_URL=$DATABASE_URL
export DATABASE_URL REPRISE_DATABASE_URL

say() { printf '\n== %s\n' "$*"; }
run() {
  printf '\n$ %s\n' "$*"
  "$@"
}
# group TEXT prints the failure group whose error has the text in it.
group() { reprise runs groups | awk -v text="$1" 'index($0, text) { print $1; exit }'; }

say "100,000 invoices are issued while the ledger is down, and some of them are wrong."
incident -invoices "${INVOICES:-100000}"
run reprise runs count --status FAILED

say "What failed, and how? Failures that are alike are one group."
run reprise runs groups
down=$(group 'connection refused')
unknown=$(group 'no account')
negative=$(group 'negative')

say "The ledger was down. It is up again now, and the application runs."
incident -healed &
application=$!
trap 'kill "$application" 2>/dev/null || true; wait "$application" 2>/dev/null || true' EXIT
until reprise handlers list -o json | grep -q '"instances": *1'; do sleep 0.1; done

say "What would a replay of that group do?"
run reprise runs replay --group "$down" --dry-run

say "Do it, at a rate that the ledger can bear, and watch."
run reprise runs replay --group "$down" --rate 1000/s --reason 'the ledger is up again' --by maria --yes --wait

say "One of those without an account: what was it, and what should it have been?"
one=$(reprise runs list --group "$unknown" --limit 1 2>/dev/null | awk 'NR == 2 { print $1 }')
run reprise runs show "$one" --payload
EDITOR='perl -pi -e s/X-/A-/' run reprise runs edit "$one" --reason 'the account was renamed' --by maria --yes

say "Those of less than nothing are no invoices at all."
run reprise runs discard --group "$negative" --reason 'test data' --by maria --yes

say "What is left, and who did what?"
run reprise runs groups
run reprise replays list
run reprise doctor || true # what is left has failed, which it says
