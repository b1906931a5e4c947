-- A fact that was published: written once, never rewritten. The id is the
-- message's UUID; a router that passes a message on publishes it on another
-- topic under the same one.
CREATE TABLE reprise.events (
    id            text        NOT NULL,
    topic         text        NOT NULL,
    key           text        NOT NULL DEFAULT '',
    payload       json,                                -- when it is JSON: the very text that was published
    payload_bytes bytea,                               -- anything else
    metadata      json        NOT NULL DEFAULT '{}',
    source        text        NOT NULL DEFAULT 'publish', -- or 'edit', or the subscriber that it arrived through
    amends        text,                                -- the event of the topic that an operator corrected by this one
    published_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (id, topic)
);

CREATE INDEX events_by_time ON reprise.events (published_at);

-- Publishing creates one run for each subscription of the topic.
CREATE TABLE reprise.subscriptions (
    topic        text        NOT NULL,
    handler      text        NOT NULL,
    policy       json        NOT NULL DEFAULT '{}',
    since        timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, handler)
);

-- One handler's work on one event; a run that is due is the queue.
-- Due: due_at is in the past. Leased: PENDING without due_at, held by instance.
--
-- The end of a run changes no indexed column unless it failed, so that the
-- update stays on its page; fillfactor leaves the room for it. So what is FAILED
-- or DISCARDED has a column of its own to be found by: status changes. There is no
-- foreign key to events: one statement writes both rows, nothing deletes an
-- event that has runs, and the check would look the event up for every run.
--
-- Nor is there more than one CHECK, or a generated column: PostgreSQL reads the
-- text of each again for every statement, a quarter of what a single publish
-- takes it. What else holds of a row the tests of the store see to, and the
-- tables of SQLite, where it costs nothing.
CREATE TABLE reprise.handler_runs (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    text        NOT NULL,
    topic       text        NOT NULL,
    handler     text        NOT NULL,
    status      text        NOT NULL DEFAULT 'PENDING',
    attempt     integer     NOT NULL DEFAULT 0,
    cycle       integer     NOT NULL DEFAULT 0,
    tries       integer     NOT NULL DEFAULT 0,
    priority    smallint    NOT NULL DEFAULT 0,
    key         text        NOT NULL DEFAULT '',
    instance    text,
    due_at      timestamptz,
    started_at  timestamptz,
    finished_at timestamptz,
    error_kind  text,
    error       text,
    fingerprint text,
    replay_id   bigint,                         -- the operation that took the run up last
    published_at timestamptz NOT NULL DEFAULT now(), -- of the event
    failed_at    timestamptz,                   -- finished_at, of what is FAILED
    discarded_at timestamptz,                   -- finished_at, of what is DISCARDED
    CONSTRAINT handler_runs_once UNIQUE (event_id, topic, handler),
    CONSTRAINT handler_runs_status CHECK (status IN ('PENDING', 'SUCCESS', 'FAILED', 'DISCARDED'))
) WITH (fillfactor = 50);

CREATE INDEX handler_runs_by_due ON reprise.handler_runs (topic, handler, due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX handler_runs_failed ON reprise.handler_runs (id) WHERE failed_at IS NOT NULL;
CREATE INDEX handler_runs_failed_by_handler ON reprise.handler_runs (handler, id) WHERE failed_at IS NOT NULL;
CREATE INDEX handler_runs_discarded ON reprise.handler_runs (id) WHERE discarded_at IS NOT NULL;
CREATE INDEX handler_runs_by_group ON reprise.handler_runs (fingerprint, id) INCLUDE (failed_at) WHERE fingerprint IS NOT NULL;
CREATE INDEX handler_runs_by_replay ON reprise.handler_runs (replay_id, id) WHERE replay_id IS NOT NULL;
CREATE INDEX handler_runs_by_key ON reprise.handler_runs (key, id) WHERE key <> '';

-- Every attempt that failed or was abandoned; the happy path writes nothing here.
CREATE TABLE reprise.run_attempts (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id      bigint      NOT NULL REFERENCES reprise.handler_runs (id) ON DELETE CASCADE,
    attempt     integer     NOT NULL,
    cycle       integer     NOT NULL,
    kind        text        NOT NULL,
    message     text        NOT NULL,
    stack       text,
    instance    text,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX run_attempts_by_run ON reprise.run_attempts (run_id, id);

-- A running process; it is dead when its heartbeat is old. Every run that it
-- holds has an id of lowest_run or more: what finds them without an index on
-- the lease, which each run's end would have to keep.
CREATE TABLE reprise.instances (
    id           text        PRIMARY KEY,
    host         text        NOT NULL,
    pid          integer     NOT NULL,
    build        text        NOT NULL DEFAULT '',
    handlers     json        NOT NULL DEFAULT '[]',
    lowest_run   bigint      NOT NULL DEFAULT 0,
    claims       bigint      NOT NULL DEFAULT 0, -- that leased runs: a claim says which it is, so that none is carried out twice
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);

-- Somebody's request on record: a replay, a discard, an edit, a backfill, something
-- done to the outbox, or events published by hand. It takes up what it selects batch by batch; cursor is how far it has come, and
-- next_due when the next run that it takes up is due.
CREATE TABLE reprise.operations (
    id           bigint           GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text             NOT NULL CHECK (kind IN ('replay', 'discard', 'edit', 'backfill', 'send', 'release', 'drop', 'publish')),
    state        text             NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'cancelled', 'undone')),
    requested_by text             NOT NULL,
    reason       text             NOT NULL DEFAULT '',
    selection    json             NOT NULL,
    even_successful boolean       NOT NULL DEFAULT false,
    rate         double precision NOT NULL DEFAULT 0, -- runs a second; 0 is all at once
    total        bigint           NOT NULL DEFAULT 0, -- selected when it was asked for
    taken        bigint           NOT NULL DEFAULT 0,
    cursor       json             NOT NULL DEFAULT '{}',
    complete     boolean          NOT NULL DEFAULT false, -- all that is selected is taken up
    next_due     timestamptz      NOT NULL DEFAULT now(),
    requested_at timestamptz      NOT NULL DEFAULT now()
);

-- A run that an operation took up, and where it stood before.
CREATE TABLE reprise.operation_runs (
    operation_id bigint      NOT NULL,
    place        bigint      NOT NULL,                -- in the order of taking up
    run_id       bigint      NOT NULL,
    status       text        NOT NULL,
    attempt      integer     NOT NULL,
    cycle        integer     NOT NULL,
    tries        integer     NOT NULL,
    instance     text,
    due_at       timestamptz,
    finished_at  timestamptz,
    replay_id    bigint,
    at           timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (operation_id, place)
);

CREATE INDEX operation_runs_by_run ON reprise.operation_runs (run_id, operation_id);

-- What a broker is to carry. PENDING waits for the relay, HELD for somebody to
-- release it; REFUSED is what the broker will never take.
CREATE TABLE reprise.outbox (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id      text        NOT NULL,
    topic         text        NOT NULL,
    key           text        NOT NULL DEFAULT '',
    payload       json,
    payload_bytes bytea,
    metadata      json        NOT NULL DEFAULT '{}',
    state         text        NOT NULL DEFAULT 'PENDING',
    failures      integer     NOT NULL DEFAULT 0, -- sendings that failed
    error         text,                           -- of the last one
    operation_id  bigint,                         -- that sent it again, released or dropped it last
    written_at    timestamptz NOT NULL DEFAULT now(),
    sent_at       timestamptz,                    -- last
    CONSTRAINT outbox_once UNIQUE (event_id, topic),
    CONSTRAINT outbox_one_payload CHECK (num_nonnulls(payload, payload_bytes) = 1),
    CONSTRAINT outbox_state CHECK (state IN ('PENDING', 'HELD', 'SENT', 'REFUSED', 'DROPPED')),
    CONSTRAINT outbox_sent CHECK (state <> 'SENT' OR sent_at IS NOT NULL)
) WITH (fillfactor = 80);

CREATE INDEX outbox_pending ON reprise.outbox (topic, id) WHERE state = 'PENDING';
CREATE INDEX outbox_unsent ON reprise.outbox (id) WHERE state IN ('PENDING', 'HELD', 'REFUSED');
CREATE INDEX outbox_by_time ON reprise.outbox (written_at);

-- The one process that sends what is in the outbox, until its time is over.
CREATE TABLE reprise.relay (
    one      boolean     PRIMARY KEY CHECK (one), -- row
    instance text        NOT NULL,
    until    timestamptz NOT NULL
);

-- What the application says of its topics; "*" is all others.
CREATE TABLE reprise.topics (
    topic       text        PRIMARY KEY,
    transport   text        NOT NULL DEFAULT '', -- '' is the database
    mode        text        NOT NULL DEFAULT '',
    manual      boolean     NOT NULL DEFAULT false, -- operators may publish on it
    description text        NOT NULL DEFAULT '',
    declared_at timestamptz NOT NULL DEFAULT now()
);
