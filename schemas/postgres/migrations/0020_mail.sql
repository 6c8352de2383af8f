-- +goose Up

-- What a profile's owner wants by mail. No row: everything.
CREATE TABLE mail_settings (
    profile_id bigint PRIMARY KEY REFERENCES profiles,
    alerts     boolean NOT NULL DEFAULT true,
    weekly     boolean NOT NULL DEFAULT true
);

-- An alert is mailed once, whoever finds it.
CREATE UNIQUE INDEX deliveries_mail ON deliveries (alert_id) WHERE webhook_id IS NULL;

-- What happened to all profiles has none: new counting rules, a time of which events are missing. It may have lasted; null: it was a
-- moment, or goes on. subject tells such notes apart, so that each is written once.
ALTER TABLE annotations ALTER COLUMN profile_id DROP NOT NULL, ADD COLUMN until timestamptz, ADD COLUMN subject text;
CREATE UNIQUE INDEX annotations_subject ON annotations (kind, subject) WHERE subject IS NOT NULL;
CREATE INDEX annotations_of_all ON annotations (at, id) WHERE profile_id IS NULL;

-- +goose Down
DROP INDEX annotations_subject, annotations_of_all, deliveries_mail;
DELETE FROM annotations WHERE profile_id IS NULL;
ALTER TABLE annotations ALTER COLUMN profile_id SET NOT NULL, DROP COLUMN until, DROP COLUMN subject;
DROP TABLE mail_settings;
