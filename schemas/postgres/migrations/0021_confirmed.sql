-- +goose Up

-- Letters go to addresses of which somebody has shown that they are theirs. Null: not yet.
ALTER TABLE accounts ADD COLUMN email_confirmed_at timestamptz;

-- The letter that asks whether an address is its account's. next_at null: it is sent, or given up.
CREATE TABLE confirmations (
    account_id bigint PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    letters    integer NOT NULL DEFAULT 1, -- that were asked for
    asked_at   timestamptz NOT NULL DEFAULT now(),
    next_at    timestamptz DEFAULT now(),
    attempts   integer NOT NULL DEFAULT 0, -- of the latest
    last_error text NOT NULL DEFAULT ''
);
CREATE INDEX confirmations_due ON confirmations (next_at) WHERE next_at IS NOT NULL;

-- +goose Down
DROP TABLE confirmations;
ALTER TABLE accounts DROP COLUMN email_confirmed_at;
