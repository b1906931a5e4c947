package main

import (
	"context"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// writeResults writes a page that says what was measured, and with what, so that it can be
// measured again.
func writeResults(ctx context.Context, out io.Writer, args []string, p plan, rs []result) error {
	version, settings, err := p.cluster.settings(ctx)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Reprise beside its peers

Written by the command below; do not edit. What each work and each system is, says %sgo run . -h%s.

    cd bench && go run . %s

| | |
| --- | --- |
`, "`", "`", shellWords(args))
	fact := func(name, value string) { fmt.Fprintf(&b, "| %s | %s |\n", name, cell(value)) }
	fact("date", time.Now().UTC().Format("2006-01-02 15:04 UTC"))
	fact("commit", p.commit)
	fact("machine", machine())
	fact("rounds", fmt.Sprintf("%d, interleaved; medians; one measurement takes at most %v", p.rounds, p.limit))
	fact("Go", runtime.Version())
	fact("Postgres", version+", on the same machine, with "+strings.Join(settings, ", "))
	if p.kafka != nil {
		fact("Kafka", fmt.Sprintf("%s, on the same machine; a topic has %d partitions", p.kafka.version(ctx), partitions))
	}
	for _, v := range versions(p.systems) {
		fact(v[0], v[1])
	}

	fmt.Fprintf(&b, "\n## Figures\n\n| work | n | system | measured | p99 ms | %s is better by | note |\n| --- | ---: | --- | ---: | ---: | ---: | --- |\n", ours)
	for i, r := range rows(rs) {
		n := ""
		if r.first {
			n = thousands(rs[i].N)
		} else {
			r.work = ""
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", r.work, n, r.system, r.figure, r.p99, r.times, cell(r.note))
	}

	b.WriteString("\n## Works\n\n")
	for _, w := range p.works {
		fmt.Fprintf(&b, "- **%s**: %s\n", w.name, w.about)
	}
	b.WriteString("\n## Systems\n\n")
	for _, s := range p.systems {
		fmt.Fprintf(&b, "- **%s**: %s\n", s.name, s.about)
	}
	fmt.Fprintf(&b, `
Each runs in a process of its own, with %d database connections, on a database that is dropped after the trial. A handler does nothing, unless the work says so; an event is about 200 bytes. The clock of a drain stops when the end of the last handler run is in the database. Before a drain from Kafka one producer, the same for all, has published the events; its clock starts when the system is told to subscribe, and nobody waits for offsets, which are committed each second.
`, connections)
	_, err = io.WriteString(out, b.String())
	return err
}

// versions are those of the modules that are compared, as they were built in, and of Node's.
func versions(ss []*system) (vs [][2]string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	for _, dep := range info.Deps {
		switch dep.Path {
		case "github.com/riverqueue/river", "github.com/jackc/pgx/v5", "github.com/lib/pq",
			"github.com/ThreeDotsLabs/watermill", "github.com/ThreeDotsLabs/watermill-sql/v3",
			"github.com/ThreeDotsLabs/watermill-kafka/v3", "github.com/IBM/sarama":
			vs = append(vs, [2]string{dep.Path, dep.Version})
		}
	}
	if slices.ContainsFunc(ss, func(s *system) bool { return s.name == "graphile" }) {
		if v, err := graphileVersion(); err == nil {
			vs = append(vs, [2]string{"graphile-worker", v})
		}
		if v, err := osexec.Command("node", "--version").Output(); err == nil {
			vs = append(vs, [2]string{"Node", strings.TrimSpace(string(v))})
		}
	}
	return vs
}

// commit is the repository's, and whether its files are those of the commit.
func commit(ctx context.Context) string {
	root, err := repository(ctx)
	if err != nil {
		return "unknown"
	}
	hash, err := osexec.CommandContext(ctx, "git", "-C", root, "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	c := strings.TrimSpace(string(hash))
	if changed, err := osexec.CommandContext(ctx, "git", "-C", root, "status", "--porcelain").Output(); err != nil || len(changed) > 0 {
		c += ", with changes that are not committed"
	}
	return c
}

func machine() string {
	s := fmt.Sprintf("%s, %d cores", processor(), runtime.NumCPU())
	if gb := memoryGB(); gb > 0 {
		s += fmt.Sprintf(", %.0f GB", gb)
	}
	return s + ", " + runtime.GOOS + "/" + runtime.GOARCH
}

func processor() string {
	if model := procField("/proc/cpuinfo", "model name"); model != "" {
		return model
	}
	if out, err := osexec.Command("sysctl", "-n", "machdep.cpu.brand_string").Output(); err == nil {
		return strings.TrimSpace(string(out))
	}
	return "unknown processor"
}

func memoryGB() float64 {
	var n float64
	if _, err := fmt.Sscanf(procField("/proc/meminfo", "MemTotal"), "%f kB", &n); err == nil {
		return n * 1024 / 1e9
	}
	if out, err := osexec.Command("sysctl", "-n", "hw.memsize").Output(); err == nil {
		if _, err := fmt.Sscan(string(out), &n); err == nil {
			return n / 1e9
		}
	}
	return 0
}

// procField is the value of the first line "name : value".
func procField(path, name string) string {
	body, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(body)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// cell is text as a table takes it.
func cell(s string) string { return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s) }

// shellWords is args as they can be typed again, without a URL that may hold a password.
func shellWords(args []string) string {
	words := slices.Clone(args)
	for i, w := range words {
		if flag, _, ok := strings.Cut(w, "="); ok && strings.TrimLeft(flag, "-") == "database-url" {
			words[i] = flag + "=$" + urlVariable
		} else if i > 0 && strings.TrimLeft(words[i-1], "-") == "database-url" {
			words[i] = "$" + urlVariable
		} else if strings.ContainsAny(w, " \t\n'\"$`\\*?;&|<>()") {
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
