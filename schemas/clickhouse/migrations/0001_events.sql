-- +goose Up

-- One term a partition: the random number of whoever took the partition last. Volatile on purpose, and in no backup: after
-- ClickHouse starts there is none, and without a term nothing passes the constraint below.
CREATE TABLE IF NOT EXISTS {{.Database}}.terms {{.OnCluster}}
(
    partition UInt32,
    term      UInt64
)
{{.TermsEngine}};
{{if .Cluster}}
-- A constraint cannot read KeeperMap itself; a direct dictionary asks its source for every check and keeps nothing.
CREATE DICTIONARY IF NOT EXISTS {{.Database}}.current_terms {{.OnCluster}}
(
    partition UInt64,
    term      UInt64 DEFAULT 0
)
PRIMARY KEY partition
SOURCE(CLICKHOUSE(TABLE 'terms' DB '{{.Database}}'))
LAYOUT(DIRECT());
{{end}}
-- One row an event. Whatever must never disagree with it is a projection of it: written in the same part, so an insert is one
-- atomic step for each month that it touches.
CREATE TABLE IF NOT EXISTS {{.Database}}.events {{.OnCluster}}
(
    -- The event's name: (stream, partition, sequence).
    stream         UInt64 CODEC(ZSTD(1)),
    partition      UInt32 CODEC(ZSTD(1)),
    sequence       UInt64 CODEC(Delta, ZSTD(1)),
    -- Where it stood in Kafka, and who wrote it. For people and for audits; nothing is decided by them.
    offset         UInt64 CODEC(Delta, ZSTD(1)),
    term           UInt64 CODEC(ZSTD(1)),

    time           DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    -- The profile's local date at that time: the day that the event is closed with.
    date           Date CODEC(ZSTD(1)),
    kind           Enum8('unknown' = 0, 'view' = 1, 'click' = 2) CODEC(ZSTD(1)),
    class          Enum8('unknown' = 0, 'person' = 1, 'bot' = 2, 'preview' = 3, 'prefetch' = 4, 'head' = 5, 'scanner' = 6, 'owner' = 7, 'test' = 8) CODEC(ZSTD(1)),
    -- Why it has that class; empty for a person.
    reason         LowCardinality(String),
    rules_version  UInt32 CODEC(ZSTD(1)),
    suspect        Bool CODEC(ZSTD(1)),
    profile_id     UInt64 CODEC(ZSTD(1)),
    link_id        UInt64 CODEC(ZSTD(1)),
    visitor        UInt64 CODEC(ZSTD(1)),
    surface        Enum8('unknown' = 0, 'page' = 1, 'direct' = 2, 'qr' = 3) CODEC(ZSTD(1)),
    place          LowCardinality(String),
    variant        LowCardinality(String),
    layout         UInt32 CODEC(ZSTD(1)),
    host           LowCardinality(String),

    country        LowCardinality(String),
    language       LowCardinality(String),
    device         LowCardinality(String),
    browser        LowCardinality(String),
    os             LowCardinality(String),
    user_agent     LowCardinality(String),
    referrer       String CODEC(ZSTD(1)),
    referrer_host  LowCardinality(String),
    channel        LowCardinality(String),
    utm_source     LowCardinality(String),
    utm_medium     LowCardinality(String),
    utm_campaign   LowCardinality(String),
    utm_term       LowCardinality(String),
    utm_content    LowCardinality(String),

    -- Finds the rows of one stream when its count says that it has holes; there is no other reason to look for a stream.
    INDEX by_stream stream TYPE bloom_filter(0.01) GRANULARITY 8,

    -- The fence. Zero is what is read where there is no term.
    CONSTRAINT fence CHECK term != 0 AND term = {{.CurrentTerm}},

    -- The open days' series: quarter hours of each profile and link.
    PROJECTION buckets
    (
        SELECT date, profile_id, kind, link_id, class, surface, toStartOfFifteenMinutes(time), count()
        GROUP BY date, profile_id, kind, link_id, class, surface, toStartOfFifteenMinutes(time)
    ),
    -- The open days' unique visitors; exact up to 65 536 of them in a day, then within a percent until the day is closed.
    PROJECTION visitors
    (
        SELECT date, profile_id, kind, class, uniq(visitor)
        GROUP BY date, profile_id, kind, class
    ),
    -- What is there of each stream. A set of sequences without holes and doubles is 1 … n: count, maximum, sum and sum of
    -- squares (mod 2^64) all agree.
    PROJECTION streams
    (
        SELECT partition, stream, count(), min(sequence), max(sequence), sum(sequence), sum(sequence * sequence), min(time), max(time), max(offset)
        GROUP BY partition, stream
    )
)
ENGINE = {{.MergeTree "events"}}
PARTITION BY toYYYYMM(date)
ORDER BY (date, profile_id, time)
SETTINGS index_granularity = 8192, {{.NoDeduplication}};

-- What streams said of themselves. Cumulative, so maxima are enough; where the same stream is announced by two copies of its
-- directory, the one that knows more wins.
CREATE TABLE IF NOT EXISTS {{.Database}}.announcements {{.OnCluster}}
(
    partition     UInt32,
    stream        UInt64,
    time          SimpleAggregateFunction(max, DateTime64(6, 'UTC')),
    journaled     SimpleAggregateFunction(max, UInt64),
    unreadable    SimpleAggregateFunction(groupUniqArrayArray, Array(Tuple(UInt64, UInt64))),
    dropped       SimpleAggregateFunction(max, UInt64),
    dropped_since SimpleAggregateFunction(max, DateTime64(6, 'UTC')),
    dropped_until SimpleAggregateFunction(max, DateTime64(6, 'UTC')),
    final         SimpleAggregateFunction(max, UInt8),
    began         SimpleAggregateFunction(max, DateTime64(6, 'UTC')),
    origin        SimpleAggregateFunction(anyLast, String),
    partitions    SimpleAggregateFunction(max, UInt32),
    run           SimpleAggregateFunction(max, UInt32)
)
ENGINE = {{.AggregatingMergeTree "announcements"}}
ORDER BY (partition, stream);

-- What was there of each stream in the months whose raw events were dropped: the sequences 1 … highest except the holes.
CREATE TABLE IF NOT EXISTS {{.Database}}.expired_streams {{.OnCluster}}
(
    partition   UInt32,
    stream      UInt64,
    highest     UInt64,
    holes       Array(Tuple(UInt64, UInt64)),
    events      UInt64,
    recorded_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = {{.ReplacingMergeTree "expired_streams" "recorded_at"}}
ORDER BY (partition, stream);

-- Hints for rollup: which profiles and dates got events just now. Losing one only delays a counter until the next sweep, so it
-- lives in memory, is bounded, and is never asked for the truth.
CREATE TABLE IF NOT EXISTS {{.Database}}.changed {{.OnCluster}}
(
    at         DateTime64(3, 'UTC') DEFAULT now64(3),
    profile_id UInt64,
    date       Date
)
ENGINE = Memory
SETTINGS min_rows_to_keep = 100000, max_rows_to_keep = 1000000;
{{if .Cluster}}
-- What queries read on a cluster. Nothing is ever inserted through them: a row is checked where it is stored.
CREATE TABLE IF NOT EXISTS {{.Database}}.events_all {{.OnCluster}} AS {{.Database}}.events
ENGINE = Distributed('{{.Cluster}}', '{{.Database}}', 'events');
CREATE TABLE IF NOT EXISTS {{.Database}}.announcements_all {{.OnCluster}} AS {{.Database}}.announcements
ENGINE = Distributed('{{.Cluster}}', '{{.Database}}', 'announcements');
CREATE TABLE IF NOT EXISTS {{.Database}}.expired_streams_all {{.OnCluster}} AS {{.Database}}.expired_streams
ENGINE = Distributed('{{.Cluster}}', '{{.Database}}', 'expired_streams');
CREATE TABLE IF NOT EXISTS {{.Database}}.changed_all {{.OnCluster}} AS {{.Database}}.changed
ENGINE = Distributed('{{.Cluster}}', '{{.Database}}', 'changed');
{{end}}
-- +goose Down
{{if .Cluster}}
DROP TABLE IF EXISTS {{.Database}}.changed_all {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.expired_streams_all {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.announcements_all {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.events_all {{.OnCluster}};
DROP DICTIONARY IF EXISTS {{.Database}}.current_terms {{.OnCluster}};
{{end}}
DROP TABLE IF EXISTS {{.Database}}.changed {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.expired_streams {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.announcements {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.events {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.terms {{.OnCluster}};
