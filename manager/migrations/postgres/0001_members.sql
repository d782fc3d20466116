-- Who is, or was, a scheduler or a seed peer.
CREATE TABLE members (
    -- The order in which members became known, which is that of lists.
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT NOT NULL,
    host TEXT NOT NULL,
    name TEXT NOT NULL,
    address TEXT NOT NULL,
    version TEXT NOT NULL,
    -- Which stream of beats speaks for the member; grows.
    stream BIGINT NOT NULL,
    -- Milliseconds since 1970.
    seen_at BIGINT NOT NULL,
    active BOOLEAN NOT NULL,
    UNIQUE (kind, host)
);
