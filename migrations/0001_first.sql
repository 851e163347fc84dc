-- Times are milliseconds since 1970 UTC. Ids come from the application: 63 bits, time-ordered.
-- Each table has one owner (a room) that writes it.

-- contact/ ------------------------------------------------------------------------------------
-- Declared attributes are columns of this table, added when the configuration declares them:
-- `t_NAME` text, `n_NAME` number, `b_NAME` boolean, `d_NAME` date (BIGINT yyyymmdd),
-- `l_NAME` list (text; each value between U+001F marks).
CREATE TABLE contact (
  id BIGINT PRIMARY KEY,
  email TEXT NOT NULL,
  email_key TEXT NOT NULL,
  first_name TEXT,
  last_name TEXT,
  locale TEXT,
  timezone TEXT,
  phone TEXT,
  external_id TEXT,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX contact_email_key ON contact (email_key);
CREATE INDEX contact_external_id ON contact (external_id) WHERE external_id IS NOT NULL;

-- consent/ ------------------------------------------------------------------------------------
-- Names of topics that were ever used: ids in tokens and rows outlive the configuration.
CREATE TABLE topic (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL
);
CREATE UNIQUE INDEX topic_name ON topic (name);

-- Wording shown to people, stored once by its hash.
CREATE TABLE consent_wording (
  hash TEXT NOT NULL,
  wording TEXT NOT NULL,
  locale TEXT,
  PRIMARY KEY (hash)
);

-- The ledger: append-only, hash-chained. `evidence` (address, agent, token trail) is personal and
-- may be erased; its digest stays in the chain.
CREATE TABLE consent_event (
  seq BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  topic_id BIGINT NOT NULL,
  action TEXT NOT NULL,
  source TEXT NOT NULL,
  source_line BIGINT,
  wording_hash TEXT,
  evidence TEXT,
  evidence_digest TEXT,
  hash BYTEA NOT NULL
);
CREATE INDEX consent_event_contact ON consent_event (contact_id, seq);

-- One row: the last link of the chain, and a counter that moves whenever anybody may have lost
-- permission, so that a sender can see cheaply that its permits still hold.
CREATE TABLE consent_head (
  id BIGINT PRIMARY KEY,
  seq BIGINT NOT NULL,
  hash BYTEA NOT NULL,
  epoch BIGINT NOT NULL
);

-- Standing: the ledger folded, one row a person and topic.
CREATE TABLE subscription (
  topic_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  standing TEXT NOT NULL,
  since BIGINT NOT NULL,
  last_seq BIGINT NOT NULL,
  PRIMARY KEY (topic_id, contact_id)
) /* clustered */;

-- Confirmation mails (double opt-in) that were asked for: one row a person and topic.
CREATE TABLE confirmation (
  topic_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  asked_at BIGINT NOT NULL,
  due_at BIGINT NOT NULL,
  tries BIGINT NOT NULL,
  sent_at BIGINT,
  PRIMARY KEY (topic_id, contact_id)
) /* clustered */;

-- Addresses that get nothing, whatever their standing.
CREATE TABLE suppression (
  email_key TEXT NOT NULL,
  reason TEXT NOT NULL,
  source TEXT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (email_key)
) /* clustered */;

-- campaign/ -----------------------------------------------------------------------------------
CREATE TABLE run (
  id BIGINT PRIMARY KEY,
  campaign TEXT NOT NULL,
  topic_id BIGINT NOT NULL,
  firing TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT,
  scheduled_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  started_at BIGINT,
  finished_at BIGINT,
  definition_hash TEXT NOT NULL,
  definition TEXT NOT NULL,
  excluded TEXT NOT NULL,
  audience BIGINT NOT NULL,
  audience_cursor BIGINT NOT NULL,
  audience_done BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX run_firing ON run (campaign, firing);
CREATE INDEX run_open ON run (scheduled_at) WHERE state IN ('scheduled', 'preparing', 'sending', 'paused');

-- The links of a run, numbered as in its content.
CREATE TABLE run_link (
  run_id BIGINT NOT NULL,
  position BIGINT NOT NULL,
  url TEXT NOT NULL,
  name TEXT NOT NULL,
  PRIMARY KEY (run_id, position)
) /* clustered */;

-- When a schedule last looked: firings before this were handled or missed.
CREATE TABLE schedule (
  campaign TEXT NOT NULL,
  looked_until BIGINT NOT NULL,
  PRIMARY KEY (campaign)
);

-- delivery/ -----------------------------------------------------------------------------------
-- One row a recipient and run, written before any mail leaves.
CREATE TABLE delivery (
  id BIGINT PRIMARY KEY,
  run_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  state TEXT NOT NULL,
  due_at BIGINT NOT NULL,
  attempts BIGINT NOT NULL,
  worker BIGINT,
  reason TEXT,
  reply TEXT,
  changed_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX delivery_run_contact ON delivery (run_id, contact_id);
CREATE INDEX delivery_contact ON delivery (contact_id, run_id);
CREATE INDEX delivery_due ON delivery (run_id, due_at, id) WHERE state IN ('due', 'deferred');
CREATE INDEX delivery_claimed ON delivery (worker) WHERE state = 'claimed';

-- Who is sending: a worker that stops renewing its lease has lost its claims.
CREATE TABLE worker (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL,
  started_at BIGINT NOT NULL,
  lease_until BIGINT NOT NULL
);

-- What a worker is about to hand over and what came of it, one row a group commit. Folded into
-- `delivery` soon after; what is left of a dead worker tells which mails are in doubt.
CREATE TABLE handover (
  id BIGINT PRIMARY KEY,
  worker BIGINT NOT NULL,
  at BIGINT NOT NULL,
  entries TEXT NOT NULL
);
CREATE INDEX handover_worker ON handover (worker, id);

-- tracking/ -----------------------------------------------------------------------------------
CREATE TABLE hit (
  id BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  kind TEXT NOT NULL,
  delivery_id BIGINT NOT NULL,
  run_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  link BIGINT,
  verdict TEXT NOT NULL,
  signals TEXT NOT NULL,
  ip TEXT,
  agent TEXT
);
CREATE INDEX hit_contact ON hit (contact_id, kind, at);
CREATE INDEX hit_run ON hit (run_id, kind, contact_id);

-- Withdrawals that came through a mail, for the report of its run.
CREATE TABLE unsubscribe (
  delivery_id BIGINT NOT NULL,
  run_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  at BIGINT NOT NULL,
  way TEXT NOT NULL,
  PRIMARY KEY (delivery_id)
);
CREATE INDEX unsubscribe_run ON unsubscribe (run_id);

INSERT INTO consent_head (id, seq, hash, epoch) VALUES (1, 0, '', 0);
