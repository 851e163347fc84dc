-- delivery/ -----------------------------------------------------------------------------------
-- The mailbox provider behind the address (`gmail`, `qq`, ..; `other`), so that one that asks us to
-- slow down never holds up the rest. A transactional delivery belongs to a message, whose id stands
-- in `run_id`; it has a lane of its own.
ALTER TABLE delivery ADD COLUMN provider TEXT NOT NULL DEFAULT 'other';
ALTER TABLE delivery ADD COLUMN transactional BOOLEAN NOT NULL DEFAULT FALSE;
DROP INDEX delivery_due;
CREATE INDEX delivery_due ON delivery (run_id, provider, due_at, id) WHERE state IN ('due', 'deferred');
CREATE INDEX delivery_message_due ON delivery (due_at, id) WHERE transactional AND state IN ('due', 'deferred');

-- What a worker does now, for whoever watches: JSON, written once a second.
ALTER TABLE worker ADD COLUMN status TEXT;

-- Token buckets, shared by all nodes. `spent_until` (microseconds) is the theoretical arrival time of
-- GCRA; `used` counts the mails of `day` (days since 1970 in the instance's zone); `taken_at`
-- (milliseconds) is when mails were last taken, so that a claim that comes back finds out whether the
-- rate may have them again.
CREATE TABLE bucket (
  name TEXT NOT NULL,
  spent_until BIGINT NOT NULL,
  day BIGINT NOT NULL,
  used BIGINT NOT NULL,
  taken_at BIGINT NOT NULL,
  PRIMARY KEY (name)
) /* clustered */;

-- What providers asked of us, learned from their replies and shared by all nodes: nothing before
-- `paused_until`, then at most `per_hour` (0: no limit of its own).
CREATE TABLE throttle (
  relay TEXT NOT NULL,
  provider TEXT NOT NULL,
  paused_until BIGINT NOT NULL,
  per_hour BIGINT NOT NULL,
  strikes BIGINT NOT NULL,
  reason TEXT NOT NULL,
  changed_at BIGINT NOT NULL,
  PRIMARY KEY (relay, provider)
) /* clustered */;

-- Which mailbox provider a domain's MX points to, as far as it was looked up.
CREATE TABLE domain_provider (
  domain TEXT NOT NULL,
  provider TEXT NOT NULL,
  mx TEXT NOT NULL,
  looked_at BIGINT NOT NULL,
  PRIMARY KEY (domain)
) /* clustered */;

-- Transactional messages: one row each, accepted once for every idempotency key of a client.
CREATE TABLE message (
  id BIGINT PRIMARY KEY,
  delivery_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  client TEXT NOT NULL,
  idempotency_key TEXT,
  request_digest TEXT NOT NULL,
  template TEXT,
  definition_hash TEXT NOT NULL,
  data TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX message_key ON message (client, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX message_contact ON message (contact_id, id);

-- What messages are written from, stored once by its hash.
CREATE TABLE message_definition (
  hash TEXT NOT NULL,
  definition TEXT NOT NULL,
  PRIMARY KEY (hash)
);

-- worker/ -------------------------------------------------------------------------------------
-- Tasks that one node does for all. `token` grows with every holder: a write that names an old one
-- is refused.
CREATE TABLE lease (
  name TEXT NOT NULL,
  holder BIGINT NOT NULL,
  token BIGINT NOT NULL,
  lease_until BIGINT NOT NULL,
  PRIMARY KEY (name)
) /* clustered */;

-- web/ ----------------------------------------------------------------------------------------
-- Who may call the API: the digest of a token that is shown once.
CREATE TABLE api_token (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL,
  digest TEXT NOT NULL,
  scopes TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  revoked_at BIGINT
);
CREATE UNIQUE INDEX api_token_digest ON api_token (digest);
