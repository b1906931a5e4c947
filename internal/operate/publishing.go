package operate

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/reprise-bus/reprise/store"
)

// RecordPublishing records that an operator publishes events by hand on the topic of
// the operation's selection. The metadata of these events name the operation: see
// store.OperationMetadata.
func (s *Operator) RecordPublishing(ctx context.Context, o store.Operation) (store.Operation, error) {
	o.Kind = store.Publishing
	var errs []error
	if strings.TrimSpace(o.RequestedBy) == "" {
		errs = append(errs, store.ErrNoRequester)
	}
	if err := store.ValidTopic(o.Selection.Topic); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return o, fmt.Errorf("%s: %w", o.Kind, err)
	}
	o, err := s.put(ctx, s.db.Pool(), o)
	if err != nil {
		return o, fmt.Errorf("request to %s: %w", o.Kind, err)
	}
	return o, nil
}

// Published records how many events an operation of RecordPublishing has published so
// far, and whether these are all.
func (s *Operator) Published(ctx context.Context, operation, n int64, complete bool) error {
	if _, err := s.db.ExecContext(ctx, s.db.SQL(`
		UPDATE reprise.operations SET taken = $2, total = $2, complete = $3 WHERE id = $1 AND kind = 'publish'`), operation, n, complete); err != nil {
		return fmt.Errorf("record what was published: %w", err)
	}
	return nil
}
