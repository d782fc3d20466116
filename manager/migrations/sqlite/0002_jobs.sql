-- Preheats: what is wished for, who runs it, how far it is.
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Milliseconds since 1970, as all times here; 0 is never.
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- Grows with every change.
    version BIGINT NOT NULL,
    -- PENDING, RUNNING, SUCCESS, FAILURE, CANCELLED
    state TEXT NOT NULL,
    created_by TEXT NOT NULL,
    -- JSON.
    wish TEXT NOT NULL,
    -- An Authorization header for the registry; empty once the job has ended.
    secret TEXT NOT NULL,
    -- JSON: what hosts have said.
    progress TEXT NOT NULL,
    timeout_ms BIGINT NOT NULL,
    deadline BIGINT NOT NULL,
    cancelling BIGINT NOT NULL,
    -- Which manager runs it, and until when others keep off.
    owner TEXT NOT NULL,
    lease_until BIGINT NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state, lease_until);
