-- See postgres/0004_actions.sql.
CREATE TABLE reprise.actions (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    kind         TEXT    NOT NULL CHECK (kind IN ('pause', 'resume', 'cancel', 'undo', 'remove', 'prune')),
    operation_id INTEGER,
    selection    TEXT    NOT NULL DEFAULT '{}',
    requested_by TEXT    NOT NULL,
    reason       TEXT    NOT NULL DEFAULT '',
    runs         INTEGER NOT NULL DEFAULT 0,
    events       INTEGER NOT NULL DEFAULT 0,
    outgoing     INTEGER NOT NULL DEFAULT 0,
    at           TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;

CREATE INDEX reprise.actions_by_operation ON reprise.actions (operation_id, id) WHERE operation_id IS NOT NULL;
