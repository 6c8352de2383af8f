-- +goose Up

-- Closed days, kept for ever: a pure function of the day's events, computed again and swapped in by REPLACE PARTITION whenever
-- it differs. One table, so that the swap is one step and all panels of a day change together.
CREATE TABLE IF NOT EXISTS {{.Database}}.days {{.OnCluster}}
(
    date       Date CODEC(ZSTD(1)),
    profile_id UInt64 CODEC(ZSTD(1)),
    -- Empty: the series, a row a quarter hour. 'visitors': distinct visitors of the day. Otherwise a breakdown: 'country', 'device' …
    dimension  LowCardinality(String),
    -- The breakdown's value, as in the column of that name in events; (other) for all but the most frequent ones.
    value      String CODEC(ZSTD(1)),
    kind       Enum8('unknown' = 0, 'view' = 1, 'click' = 2) CODEC(ZSTD(1)),
    class      Enum8('unknown' = 0, 'person' = 1, 'bot' = 2, 'preview' = 3, 'prefetch' = 4, 'head' = 5, 'scanner' = 6, 'owner' = 7, 'test' = 8) CODEC(ZSTD(1)),
    -- Zero for views. In dimension 'visitors' the kind 'unknown' counts who viewed or clicked.
    link_id    UInt64 CODEC(ZSTD(1)),
    surface    Enum8('unknown' = 0, 'page' = 1, 'direct' = 2, 'qr' = 3) CODEC(ZSTD(1)),
    -- Start of the quarter hour; 1970-01-01 outside the series.
    bucket     DateTime('UTC') CODEC(Delta, ZSTD(1)),
    events     UInt64 CODEC(ZSTD(1)),
    visitors   UInt64 CODEC(ZSTD(1))
)
ENGINE = {{.MergeTree "days"}}
PARTITION BY date
ORDER BY (profile_id, dimension, kind, class, link_id, surface, bucket, value);

-- Which days are closed. Written after the swap: until then a reader takes the day from its events.
CREATE TABLE IF NOT EXISTS {{.Database}}.closed_days {{.OnCluster}}
(
    date      Date,
    events    UInt64,
    closed_at DateTime64(3, 'UTC')
)
ENGINE = {{.ReplacingMergeTree "closed_days" "closed_at"}}
ORDER BY date;
{{if .Cluster}}
CREATE TABLE IF NOT EXISTS {{.Database}}.days_all {{.OnCluster}} AS {{.Database}}.days
ENGINE = Distributed('{{.Cluster}}', '{{.Database}}', 'days');
CREATE TABLE IF NOT EXISTS {{.Database}}.closed_days_all {{.OnCluster}} AS {{.Database}}.closed_days
ENGINE = Distributed('{{.Cluster}}', '{{.Database}}', 'closed_days');
{{end}}
-- +goose Down
{{if .Cluster}}
DROP TABLE IF EXISTS {{.Database}}.closed_days_all {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.days_all {{.OnCluster}};
{{end}}
DROP TABLE IF EXISTS {{.Database}}.closed_days {{.OnCluster}};
DROP TABLE IF EXISTS {{.Database}}.days {{.OnCluster}};
