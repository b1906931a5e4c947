package kafkaserver

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// version is the one whose jars are listed.
const version = "4.1.1"

// jars lists what org.apache.kafka:kafka_2.13 needs, as sha256sum prints it.
//
//go:embed jars.txt
var jars string

// ErrUnavailable is returned by Start where the jars are not at hand and cannot
// be downloaded.
var ErrUnavailable = errors.New("the jars of Kafka " + version + " could not be downloaded: connect to Maven Central, or set MAVEN_REPOSITORY to the URL of a repository that has them")

// classpath returns the jars, of which those that are neither in the local
// Maven repository nor in the cache are downloaded into the cache. Several
// processes may do so at once.
func classpath(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w; there is no place for them: %w", ErrUnavailable, err)
	}
	cache = filepath.Join(cache, "reprise", "kafka-"+version)
	remote := "https://repo1.maven.org/maven2"
	if set := os.Getenv("MAVEN_REPOSITORY"); set != "" {
		remote = strings.TrimSuffix(set, "/")
	}
	client := &http.Client{Timeout: 5 * time.Minute}
	lines := strings.Split(strings.TrimSpace(jars), "\n")
	files := make([]string, len(lines))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(6)
	for i, line := range lines {
		sum, path, _ := strings.Cut(line, "  ")
		group.Go(func() error {
			if home, err := os.UserHomeDir(); err == nil {
				files[i] = filepath.Join(home, ".m2", "repository", filepath.FromSlash(path))
				if intact(files[i], sum) {
					return nil
				}
			}
			files[i] = filepath.Join(cache, filepath.Base(path))
			if intact(files[i], sum) {
				return nil
			}
			if err := download(ctx, client, remote+"/"+path, files[i], sum); err != nil {
				return fmt.Errorf("%w; %w", ErrUnavailable, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return "", err
	}
	return strings.Join(files, string(os.PathListSeparator)), nil
}

func intact(file, sum string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, f)
	return err == nil && hex.EncodeToString(hash.Sum(nil)) == sum
}

func download(ctx context.Context, client *http.Client, url, file, sum string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	part, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(part, hash), response.Body)
	if err = errors.Join(err, part.Close()); err == nil {
		if got := hex.EncodeToString(hash.Sum(nil)); got != sum {
			err = fmt.Errorf("%s has the checksum %s, want %s", url, got, sum)
		} else {
			err = os.Rename(part.Name(), file)
		}
	}
	if err != nil {
		return errors.Join(err, os.Remove(part.Name()))
	}
	return nil
}
