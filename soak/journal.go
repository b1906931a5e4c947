package main

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	_, err := fmt.Fprintf(j.file, "%s %s %s\n", e.fact, e.id, e.checksum)
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
		words := strings.Fields(lines.Text())
		if len(words) != 3 {
			return fmt.Errorf("journal %s: line %q: want a fact, an id and a checksum", path, lines.Text())
		}
		into[words[1]] = entry{fact: fact(words[0]), id: words[1], checksum: words[2]}
	}
	return lines.Err()
}
