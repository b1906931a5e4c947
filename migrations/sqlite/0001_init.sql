-- The tables of ../postgres/0001_init.sql, whose comments explain them. Times
-- are UTC text of one width, so that they sort as they read.
CREATE TABLE reprise.events (
    id            TEXT NOT NULL,
    topic         TEXT NOT NULL,
    key           TEXT NOT NULL DEFAULT '',
    payload       TEXT,
    payload_bytes BLOB,
    metadata      TEXT NOT NULL DEFAULT '{}',
    source        TEXT NOT NULL DEFAULT 'publish',
    amends        TEXT,
    published_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (id, topic),
    CHECK ((payload IS NULL) <> (payload_bytes IS NULL))
) STRICT;

CREATE INDEX reprise.events_by_time ON reprise.events (published_at);

CREATE TABLE reprise.subscriptions (
    topic        TEXT NOT NULL,
    handler      TEXT NOT NULL,
    policy       TEXT NOT NULL DEFAULT '{}',
    since        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    last_seen_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (topic, handler)
) STRICT;

CREATE TABLE reprise.handler_runs (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id    TEXT    NOT NULL,
    topic       TEXT    NOT NULL,
    handler     TEXT    NOT NULL,
    status      TEXT    NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'SUCCESS', 'FAILED', 'DISCARDED')),
    attempt     INTEGER NOT NULL DEFAULT 0,
    cycle       INTEGER NOT NULL DEFAULT 0,
    tries       INTEGER NOT NULL DEFAULT 0,
    priority    INTEGER NOT NULL DEFAULT 0,
    key         TEXT    NOT NULL DEFAULT '',
    instance    TEXT,
    due_at      TEXT,
    started_at  TEXT,
    finished_at TEXT,
    error_kind  TEXT,
    error       TEXT,
    fingerprint TEXT,
    replay_id   INTEGER,
    published_at TEXT   NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    failed_at    TEXT,  -- finished_at, of what is FAILED
    discarded_at TEXT,  -- finished_at, of what is DISCARDED
    UNIQUE (event_id, topic, handler),
    CHECK ((status = 'PENDING') = (finished_at IS NULL)),
    CHECK (due_at IS NULL OR (status = 'PENDING' AND instance IS NULL)),
    CHECK (status <> 'PENDING' OR due_at IS NOT NULL OR instance IS NOT NULL),
    CHECK (status <> 'FAILED' OR error_kind IS NOT NULL),
    CHECK (failed_at IS CASE WHEN status = 'FAILED' THEN finished_at END),
    CHECK (discarded_at IS CASE WHEN status = 'DISCARDED' THEN finished_at END)
) STRICT;

CREATE INDEX reprise.handler_runs_by_due ON reprise.handler_runs (topic, handler, due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX reprise.handler_runs_failed ON reprise.handler_runs (id) WHERE failed_at IS NOT NULL;
CREATE INDEX reprise.handler_runs_failed_by_handler ON reprise.handler_runs (handler, id) WHERE failed_at IS NOT NULL;
CREATE INDEX reprise.handler_runs_discarded ON reprise.handler_runs (id) WHERE discarded_at IS NOT NULL;
CREATE INDEX reprise.handler_runs_by_group ON reprise.handler_runs (fingerprint, id, failed_at) WHERE fingerprint IS NOT NULL;
CREATE INDEX reprise.handler_runs_by_replay ON reprise.handler_runs (replay_id, id) WHERE replay_id IS NOT NULL;
CREATE INDEX reprise.handler_runs_by_key ON reprise.handler_runs (key, id) WHERE key <> '';

-- SQLite has no INSERT inside WITH: this is how one statement writes the event
-- and its runs. An event that arrived through another transport has other runs.
CREATE TRIGGER reprise.publish AFTER INSERT ON reprise.events WHEN NEW.source = 'publish' BEGIN
    INSERT INTO reprise.handler_runs (event_id, topic, handler, key, due_at, published_at)
    SELECT NEW.id, NEW.topic, s.handler, NEW.key, NEW.published_at, NEW.published_at
    FROM reprise.subscriptions s
    WHERE s.topic = NEW.topic;
END;

CREATE TABLE reprise.run_attempts (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id      INTEGER NOT NULL REFERENCES reprise.handler_runs (id) ON DELETE CASCADE,
    attempt     INTEGER NOT NULL,
    cycle       INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    message     TEXT    NOT NULL,
    stack       TEXT,
    instance    TEXT,
    started_at  TEXT    NOT NULL,
    finished_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE INDEX reprise.run_attempts_by_run ON reprise.run_attempts (run_id, id);

CREATE TABLE reprise.instances (
    id           TEXT    PRIMARY KEY NOT NULL,
    host         TEXT    NOT NULL,
    pid          INTEGER NOT NULL,
    build        TEXT    NOT NULL DEFAULT '',
    handlers     TEXT    NOT NULL DEFAULT '[]',
    lowest_run   INTEGER NOT NULL DEFAULT 0,
    claims       INTEGER NOT NULL DEFAULT 0,
    started_at   TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    heartbeat_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE reprise.operations (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    kind         TEXT    NOT NULL CHECK (kind IN ('replay', 'discard', 'edit', 'backfill', 'send', 'release', 'drop', 'publish')),
    state        TEXT    NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'cancelled', 'undone')),
    requested_by TEXT    NOT NULL,
    reason       TEXT    NOT NULL DEFAULT '',
    selection    TEXT    NOT NULL,
    even_successful INTEGER NOT NULL DEFAULT 0,
    rate         REAL    NOT NULL DEFAULT 0,
    total        INTEGER NOT NULL DEFAULT 0,
    taken        INTEGER NOT NULL DEFAULT 0,
    cursor       TEXT    NOT NULL DEFAULT '{}',
    complete     INTEGER NOT NULL DEFAULT 0,
    next_due     TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    requested_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE TABLE reprise.operation_runs (
    operation_id INTEGER NOT NULL,
    place        INTEGER NOT NULL,
    run_id       INTEGER NOT NULL,
    status       TEXT    NOT NULL,
    attempt      INTEGER NOT NULL,
    cycle        INTEGER NOT NULL,
    tries        INTEGER NOT NULL,
    instance     TEXT,
    due_at       TEXT,
    finished_at  TEXT,
    replay_id    INTEGER,
    at           TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (operation_id, place)
) STRICT;

CREATE INDEX reprise.operation_runs_by_run ON reprise.operation_runs (run_id, operation_id);

CREATE TABLE reprise.outbox (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id      TEXT    NOT NULL,
    topic         TEXT    NOT NULL,
    key           TEXT    NOT NULL DEFAULT '',
    payload       TEXT,
    payload_bytes BLOB,
    metadata      TEXT    NOT NULL DEFAULT '{}',
    state         TEXT    NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'HELD', 'SENT', 'REFUSED', 'DROPPED')),
    failures      INTEGER NOT NULL DEFAULT 0,
    error         TEXT,
    operation_id  INTEGER,
    written_at    TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    sent_at       TEXT,
    UNIQUE (event_id, topic),
    CHECK ((payload IS NULL) <> (payload_bytes IS NULL)),
    CHECK (state <> 'SENT' OR sent_at IS NOT NULL)
) STRICT;

CREATE INDEX reprise.outbox_pending ON reprise.outbox (topic, id) WHERE state = 'PENDING';
CREATE INDEX reprise.outbox_unsent ON reprise.outbox (id) WHERE state IN ('PENDING', 'HELD', 'REFUSED');
CREATE INDEX reprise.outbox_by_time ON reprise.outbox (written_at);

CREATE TABLE reprise.relay (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    instance TEXT    NOT NULL,
    until    TEXT    NOT NULL
) STRICT;

CREATE TABLE reprise.topics (
    topic       TEXT    PRIMARY KEY NOT NULL,
    transport   TEXT    NOT NULL DEFAULT '',
    mode        TEXT    NOT NULL DEFAULT '',
    manual      INTEGER NOT NULL DEFAULT 0,
    description TEXT    NOT NULL DEFAULT '',
    declared_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
