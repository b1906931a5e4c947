package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/reprise-bus/reprise/internal/pgserver"
	"github.com/reprise-bus/reprise/store"
)

// explain asks each question once more and writes what the server says of its
// statements.
func explain(ctx context.Context, server *pgserver.Server, o options) error {
	db, err := sql.Open("postgres", server.URL+"&session_preload_libraries=auto_explain&auto_explain.log_min_duration=0&auto_explain.log_analyze=on&auto_explain.log_timing=off")
	if err != nil {
		return err
	}
	defer db.Close()
	st, err := store.New(ctx, db, "")
	if err != nil {
		return err
	}
	asked, err := ask(ctx, st, o)
	if err != nil {
		return err
	}
	log := filepath.Join(server.Dir, "log")
	var text strings.Builder
	for _, q := range asked {
		before, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		if _, err := q.ask(ctx); err != nil {
			return fmt.Errorf("%s: %w", q.name, err)
		}
		after, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "## %s\n\n", q.name)
		for _, plan := range plans(string(after[len(before):])) {
			text.WriteString("```\n" + plan + "\n```\n\n")
		}
	}
	return os.WriteFile(o.plans, []byte(text.String()), 0o644)
}

var (
	beginning = regexp.MustCompile(`(?m)^.*duration: [0-9.]+ ms  plan:$`)
	entry     = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d `)
)

// plans returns the plans in a piece of the server's log, without the
// statements.
func plans(log string) (found []string) {
	for _, at := range beginning.FindAllStringIndex(log, -1) {
		rest := log[at[1]:]
		if next := entry.FindStringIndex(rest); next != nil {
			rest = rest[:next[0]]
		}
		if _, tree, ok := strings.Cut(rest, "Query Text:"); ok {
			lines := strings.Split(tree, "\n")
			for len(lines) > 0 && !strings.Contains(lines[0], "(cost=") {
				lines = lines[1:]
			}
			for i := range lines {
				lines[i] = strings.TrimPrefix(lines[i], "\t")
			}
			found = append(found, strings.TrimRight(strings.Join(lines, "\n"), "\n"))
		}
	}
	return found
}
