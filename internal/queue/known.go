package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/lib/pq"

	"github.com/reprise-bus/reprise/internal/dialect"
	"github.com/reprise-bus/reprise/internal/sqldb"
	"github.com/reprise-bus/reprise/store"
)

// KnownMetadata returns the metadata of those of the events that are in the database.
// db is the store's pool or the caller's transaction.
func (q *Queue) KnownMetadata(ctx context.Context, db sqldb.Queryer, ids []store.EventID) (map[store.EventID]map[string]string, error) {
	return q.metadata(ctx, db, ids, knownMetadataPostgres, knownMetadataSQLite)
}

// KnownOutgoingMetadata is KnownMetadata for the outbox.
func (q *Queue) KnownOutgoingMetadata(ctx context.Context, db sqldb.Queryer, ids []store.EventID) (map[store.EventID]map[string]string, error) {
	return q.metadata(ctx, db, ids, knownOutgoingMetadataPostgres, knownOutgoingMetadataSQLite)
}

// metadata reads ids, topics and metadata by the statement of the database.
func (q *Queue) metadata(ctx context.Context, db sqldb.Queryer, ids []store.EventID, postgres, sqlite string) (map[store.EventID]map[string]string, error) {
	known := make(map[store.EventID]map[string]string, len(ids))
	for chunk := range slices.Chunk(ids, 1000) {
		var of, topics pq.StringArray
		var pairs []any
		for _, id := range chunk {
			if !sqldb.Keepable(id.ID, id.Topic) {
				continue
			}
			of, topics, pairs = append(of, id.ID), append(topics, id.Topic), append(pairs, id.ID, id.Topic)
		}
		if len(of) == 0 {
			continue
		}
		query, args := q.db.SQL(postgres), []any{of, topics}
		if q.db.Kind() == dialect.SQLite {
			query, args = sqldb.Rows(q.db.SQL(sqlite), len(of)), pairs
		}
		if err := q.db.Query(ctx, db, query, args, func(rows *sql.Rows) error {
			for rows.Next() {
				var id store.EventID
				var text []byte
				if err := rows.Scan(&id.ID, &id.Topic, &text); err != nil {
					return err
				}
				metadata := map[string]string{}
				if err := json.Unmarshal(text, &metadata); err != nil {
					return fmt.Errorf("event %q: metadata in the database: %w", id.ID, err)
				}
				known[id] = metadata
			}
			return nil
		}); err != nil {
			return nil, fmt.Errorf("look for %d events that are known: %w", len(ids), err)
		}
	}
	return known, nil
}
