-- See postgres/0003_groups.sql. SQLite has one writer at a time: the triggers
-- change the counts themselves.
CREATE TABLE reprise.failure_groups (
    fingerprint TEXT    NOT NULL,
    handler     TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    runs        INTEGER NOT NULL,
    first_at    TEXT    NOT NULL,
    last_at     TEXT    NOT NULL,
    last_run    INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, handler, kind)
) STRICT;

CREATE INDEX reprise.failure_groups_by_runs ON reprise.failure_groups (runs, last_run);
CREATE INDEX reprise.failure_groups_by_handler ON reprise.failure_groups (handler, runs, last_run);
CREATE INDEX reprise.failure_groups_by_kind ON reprise.failure_groups (kind, runs, last_run);

CREATE TABLE reprise.failures_counted (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    run_id INTEGER NOT NULL,
    up_to  INTEGER NOT NULL
) STRICT;

INSERT INTO reprise.failures_counted (one, run_id, up_to)
SELECT 1, CASE WHEN highest > 0 THEN 0 ELSE 9223372036854775807 END, highest
FROM (SELECT coalesce(max(id), 0) AS highest FROM reprise.handler_runs) r;

CREATE TRIGGER reprise.failure_ended AFTER UPDATE OF failed_at ON reprise.handler_runs
WHEN OLD.failed_at IS NOT NULL AND OLD.failed_at IS NOT NEW.failed_at
    AND OLD.id <= (SELECT run_id FROM reprise.failures_counted)
BEGIN
    UPDATE reprise.failure_groups SET runs = runs - 1
    WHERE fingerprint = coalesce(OLD.fingerprint, '') AND handler = OLD.handler AND kind = coalesce(OLD.error_kind, '');
    DELETE FROM reprise.failure_groups
    WHERE fingerprint = coalesce(OLD.fingerprint, '') AND handler = OLD.handler AND kind = coalesce(OLD.error_kind, '') AND runs = 0;
END;

CREATE TRIGGER reprise.failure_deleted AFTER DELETE ON reprise.handler_runs
WHEN OLD.failed_at IS NOT NULL AND OLD.id <= (SELECT run_id FROM reprise.failures_counted)
BEGIN
    UPDATE reprise.failure_groups SET runs = runs - 1
    WHERE fingerprint = coalesce(OLD.fingerprint, '') AND handler = OLD.handler AND kind = coalesce(OLD.error_kind, '');
    DELETE FROM reprise.failure_groups
    WHERE fingerprint = coalesce(OLD.fingerprint, '') AND handler = OLD.handler AND kind = coalesce(OLD.error_kind, '') AND runs = 0;
END;

CREATE TRIGGER reprise.failure_began AFTER UPDATE OF failed_at ON reprise.handler_runs
WHEN NEW.failed_at IS NOT NULL AND OLD.failed_at IS NOT NEW.failed_at
    AND NEW.id <= (SELECT run_id FROM reprise.failures_counted)
BEGIN
    INSERT INTO reprise.failure_groups (fingerprint, handler, kind, runs, first_at, last_at, last_run)
    VALUES (coalesce(NEW.fingerprint, ''), NEW.handler, coalesce(NEW.error_kind, ''), 1, NEW.failed_at, NEW.failed_at, NEW.id)
    ON CONFLICT (fingerprint, handler, kind) DO UPDATE
    SET runs = runs + 1, first_at = min(first_at, excluded.first_at),
        last_at = max(last_at, excluded.last_at), last_run = max(last_run, excluded.last_run);
END;
