-- How many FAILED runs each failure group has: those of one handler, one kind of
-- error and one fingerprint ('' for none). A group without FAILED runs has no row.
--
-- The row is brought up to date from failure_changes, a batch at a time. What
-- counts is always the sum of both.
CREATE TABLE reprise.failure_groups (
    fingerprint text        NOT NULL,
    handler     text        NOT NULL,
    kind        text        NOT NULL,
    runs        bigint      NOT NULL,
    first_at    timestamptz NOT NULL, -- of the failures since the group has a row
    last_at     timestamptz NOT NULL,
    last_run    bigint      NOT NULL, -- the newest run that failed since then
    PRIMARY KEY (fingerprint, handler, kind)
);

CREATE INDEX failure_groups_by_runs ON reprise.failure_groups (runs, last_run);
CREATE INDEX failure_groups_by_handler ON reprise.failure_groups (handler, runs, last_run);
CREATE INDEX failure_groups_by_kind ON reprise.failure_groups (kind, runs, last_run);

-- A run has become FAILED (1), or is so no more (-1). Rows are only inserted by
-- those who work on runs: two that end failures of the same groups wait for
-- nothing.
CREATE TABLE reprise.failure_changes (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fingerprint text        NOT NULL,
    handler     text        NOT NULL,
    kind        text        NOT NULL,
    run_id      bigint      NOT NULL,
    change      smallint    NOT NULL,
    at          timestamptz NOT NULL -- when it became FAILED
);

-- A trigger sees what processes of versions 1 and 2 do, too. It is for updates
-- that name failed_at: no run is leased, or succeeds, by one of these. It is not
-- for inserts, since no run is inserted as FAILED. It has the rights of its owner,
-- so that whoever may end a run needs none on failure_changes.
CREATE FUNCTION reprise.count_failure() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.failed_at IS NOT NULL THEN
        INSERT INTO reprise.failure_changes (fingerprint, handler, kind, run_id, change, at)
        VALUES (coalesce(OLD.fingerprint, ''), OLD.handler, coalesce(OLD.error_kind, ''), OLD.id, -1, OLD.failed_at);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.failed_at IS NOT NULL THEN
            INSERT INTO reprise.failure_changes (fingerprint, handler, kind, run_id, change, at)
            VALUES (coalesce(NEW.fingerprint, ''), NEW.handler, coalesce(NEW.error_kind, ''), NEW.id, 1, NEW.failed_at);
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER failure_updated AFTER UPDATE OF failed_at ON reprise.handler_runs
    FOR EACH ROW WHEN (OLD.failed_at IS DISTINCT FROM NEW.failed_at) EXECUTE FUNCTION reprise.count_failure();
CREATE TRIGGER failure_deleted AFTER DELETE ON reprise.handler_runs
    FOR EACH ROW WHEN (OLD.failed_at IS NOT NULL) EXECUTE FUNCTION reprise.count_failure();

-- The runs up to run_id are counted: changes of later ones do not count yet. Those
-- up to up_to may have failed before the triggers were there, and are counted a
-- batch at a time. Then run_id is the highest number that there is.
CREATE TABLE reprise.failures_counted (
    one    boolean PRIMARY KEY CHECK (one), -- row
    run_id bigint  NOT NULL,
    up_to  bigint  NOT NULL
);

INSERT INTO reprise.failures_counted (one, run_id, up_to)
SELECT true, CASE WHEN highest > 0 THEN 0 ELSE 9223372036854775807 END, highest
FROM (SELECT coalesce(max(id), 0) AS highest FROM reprise.handler_runs) r;
