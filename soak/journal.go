package main

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// fact is what a publisher knows for sure about its event.
type fact string

const (
	committed fact = "committed" // the publish returned nil
	absent    fact = "absent"    // rolled back, or the error said that nothing was written
	disputed  fact = "disputed"  // refused as another event's id, which it is not
)

// entry is a line of a journal.
type entry struct {
	id       string
	fact     fact
	checksum string // of the payload on topicOrdered

	// It was committed between these, if at all.
	began, ended time.Time

	lost int // tries that failed since the server had lost a prepared statement
}

// begin notes when the event may have been committed first.
func (e *entry) begin() {
	if e.began.IsZero() {
		e.began = time.Now()
	}
}

// journal is a publisher's memory. Each line is one write to a file, which
// survives the death of the process, though not of the machine.
type journal struct {
	mu   sync.Mutex
	file *os.File
}

func openJournal(path string) (*journal, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &journal{file: file}, nil
}

func (j *journal) write(e entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := fmt.Fprintf(j.file, "%s %s %s %d %d %d\n", e.fact, e.id, e.checksum, e.began.UnixNano(), e.ended.UnixNano(), e.lost)
	return err
}

func (j *journal) close() error { return j.file.Close() }

func checksum(payload []byte) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE(payload)) }

// readJournals returns what all publishers know, by id.
func readJournals(dir string) (map[string]entry, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	entries := map[string]entry{}
	for _, path := range paths {
		if err := readJournal(path, entries); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

func readJournal(path string, into map[string]entry) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var e entry
		var began, ended int64
		if n, err := fmt.Sscan(lines.Text(), &e.fact, &e.id, &e.checksum, &began, &ended, &e.lost); n != 6 {
			return fmt.Errorf("journal %s: line %q: want a fact, an id, a checksum, two times and a number: %w", path, lines.Text(), err)
		}
		e.began, e.ended = time.Unix(0, began), time.Unix(0, ended)
		into[e.id] = e
	}
	return lines.Err()
}
