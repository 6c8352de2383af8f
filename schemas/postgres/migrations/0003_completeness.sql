-- +goose Up

-- One row, set by rollup each second: up to when every answered view and click is known to be in the counters.
CREATE TABLE completeness (
    only_row         boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- Null: nothing is known yet.
    complete_through timestamptz,
    -- ClickHouse's clock when it was computed.
    computed_at      timestamptz NOT NULL,
    -- The streams that complete_through waits for, those that fell silent, and what is lost for good: arrays of objects.
    held_back        jsonb NOT NULL DEFAULT '[]',
    silent           jsonb NOT NULL DEFAULT '[]',
    lost             jsonb NOT NULL DEFAULT '[]'
) WITH (fillfactor = 50);

-- Months whose raw events were dropped, or are about to be. A day in one of them is never closed again: there is nothing left to
-- compute it from.
CREATE TABLE expired_months (
    month      date PRIMARY KEY CHECK (extract(day FROM month) = 1),
    expired_at timestamptz NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE completeness, expired_months;
