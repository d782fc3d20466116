-- Managers of this database, by their keys: schedulers take preheats from no others.
CREATE TABLE managers (
    host TEXT PRIMARY KEY,
    seen_at BIGINT NOT NULL
);
