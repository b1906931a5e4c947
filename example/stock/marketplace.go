package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// marketplace is an HTTP server on a loopback port that keeps the stock it is
// told of, unless it has trouble with an article.
type marketplace struct {
	url   string
	close func() error

	mu      sync.Mutex
	trouble map[string]*trouble // by SKU
	stock   map[string]StockChanged
}

// trouble is an answer that the marketplace gives a number of times.
type trouble struct {
	times      int
	status     int
	retryAfter string // seconds, if any
	says       string
}

const forever = 1_000_000_000

// String says what the marketplace is going to say of an article.
func (t *trouble) String() string {
	if t == nil {
		return "yes"
	}
	answer := fmt.Sprintf("%d: %s", t.status, t.says)
	if t.retryAfter != "" {
		answer += ", Retry-After: " + t.retryAfter
	}
	if t.times == forever {
		return answer + ", until it is put in order"
	}
	return fmt.Sprintf("%d × %s; then yes", t.times, answer)
}

// articles are the SKUs of the story.
func articles() []string {
	return []string{"LAMP", "MUG", "DESK", "CHAIR", "SOFA", "GHOST", "TENT"}
}

// theTrouble is what there is with them in the story.
func theTrouble() map[string]*trouble {
	return map[string]*trouble{
		"MUG":   {times: 2, status: http.StatusServiceUnavailable, says: "busy"},
		"DESK":  {times: 1, status: http.StatusServiceUnavailable, says: "restarting", retryAfter: "1"},
		"CHAIR": {times: 1, status: http.StatusLocked, says: "closed for maintenance until the next window"},
		"SOFA":  {times: 3, status: http.StatusBadGateway, says: "down"},
		"GHOST": {times: forever, status: http.StatusNotFound, says: "no such article"},
		"TENT":  {times: forever, status: http.StatusInternalServerError, says: "out of disk space"},
	}
}

func startMarketplace() (*marketplace, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	m := &marketplace{
		url:     "http://" + listener.Addr().String(),
		trouble: theTrouble(),
		stock:   map[string]StockChanged{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /stock/{warehouse}/{sku}", m.put)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	m.close = func() error {
		err := server.Close()
		if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
			err = errors.Join(err, served)
		}
		return err
	}
	return m, nil
}

func (m *marketplace) put(w http.ResponseWriter, r *http.Request) {
	var e StockChanged
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.trouble[r.PathValue("sku")]; t != nil && t.times > 0 {
		t.times--
		if t.retryAfter != "" {
			w.Header().Set("Retry-After", t.retryAfter)
		}
		http.Error(w, t.says, t.status)
		return
	}
	place := r.PathValue("warehouse") + "/" + r.PathValue("sku")
	if e.Count >= m.stock[place].Count { // an older count that comes later is known already
		m.stock[place] = e
	}
	w.WriteHeader(http.StatusNoContent)
}

// forecast says what the marketplace is going to say of an article.
func (m *marketplace) forecast(sku string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trouble[sku].String()
}

// heal ends all trouble.
func (m *marketplace) heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.trouble)
}

// available returns what the marketplace offers of an article in a warehouse.
func (m *marketplace) available(warehouse, sku string) (quantity int, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, known := m.stock[warehouse+"/"+sku]
	return e.Available, known
}
