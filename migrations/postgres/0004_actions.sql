-- What operators have done beside the operations: to one of them (pause, resume,
-- cancel, undo), to a subscription (remove), and to old events (prune).
CREATE TABLE reprise.actions (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL CHECK (kind IN ('pause', 'resume', 'cancel', 'undo', 'remove', 'prune')),
    operation_id bigint,                          -- of pause, resume, cancel and undo
    selection    json        NOT NULL DEFAULT '{}', -- of remove and prune
    requested_by text        NOT NULL,
    reason       text        NOT NULL DEFAULT '',
    runs         bigint      NOT NULL DEFAULT 0,  -- that it has changed, or deleted
    events       bigint      NOT NULL DEFAULT 0,  -- that it has deleted
    outgoing     bigint      NOT NULL DEFAULT 0,  -- events of the outbox that it has deleted
    at           timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX actions_by_operation ON reprise.actions (operation_id, id) WHERE operation_id IS NOT NULL;
