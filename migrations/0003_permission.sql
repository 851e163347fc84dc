-- consent/ ------------------------------------------------------------------------------------
-- Version 1 entries are chained over the columns of the first migration, version 2 entries over these
-- as well. `evidence` (address as given, agent's trail, free words) and `origin` (address and agent of
-- the client) are personal: each holds a salt, its digest stays in the chain, and it may be erased.
ALTER TABLE consent_event ADD COLUMN version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE consent_event ADD COLUMN channel TEXT;
ALTER TABLE consent_event ADD COLUMN purpose TEXT;
ALTER TABLE consent_event ADD COLUMN basis TEXT;
ALTER TABLE consent_event ADD COLUMN frequency TEXT;
ALTER TABLE consent_event ADD COLUMN until BIGINT;
ALTER TABLE consent_event ADD COLUMN detail TEXT;
ALTER TABLE consent_event ADD COLUMN origin TEXT;
ALTER TABLE consent_event ADD COLUMN origin_digest TEXT;

-- Where a wording was shown (`form`, `mail`, `page`), in which version of it.
ALTER TABLE consent_wording ADD COLUMN kind TEXT;
ALTER TABLE consent_wording ADD COLUMN version TEXT;
ALTER TABLE consent_wording ADD COLUMN first_shown_at BIGINT;

-- Of a subscription: how often (nothing: every mail), until when it is paused, and when an implied
-- consent ends by itself.
ALTER TABLE subscription ADD COLUMN frequency TEXT;
ALTER TABLE subscription ADD COLUMN until BIGINT;
ALTER TABLE subscription ADD COLUMN ends BIGINT;
CREATE INDEX subscription_until ON subscription (until) WHERE until IS NOT NULL;
CREATE INDEX subscription_ends ON subscription (ends) WHERE ends IS NOT NULL;
CREATE INDEX subscription_frequency ON subscription (topic_id, contact_id) WHERE frequency IS NOT NULL;

-- What a person chose for all topics: the ledger folded. `tracking` is full, anonymous or none (nothing:
-- as the instance says), `profiling` is refused or nothing.
CREATE TABLE consent_choice (
  contact_id BIGINT NOT NULL,
  tracking TEXT,
  profiling TEXT,
  last_seq BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  PRIMARY KEY (contact_id)
) /* clustered */;

-- Signed heads of the chain. `signed_at` is the time as it stands in the signed text.
CREATE TABLE consent_checkpoint (
  seq BIGINT NOT NULL,
  at BIGINT NOT NULL,
  signed_at TEXT NOT NULL,
  hash TEXT NOT NULL,
  public_key TEXT NOT NULL,
  signature TEXT NOT NULL,
  PRIMARY KEY (seq)
) /* clustered */;

-- A confirmation mail is a message (`message_id`), for all that one person asked for together; one
-- reminder (`reminder_id`) follows it. `sent_at` and `remind_at` come with the outcome of its delivery.
ALTER TABLE confirmation ADD COLUMN message_id BIGINT;
ALTER TABLE confirmation ADD COLUMN reminder_id BIGINT;
ALTER TABLE confirmation ADD COLUMN locale TEXT;
ALTER TABLE confirmation ADD COLUMN form TEXT;
-- What was typed into the form, as JSON: personal; it fills in what is empty once confirmed.
ALTER TABLE confirmation ADD COLUMN profile TEXT;
ALTER TABLE confirmation ADD COLUMN remind_at BIGINT;
ALTER TABLE confirmation ADD COLUMN reminded_at BIGINT;
CREATE INDEX confirmation_contact ON confirmation (contact_id);
CREATE INDEX confirmation_due ON confirmation (due_at) WHERE sent_at IS NULL AND message_id IS NULL AND tries < 12;
CREATE INDEX confirmation_under_way ON confirmation (message_id) WHERE sent_at IS NULL AND message_id IS NOT NULL AND tries < 12;
CREATE INDEX confirmation_remind ON confirmation (remind_at) WHERE remind_at IS NOT NULL AND reminded_at IS NULL;

ALTER TABLE suppression ADD COLUMN expires_at BIGINT;
CREATE INDEX suppression_expires ON suppression (expires_at) WHERE expires_at IS NOT NULL;

-- Suppression of more than one known address. `kind` is `domain`, the hash of a list (`md5`, `sha1`,
-- `sha256`, of the address as compared, in hex), or `keyed`: the digest of an erased address under a key
-- derived from the secret.
CREATE TABLE suppression_rule (
  kind TEXT NOT NULL,
  value TEXT NOT NULL,
  reason TEXT NOT NULL,
  source TEXT NOT NULL,
  at BIGINT NOT NULL,
  expires_at BIGINT,
  PRIMARY KEY (kind, value)
) /* clustered */;
CREATE INDEX suppression_rule_expires ON suppression_rule (expires_at) WHERE expires_at IS NOT NULL;

-- What was taken off the suppression list, and on whose word. `subject` is the keyed digest of an address, or
-- the value of another entry; `since` is when the entry had been made.
CREATE TABLE suppression_removal (
  id BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  kind TEXT NOT NULL,
  subject TEXT NOT NULL,
  reason TEXT NOT NULL,
  since BIGINT NOT NULL,
  source TEXT NOT NULL
);
CREATE INDEX suppression_removal_subject ON suppression_removal (subject);

-- Why people left, where they said so.
CREATE TABLE withdrawal_reason (
  id BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  topic_id BIGINT NOT NULL,
  run_id BIGINT,
  reason TEXT NOT NULL,
  comment TEXT
);
CREATE INDEX withdrawal_reason_contact ON withdrawal_reason (contact_id);
CREATE INDEX withdrawal_reason_run ON withdrawal_reason (run_id) WHERE run_id IS NOT NULL;

-- How many requests of forms a client, an address or everybody may still make (GCRA: `spent_until` in
-- microseconds). Names hold keyed digests, no addresses.
CREATE TABLE form_bucket (
  name TEXT NOT NULL,
  spent_until BIGINT NOT NULL,
  taken_at BIGINT NOT NULL,
  PRIMARY KEY (name)
) /* clustered */;

-- What the API answered to a request with an Idempotency-Key: its repetition gets the same. `key` is a digest
-- of the key and `digest` one of the request; the answer holds what the caller sent. Once the person it is about
-- is erased, request and answer are empty.
CREATE TABLE api_request (
  client TEXT NOT NULL,
  key TEXT NOT NULL,
  digest TEXT NOT NULL,
  status BIGINT NOT NULL,
  answer TEXT NOT NULL,
  at BIGINT NOT NULL,
  contact_id BIGINT,
  PRIMARY KEY (client, key)
) /* clustered */;
CREATE INDEX api_request_at ON api_request (at);
CREATE INDEX api_request_contact ON api_request (contact_id) WHERE contact_id IS NOT NULL;

-- What people demanded of us by their rights (access, erasure, ..), and until when we have to answer.
-- `subject` is a keyed digest of the address: it stays when the person is erased.
CREATE TABLE rights_request (
  id BIGINT PRIMARY KEY,
  kind TEXT NOT NULL,
  contact_id BIGINT,
  subject TEXT NOT NULL,
  state TEXT NOT NULL,
  source TEXT NOT NULL,
  asked_at BIGINT NOT NULL,
  due_at BIGINT NOT NULL,
  verified_at BIGINT,
  closed_at BIGINT,
  note TEXT
);
CREATE INDEX rights_request_open ON rights_request (due_at) WHERE closed_at IS NULL;
CREATE INDEX rights_request_contact ON rights_request (contact_id) WHERE contact_id IS NOT NULL;

-- Codes to give away: each once, and one of a pool to a person.
CREATE TABLE coupon (
  pool TEXT NOT NULL,
  code TEXT NOT NULL,
  contact_id BIGINT,
  given_at BIGINT,
  PRIMARY KEY (pool, code)
) /* clustered */;
CREATE UNIQUE INDEX coupon_contact ON coupon (pool, contact_id) WHERE contact_id IS NOT NULL;
CREATE INDEX coupon_free ON coupon (pool, code) WHERE contact_id IS NULL;

-- Who is to be welcomed to a topic, once for good: `message_id` is the mail, nothing while it waits.
CREATE TABLE welcome (
  topic_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  asked_at BIGINT NOT NULL,
  message_id BIGINT,
  PRIMARY KEY (topic_id, contact_id)
) /* clustered */;
CREATE INDEX welcome_waiting ON welcome (topic_id, asked_at) WHERE message_id IS NULL;
CREATE INDEX welcome_contact ON welcome (contact_id);

-- How far a reader of the ledger has come.
CREATE TABLE consent_reader (
  name TEXT NOT NULL,
  seq BIGINT NOT NULL,
  PRIMARY KEY (name)
) /* clustered */;
-- Whoever subscribed before there were welcomes gets none.
INSERT INTO consent_reader (name, seq) SELECT 'welcome', seq FROM consent_head WHERE id = 1;

-- People who want fewer mails: when the last collection of a topic went to them, when the next is due.
CREATE TABLE digest (
  topic_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  frequency TEXT NOT NULL,
  since BIGINT NOT NULL,
  next_at BIGINT NOT NULL,
  PRIMARY KEY (topic_id, contact_id)
) /* clustered */;
CREATE INDEX digest_next ON digest (next_at);

-- When each rule of retention last ran, and what it removed.
CREATE TABLE retention_run (
  rule TEXT NOT NULL,
  at BIGINT NOT NULL,
  removed BIGINT NOT NULL,
  PRIMARY KEY (rule)
) /* clustered */;

-- delivery/ -----------------------------------------------------------------------------------
-- Messages of our own beside those of others: `transactional`, `confirmation`, `reminder`, `welcome`,
-- `digest`, `notice`. `topic_id` is the permission that one needs.
ALTER TABLE message ADD COLUMN kind TEXT NOT NULL DEFAULT 'transactional';
ALTER TABLE message ADD COLUMN topic_id BIGINT;
-- Of a message: others go first (a receipt before a hundred thousand confirmation mails).
ALTER TABLE delivery ADD COLUMN patient BOOLEAN NOT NULL DEFAULT FALSE;
DROP INDEX delivery_message_due;
CREATE INDEX delivery_message_due ON delivery (patient, due_at, id) WHERE transactional AND state IN ('due', 'deferred');
-- What a person's digest collects.
CREATE INDEX delivery_collected ON delivery (contact_id, id) WHERE state = 'skipped' AND reason = 'digest';

-- How the person of a mail is tracked in it, as of its claim, where that is less than in full: anonymous or none.
ALTER TABLE delivery ADD COLUMN tracking TEXT;
CREATE INDEX delivery_tracking ON delivery (run_id, tracking) WHERE tracking IS NOT NULL;
