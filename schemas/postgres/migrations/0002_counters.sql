-- +goose Up

-- Lifetime numbers, set (never added to) by rollup. A row a class, so that every number is to be had with or without each
-- class by one indexed read. as_of is ClickHouse's clock when the numbers were read: an older reading never replaces a newer one.
CREATE TABLE profile_counters (
    profile_id      bigint NOT NULL,
    class           text NOT NULL,
    views           bigint NOT NULL,
    clicks          bigint NOT NULL,
    -- Clicks whose surface is the page: the numerator of the click-through rate on the page.
    page_clicks     bigint NOT NULL,
    -- Distinct daily visitor ids, added up by day: who viewed, who clicked, who did either.
    unique_viewers  bigint NOT NULL,
    unique_clickers bigint NOT NULL,
    unique_visitors bigint NOT NULL,
    as_of           timestamptz NOT NULL,
    PRIMARY KEY (profile_id, class)
) WITH (fillfactor = 50);

CREATE TABLE link_counters (
    profile_id bigint NOT NULL,
    link_id    bigint NOT NULL,
    class      text NOT NULL,
    clicks     bigint NOT NULL,
    as_of      timestamptz NOT NULL,
    PRIMARY KEY (profile_id, link_id, class)
) WITH (fillfactor = 50);

-- The key of a date's visitor ids, shared by all redirectors. Destroyed when the date is over everywhere: from then on nobody
-- can tell whether two ids of that date belong to a given address.
CREATE TABLE visitor_salts (
    date       date PRIMARY KEY,
    salt       bytea NOT NULL CHECK (length(salt) = 16),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Random keys of this installation, by name.
CREATE TABLE secrets (
    name       text PRIMARY KEY,
    value      bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE profile_counters, link_counters, visitor_salts, secrets;
