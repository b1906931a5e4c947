-- See postgres/0002_liveness.sql. SQLite has one writer at a time: a
-- subscription that is committed is seen by every publish after it.
ALTER TABLE reprise.instances ADD COLUMN heartbeat_interval REAL NOT NULL DEFAULT 2;
ALTER TABLE reprise.instances ADD COLUMN dead_after REAL NOT NULL DEFAULT 10;
ALTER TABLE reprise.instances ADD COLUMN steady_since TEXT;
ALTER TABLE reprise.instances ADD COLUMN failing_since TEXT;
ALTER TABLE reprise.instances ADD COLUMN recent_run INTEGER;
ALTER TABLE reprise.instances ADD COLUMN held_runs TEXT NOT NULL DEFAULT '[]';
ALTER TABLE reprise.subscriptions ADD COLUMN open_then TEXT;
