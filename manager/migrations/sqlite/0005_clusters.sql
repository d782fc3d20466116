-- Clusters: who belongs to which; what is set, by cluster.
CREATE TABLE clusters (
    name TEXT PRIMARY KEY,
    -- Grows with every change.
    version BIGINT NOT NULL,
    -- JSON: whom it claims.
    scopes TEXT NOT NULL
);
INSERT INTO clusters (name, version, scopes) VALUES ('default', 1, '{}');
ALTER TABLE members ADD COLUMN cluster TEXT NOT NULL DEFAULT 'default';
CREATE TABLE settings (
    cluster TEXT NOT NULL,
    version BIGINT NOT NULL,
    at BIGINT NOT NULL,
    who TEXT NOT NULL,
    -- JSON.
    settings TEXT NOT NULL,
    PRIMARY KEY (cluster, version)
);
INSERT INTO settings (cluster, version, at, who, settings)
    SELECT 'default', version, at, who, settings FROM configurations;
DROP TABLE configurations;
