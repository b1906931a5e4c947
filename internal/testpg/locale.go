package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/reprise-bus/reprise/internal/pgserver"
)

// language is the locale that the settings want messages in, or "".
func language(settings []string) (locale string) {
	for _, s := range settings {
		if name, value, _ := strings.Cut(s, "="); strings.EqualFold(strings.TrimSpace(name), "lc_messages") {
			locale = strings.Trim(value, `' `)
		}
	}
	if locale == "C" || locale == "POSIX" {
		return ""
	}
	return locale
}

// haveLocale makes the system's locale, such as de_DE.UTF-8, where it is
// missing.
func haveLocale(ctx context.Context, locale string, stderr io.Writer) error {
	if known(ctx, locale) {
		return nil
	}
	place, _, _ := strings.Cut(locale, ".")
	lang, _, _ := strings.Cut(place, "_")
	if err := install(ctx, stderr, "the locale "+locale, packages{
		"apt-get": "locales",
		"dnf":     "glibc-langpack-" + lang,
		"yum":     "glibc-langpack-" + lang,
	}); err != nil && !errors.Is(err, errNoManager) {
		return fmt.Errorf("install the locale %s: %w", locale, err)
	}
	if !known(ctx, locale) {
		prefix, ok := (manager{}).privilege(ctx)
		if ok {
			line := append(prefix, "localedef", "-i", place, "-f", "UTF-8", locale)
			fmt.Fprintln(stderr, "testpg: running", strings.Join(line, " "))
			cmd := exec.CommandContext(ctx, line[0], line[1:]...)
			cmd.Stdout, cmd.Stderr = stderr, stderr
			_ = cmd.Run() // whether the locale is there is asked below
		}
	}
	if !known(ctx, locale) {
		return fmt.Errorf("the system has no locale %s: install it (on Debian the package locales, then as root: localedef -i %s -f UTF-8 %s)", locale, place, locale)
	}
	return nil
}

// known says whether `locale -a` lists the locale, however it spells UTF-8.
func known(ctx context.Context, locale string) bool {
	all, err := exec.CommandContext(ctx, "locale", "-a").Output()
	return err == nil && slices.Contains(strings.Fields(spelled(string(all))), spelled(locale))
}

func spelled(locale string) string {
	return strings.ReplaceAll(strings.ToLower(locale), "utf-8", "utf8")
}

// speaks reports a server that says the same in the locale as without one: the
// installation has no messages in that language.
func speaks(ctx context.Context, url, locale string) error {
	db, err := sql.Open("postgres", url)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // of one session
	complaint := func() string {
		_, err := db.ExecContext(ctx, `SELECT 1/0`)
		return fmt.Sprint(err)
	}
	own := complaint()
	if _, err := db.ExecContext(ctx, `SET lc_messages = 'C'`); err != nil {
		return err
	}
	if plain := complaint(); own == plain {
		return fmt.Errorf("the server has no messages in the language of %s: it says %q: install server programs that were built with NLS, with their message catalogues", locale, own)
	}
	return nil
}

// haveBouncer makes PgBouncer's program available where the tests may need it.
func haveBouncer(ctx context.Context, stderr io.Writer) {
	if _, err := pgserver.FindBouncer(); err == nil {
		return
	}
	if err := install(ctx, stderr, "PgBouncer", packages{
		"apt-get": "pgbouncer", "dnf": "pgbouncer", "yum": "pgbouncer", "apk": "pgbouncer", "brew": "pgbouncer",
	}); err != nil {
		fmt.Fprintf(stderr, "testpg: tests that need PgBouncer will fail: %v: %v\n", pgserver.ErrNoBouncer, err)
	}
}
