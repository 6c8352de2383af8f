-- +goose Up

CREATE TABLE accounts (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email         text UNIQUE,
    password_hash text,
    admin         boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT now()
);

-- A bearer token is stored as its SHA-256: whoever reads this table cannot use it.
CREATE TABLE tokens (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES accounts ON DELETE CASCADE,
    name       text NOT NULL,
    hash       bytea NOT NULL UNIQUE,
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX tokens_account ON tokens (account_id);

CREATE TABLE profiles (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES accounts,
    -- Lower case; unique among the living, so that a deleted profile's handle can be had again.
    handle     text NOT NULL,
    title      text NOT NULL,
    bio        text NOT NULL DEFAULT '',
    -- IANA name; says where the profile's day begins.
    timezone   text NOT NULL DEFAULT 'UTC',
    theme      text NOT NULL DEFAULT 'auto',
    -- Version of the page, raised by every change that a visitor can see.
    layout     integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz
);
CREATE UNIQUE INDEX profiles_handle ON profiles (handle) WHERE deleted_at IS NULL;
CREATE INDEX profiles_account ON profiles (account_id, id) WHERE deleted_at IS NULL;

CREATE TABLE links (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    profile_id   bigint NOT NULL REFERENCES profiles,
    -- Own domain that the code belongs to; empty: the platform's.
    host         text NOT NULL DEFAULT '',
    -- Never given away again, so that a printed code never leads to somebody else's target.
    code         text NOT NULL,
    title        text NOT NULL,
    url          text NOT NULL,
    position     integer NOT NULL DEFAULT 0,
    hidden       boolean NOT NULL DEFAULT false,
    -- What becomes of the visitor's own query string: dropped, added where the target has no such parameter, or replacing it.
    query_mode   text NOT NULL DEFAULT 'off' CHECK (query_mode IN ('off', 'append', 'override')),
    -- Written into the target unless empty; the target's own parameter of the same name wins with 'append' and 'off', loses with 'override'.
    utm_source   text NOT NULL DEFAULT '',
    utm_medium   text NOT NULL DEFAULT '',
    utm_campaign text NOT NULL DEFAULT '',
    utm_term     text NOT NULL DEFAULT '',
    utm_content  text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    deleted_at   timestamptz,
    UNIQUE (host, code)
);
CREATE INDEX links_profile ON links (profile_id, position, id) WHERE deleted_at IS NULL;

-- Every redirector listens on channel spillway_changed. The payload names the cache entries that a change makes stale:
-- {"handles": ["old", "new"], "links": [{"host": "", "code": "abc"}]}.
-- +goose StatementBegin
CREATE FUNCTION announce_profile_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    handles jsonb := '[]';
    codes   jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN handles := handles || to_jsonb(OLD.handle); END IF;
    IF TG_OP <> 'DELETE' THEN handles := handles || to_jsonb(NEW.handle); END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND OLD.timezone = NEW.timezone AND OLD.handle = NEW.handle
                            AND OLD.deleted_at IS NOT DISTINCT FROM NEW.deleted_at) THEN
        codes := '[]'; -- its links carry nothing that changed
    ELSE
        SELECT coalesce(jsonb_agg(jsonb_build_object('host', host, 'code', code)), '[]') INTO codes
        FROM (SELECT host, code FROM links WHERE profile_id = OLD.id AND deleted_at IS NULL ORDER BY id LIMIT 101) AS l;
        -- A notification holds 8000 bytes; with more links than fit, everything is read again.
        IF jsonb_array_length(codes) > 100 THEN
            PERFORM pg_notify('spillway_changed', '{"all": true}');
            RETURN NULL;
        END IF;
    END IF;
    PERFORM pg_notify('spillway_changed', jsonb_build_object('handles', handles, 'links', codes)::text);
    RETURN NULL;
END $$;

CREATE FUNCTION announce_link_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    stale   jsonb := '[]';
    handles jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN stale := stale || jsonb_build_object('host', OLD.host, 'code', OLD.code); END IF;
    IF TG_OP <> 'DELETE' THEN stale := stale || jsonb_build_object('host', NEW.host, 'code', NEW.code); END IF;
    SELECT coalesce(jsonb_agg(handle), '[]') INTO handles FROM profiles
    WHERE id IN (CASE WHEN TG_OP <> 'INSERT' THEN OLD.profile_id END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.profile_id END);
    PERFORM pg_notify('spillway_changed', jsonb_build_object('handles', handles, 'links', stale)::text);
    RETURN NULL;
END $$;
-- +goose StatementEnd

CREATE TRIGGER profile_changed AFTER INSERT OR UPDATE OR DELETE ON profiles
    FOR EACH ROW EXECUTE FUNCTION announce_profile_change();
CREATE TRIGGER link_changed AFTER INSERT OR UPDATE OR DELETE ON links
    FOR EACH ROW EXECUTE FUNCTION announce_link_change();

-- +goose Down
DROP TABLE links, profiles, tokens, accounts;
DROP FUNCTION announce_profile_change, announce_link_change;
