-- What a process is configured with stands in its row: everybody who judges
-- whether it lives goes by that.
--
-- A run that the process holds is in held_runs, or has the id recent_run or a
-- higher one; recent_run is NULL in the row of a process of version 1, which
-- lowest_run says everything of. lowest_run is kept for processes of version 1
-- that run beside newer ones.
ALTER TABLE reprise.instances
    ADD COLUMN heartbeat_interval double precision NOT NULL DEFAULT 2,  -- seconds
    ADD COLUMN dead_after         double precision NOT NULL DEFAULT 10, -- seconds of silence
    ADD COLUMN steady_since       timestamptz,                          -- since when no heartbeat has been late; NULL: since started_at
    ADD COLUMN failing_since      timestamptz,                          -- since when it has not been able to claim; NULL: it is
    ADD COLUMN recent_run         bigint,
    ADD COLUMN held_runs          bigint[]         NOT NULL DEFAULT '{}';

-- Which transactions were open when the subscription was made: what they
-- publish may have no run yet. NULL: they have all ended, and every event that
-- was committed after the subscription has its run.
ALTER TABLE reprise.subscriptions ADD COLUMN open_then json;

-- The error of a publish whose id another event of the topic has, in words of
-- our own in every language of the server.
CREATE FUNCTION reprise.id_taken(id text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'RP001', MESSAGE = 'reprise: the id is taken: ' || id;
END $$;
