-- Who may call: users with a password, and tokens for programs.
CREATE TABLE users (
    name TEXT PRIMARY KEY,
    -- guest, operator, root
    role TEXT NOT NULL,
    -- argon2id, as a PHC string.
    password TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE tokens (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    -- SHA-256 in hex: the token itself is random and long, and was shown once.
    hash TEXT NOT NULL UNIQUE,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- 0 is never.
    expires_at BIGINT NOT NULL
);
-- Every write, done or refused.
CREATE TABLE audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    who TEXT NOT NULL,
    -- The client's address.
    client TEXT NOT NULL,
    method TEXT NOT NULL,
    path TEXT NOT NULL,
    status BIGINT NOT NULL
);
CREATE INDEX audit_by_time ON audit (at);
