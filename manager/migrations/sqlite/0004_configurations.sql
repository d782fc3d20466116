-- What is set for peers and seeds; the newest version counts.
CREATE TABLE configurations (
    version BIGINT PRIMARY KEY,
    at BIGINT NOT NULL,
    who TEXT NOT NULL,
    -- JSON.
    settings TEXT NOT NULL
);
