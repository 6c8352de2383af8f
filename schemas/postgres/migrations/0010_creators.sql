-- +goose Up

-- A browser that is signed in. The cookie's secret is stored as its SHA-256: whoever reads this table cannot use it.
CREATE TABLE sessions (
    hash       bytea PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX sessions_account ON sessions (account_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- Who has the address may see one profile's numbers, and nothing else.
CREATE TABLE shares (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    profile_id bigint NOT NULL REFERENCES profiles,
    name       text NOT NULL,
    hash       bytea NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX shares_profile ON shares (profile_id);

-- What happened on the creator's side: written by hand, or by the triggers below when what is counted changes.
CREATE TABLE annotations (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    profile_id bigint NOT NULL REFERENCES profiles,
    at         timestamptz NOT NULL DEFAULT now(),
    kind       text NOT NULL,
    link_id    bigint,
    text       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX annotations_profile ON annotations (profile_id, at, id);

-- +goose StatementBegin
CREATE FUNCTION annotate_link_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO annotations (profile_id, kind, link_id, text) VALUES (NEW.profile_id, 'link-added', NEW.id, NEW.title);
    ELSIF NEW.deleted_at IS NOT NULL AND OLD.deleted_at IS NULL THEN
        INSERT INTO annotations (profile_id, kind, link_id, text) VALUES (NEW.profile_id, 'link-removed', NEW.id, NEW.title);
    ELSE
        IF NEW.url <> OLD.url THEN
            INSERT INTO annotations (profile_id, kind, link_id, text) VALUES (NEW.profile_id, 'link-target', NEW.id, NEW.title);
        END IF;
        IF NEW.title <> OLD.title THEN
            INSERT INTO annotations (profile_id, kind, link_id, text) VALUES (NEW.profile_id, 'link-title', NEW.id, OLD.title || ' → ' || NEW.title);
        END IF;
        IF NEW.hidden <> OLD.hidden THEN
            INSERT INTO annotations (profile_id, kind, link_id, text)
            VALUES (NEW.profile_id, CASE WHEN NEW.hidden THEN 'link-hidden' ELSE 'link-shown' END, NEW.id, NEW.title);
        END IF;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION annotate_profile_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.timezone <> OLD.timezone THEN
        INSERT INTO annotations (profile_id, kind, text) VALUES (NEW.id, 'timezone', OLD.timezone || ' → ' || NEW.timezone);
    END IF;
    IF NEW.handle <> OLD.handle THEN
        INSERT INTO annotations (profile_id, kind, text) VALUES (NEW.id, 'handle', OLD.handle || ' → ' || NEW.handle);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER link_annotated AFTER INSERT OR UPDATE ON links
    FOR EACH ROW EXECUTE FUNCTION annotate_link_change();
CREATE TRIGGER profile_annotated AFTER UPDATE ON profiles
    FOR EACH ROW EXECUTE FUNCTION annotate_profile_change();

-- What a creator was told: a spike, a drop, a milestone, the week's report.
CREATE TABLE alerts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    profile_id bigint NOT NULL REFERENCES profiles,
    kind       text NOT NULL,
    -- What it is about, so that the same is told once: 'clicks 1000', the hour of a spike, the week of a report.
    subject    text NOT NULL,
    text       text NOT NULL,
    details    jsonb NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    UNIQUE (profile_id, kind, subject)
);
CREATE INDEX alerts_profile ON alerts (profile_id, id);

-- Where alerts go. The secret signs what is sent, so it is kept as it is.
CREATE TABLE webhooks (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    profile_id bigint NOT NULL REFERENCES profiles,
    url        text NOT NULL,
    secret     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE INDEX webhooks_profile ON webhooks (profile_id) WHERE deleted_at IS NULL;

-- One message to one place, tried until it is answered or given up. webhook_id null: by mail to the account's address.
CREATE TABLE deliveries (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alert_id     bigint NOT NULL REFERENCES alerts ON DELETE CASCADE,
    webhook_id   bigint REFERENCES webhooks,
    attempts     integer NOT NULL DEFAULT 0,
    -- When it is tried next; null: delivered, or given up.
    next_at      timestamptz DEFAULT now(),
    delivered_at timestamptz,
    last_status  integer,
    last_error   text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_alert ON deliveries (alert_id);
CREATE INDEX deliveries_webhook ON deliveries (webhook_id, id);

-- +goose Down
DROP TABLE deliveries, webhooks, alerts;
DROP TRIGGER link_annotated ON links;
DROP TRIGGER profile_annotated ON profiles;
DROP FUNCTION annotate_link_change, annotate_profile_change;
DROP TABLE annotations, shares, sessions;
