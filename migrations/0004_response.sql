-- contact/ ------------------------------------------------------------------------------------
-- By what else a person is known: further customer numbers, telephone numbers and addresses, devices. `value`
-- is in the form in which its kind is compared. What stands in `contact` itself is not repeated here.
CREATE TABLE identity (
  kind TEXT NOT NULL,
  value TEXT NOT NULL,
  contact_id BIGINT NOT NULL,
  source TEXT NOT NULL,
  since BIGINT NOT NULL,
  PRIMARY KEY (kind, value)
) /* clustered */;
CREATE INDEX identity_contact ON identity (contact_id);
-- Telephone numbers are kept as they were given, and looked up without what people write between digits.
CREATE INDEX contact_phone ON contact
  (REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(REPLACE(phone, ' ', ''), '-', ''), '(', ''), ')', ''), '.', ''), '/', ''))
  WHERE phone IS NOT NULL;

-- Two contacts found to be one person. `gone_id` keeps its row, its ledger and its mails, and is in no
-- audience while `merged_into` is set; what it did counts for `kept_id`.
ALTER TABLE contact ADD COLUMN merged_into BIGINT;
CREATE INDEX contact_merged ON contact (merged_into) WHERE merged_into IS NOT NULL;
CREATE TABLE contact_merge (
  id BIGINT PRIMARY KEY,
  at BIGINT NOT NULL,
  kept_id BIGINT NOT NULL,
  gone_id BIGINT NOT NULL,
  source TEXT NOT NULL,
  detail TEXT NOT NULL,
  undone_at BIGINT
);
CREATE INDEX contact_merge_kept ON contact_merge (kept_id);
CREATE INDEX contact_merge_gone ON contact_merge (gone_id);

-- consent/ ------------------------------------------------------------------------------------
-- Who is subscribed to a topic, without reading the rows (on SQLite the table is in this order itself), and since when
-- somebody is subscribed to anything at all.
CREATE INDEX subscription_standing ON subscription (topic_id, contact_id, since) WHERE standing = 'subscribed' /* postgres */;
CREATE INDEX subscription_since ON subscription (contact_id, since) WHERE standing = 'subscribed';

-- behaviour/ ----------------------------------------------------------------------------------
-- Kinds of events that were ever declared. Each has a table of its own, `did_NAME`, added when the
-- configuration declares it: id, event_key (the sender's id, unique), contact_id, known_as (whom the sender
-- named, before merges), at, recorded_at, revision, and a typed column a declared property (as attributes of contacts).
CREATE TABLE event_type (
  name TEXT NOT NULL,
  since BIGINT NOT NULL,
  PRIMARY KEY (name)
) /* clustered */;
-- Events that their sender took back, so that one that arrives late does not come in. `key` is the SHA-256 of kind
-- and sender's id, in hex: it stays where a person is erased.
CREATE TABLE event_retracted (
  key TEXT NOT NULL,
  revision BIGINT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (key)
) /* clustered */;

-- Amounts are ten-thousandths of a unit of the instance's currency, less what was refunded. `refunded` is what
-- was given back; an order whose lines are all refunded is `void` and counts nowhere. `currency` and `rate` are
-- those of the day it was recorded. `digest` is of all that the sender said; of two statements the one with the
-- higher `revision` holds. Nobody's orders (of people who were erased) have 0 as contact.
CREATE TABLE orders (
  id BIGINT PRIMARY KEY,
  order_key TEXT NOT NULL,
  contact_id BIGINT NOT NULL,
  known_as BIGINT NOT NULL,
  at BIGINT NOT NULL,
  amount BIGINT NOT NULL,
  refunded BIGINT NOT NULL,
  void BOOLEAN NOT NULL,
  currency TEXT NOT NULL,
  rate DOUBLE PRECISION NOT NULL,
  digest TEXT NOT NULL,
  revision BIGINT NOT NULL,
  recorded_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX orders_key ON orders (order_key);
CREATE INDEX orders_contact ON orders (contact_id, at, amount) WHERE void = FALSE;
CREATE INDEX orders_at ON orders (at, contact_id, amount) WHERE void = FALSE;
CREATE INDEX orders_known_as ON orders (known_as);

-- Lines of orders, with their order's person and time. `paid` is what was paid at first (negative for a return),
-- `given_back` what the line itself says was refunded; `amount` is what is left after all refunds. `refunded`: nothing
-- is left, or it is a return.
CREATE TABLE order_line (
  order_id BIGINT NOT NULL,
  line BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  at BIGINT NOT NULL,
  product_id TEXT,
  product TEXT,
  category TEXT,
  quantity DOUBLE PRECISION NOT NULL,
  paid BIGINT NOT NULL,
  given_back BIGINT NOT NULL,
  amount BIGINT NOT NULL,
  refunded BOOLEAN NOT NULL,
  PRIMARY KEY (order_id, line)
) /* clustered */;
CREATE INDEX order_line_product ON order_line ((COALESCE(product_id, product)), at, contact_id, order_id, amount) WHERE refunded = FALSE;
CREATE INDEX order_line_category ON order_line (category, at, contact_id, order_id, amount) WHERE refunded = FALSE;
CREATE INDEX order_line_contact ON order_line (contact_id);

-- Refunds that came by themselves, also those whose order has not come yet. `amount` is in ten-thousandths of a unit
-- of `currency` (empty: that of the order); NULL is all of the product, or of the order.
CREATE TABLE order_refund (
  refund_key TEXT NOT NULL,
  order_key TEXT NOT NULL,
  contact_id BIGINT NOT NULL,
  at BIGINT NOT NULL,
  product_id TEXT,
  product TEXT,
  amount BIGINT,
  currency TEXT NOT NULL,
  rate DOUBLE PRECISION NOT NULL,
  revision BIGINT NOT NULL,
  recorded_at BIGINT NOT NULL,
  PRIMARY KEY (refund_key)
) /* clustered */;
CREATE INDEX order_refund_order ON order_refund (order_key);
CREATE INDEX order_refund_contact ON order_refund (contact_id);

-- All orders of a person, added up as they come (those that are void left out).
CREATE TABLE order_total (
  contact_id BIGINT PRIMARY KEY,
  orders BIGINT NOT NULL,
  amount BIGINT NOT NULL,
  first_at BIGINT NOT NULL,
  last_at BIGINT NOT NULL
);

-- insight/ ------------------------------------------------------------------------------------
-- Computed properties of a person, a column a score.
CREATE TABLE score (
  contact_id BIGINT PRIMARY KEY,
  rfm_recency BIGINT,
  rfm_frequency BIGINT,
  rfm_monetary BIGINT,
  rfm_latency BIGINT,
  value_historic DOUBLE PRECISION,
  value_lifetime DOUBLE PRECISION,
  value_decile BIGINT,
  lifecycle TEXT,
  churn_risk DOUBLE PRECISION
);

-- segment/ ------------------------------------------------------------------------------------
-- Sizes of segments over time. `rule` is the hash of the rule: where it changes, so does what a size means.
CREATE TABLE segment_size (
  segment TEXT NOT NULL,
  at BIGINT NOT NULL,
  size BIGINT NOT NULL,
  joined BIGINT NOT NULL,
  departed BIGINT NOT NULL,
  rule TEXT NOT NULL,
  PRIMARY KEY (segment, at)
) /* clustered */;
CREATE TABLE segment_name (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL
);
CREATE UNIQUE INDEX segment_name_name ON segment_name (name);
-- Who was in a segment when it was last looked at, and who came and went.
CREATE TABLE segment_member (
  segment_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  since BIGINT NOT NULL,
  PRIMARY KEY (segment_id, contact_id)
) /* clustered */;
CREATE INDEX segment_member_contact ON segment_member (contact_id);
CREATE TABLE segment_change (
  segment_id BIGINT NOT NULL,
  at BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  joined BOOLEAN NOT NULL,
  PRIMARY KEY (segment_id, at, contact_id)
) /* clustered */;
CREATE INDEX segment_change_contact ON segment_change (contact_id);
-- A list of people as a rule picked them at one moment.
CREATE TABLE frozen_list (
  id BIGINT PRIMARY KEY,
  name TEXT NOT NULL,
  rule TEXT NOT NULL,
  at BIGINT NOT NULL,
  size BIGINT NOT NULL
);
CREATE UNIQUE INDEX frozen_list_name ON frozen_list (name);
CREATE TABLE frozen_member (
  list_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  PRIMARY KEY (list_id, contact_id)
) /* clustered */;
CREATE INDEX frozen_member_contact ON frozen_member (contact_id);

-- delivery/ -----------------------------------------------------------------------------------
-- For questions over time, of whatever run: of all people, and of each. (`= FALSE`, not `NOT`: SQLite knows then what the
-- column is and need not look into the table.)
CREATE INDEX delivery_sent ON delivery (changed_at, contact_id, run_id) WHERE state = 'sent' AND transactional = FALSE;
CREATE INDEX delivery_sent_to ON delivery (contact_id, changed_at, run_id) WHERE state = 'sent' AND transactional = FALSE;
CREATE INDEX delivery_bounced ON delivery (changed_at, contact_id, run_id) WHERE state = 'bounced' AND transactional = FALSE;

-- Deliveries of runs that are over, counted by state and reason ('': none), and those tracked less by how (state
-- `tracked`). The row without a state is there from the run's first delivery on: its count is 1 while the others
-- hold, 0 while rows have to be counted.
CREATE TABLE run_count (
  run_id BIGINT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT NOT NULL,
  count BIGINT NOT NULL,
  PRIMARY KEY (run_id, state, reason)
) /* clustered */;
CREATE INDEX run_count_open ON run_count (run_id) WHERE state = '' AND count = 0;
INSERT INTO run_count (run_id, state, reason, count) SELECT id, '', '', 0 FROM run;

-- tracking/ -----------------------------------------------------------------------------------
-- Texts of user agents, each once.
CREATE TABLE agent (
  id BIGINT PRIMARY KEY,
  text TEXT NOT NULL
);
CREATE UNIQUE INDEX agent_text ON agent (text);

-- `kind` is open, click, or trap (an address that no person sees was fetched). `verdict` is human, machine or
-- unknowable (a relay that fetches for everybody). `score` is what the signals weigh together, in
-- hundredths, above 0 for a machine; `times` is more than 1 where older hits were put together. `looked` says that only the head was asked for.
ALTER TABLE hit ADD COLUMN score DOUBLE PRECISION NOT NULL DEFAULT 0;
ALTER TABLE hit ADD COLUMN times BIGINT NOT NULL DEFAULT 1;
ALTER TABLE hit ADD COLUMN agent_id BIGINT;
ALTER TABLE hit ADD COLUMN looked BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE hit ADD COLUMN traits TEXT;
CREATE INDEX hit_delivery ON hit (delivery_id, at);
-- Whether anybody else has an agent, when somebody's is forgotten.
CREATE INDEX hit_agent ON hit (agent_id) WHERE agent_id IS NOT NULL;
-- For questions over time: of all people, and of each. All that is asked for stands in them.
CREATE INDEX hit_at ON hit (kind, verdict, at, contact_id, run_id, times);
DROP INDEX hit_contact;
-- What is asked of a run is asked of the sums.
DROP INDEX hit_run;
CREATE INDEX hit_contact ON hit (contact_id, kind, verdict, at, run_id, times);

-- How far the log of a process has been read into `hit`: written in the transaction that writes the hits.
CREATE TABLE hit_log (
  name TEXT NOT NULL,
  position BIGINT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (name)
) /* clustered */;

-- Hits of a mail added up: `link` is -1 for its opens, -2 for clicks on any link, else the link. Times are those
-- of human hits.
CREATE TABLE hit_total (
  delivery_id BIGINT NOT NULL,
  link BIGINT NOT NULL,
  run_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  human BIGINT NOT NULL,
  machine BIGINT NOT NULL,
  unknowable BIGINT NOT NULL,
  first_at BIGINT,
  last_at BIGINT,
  PRIMARY KEY (delivery_id, link)
) /* clustered */;
CREATE INDEX hit_total_run ON hit_total (run_id, link, contact_id, last_at, human);
CREATE INDEX hit_total_contact ON hit_total (contact_id, link, last_at, run_id, human);
CREATE INDEX hit_total_last ON hit_total (link, last_at, contact_id, run_id, human) WHERE last_at IS NOT NULL;

-- Hits of a run added up, by link as above. `people` are those with at least one human hit; `anonymous` are
-- human hits of nobody in particular (not in `people`).
CREATE TABLE run_total (
  run_id BIGINT NOT NULL,
  link BIGINT NOT NULL,
  human BIGINT NOT NULL,
  machine BIGINT NOT NULL,
  unknowable BIGINT NOT NULL,
  people BIGINT NOT NULL,
  anonymous BIGINT NOT NULL,
  PRIMARY KEY (run_id, link)
) /* clustered */;

-- Clicks of each network (a /24, or a /64 of IPv6) within a slot of five seconds: the first deliveries they were
-- of, so that a scanner of many mailboxes is noticed. Kept for an hour.
CREATE TABLE network_touch (
  slot BIGINT NOT NULL,
  network TEXT NOT NULL,
  deliveries TEXT NOT NULL,
  PRIMARY KEY (slot, network)
) /* clustered */;

-- What is known of how mails to a receiving domain are looked at by machines.
CREATE TABLE domain_hits (
  domain TEXT NOT NULL,
  machine BIGINT NOT NULL,
  human BIGINT NOT NULL,
  changed_at BIGINT NOT NULL,
  PRIMARY KEY (domain)
) /* clustered */;

-- Hits from before there were sums.
INSERT INTO hit_total (delivery_id, link, run_id, contact_id, human, machine, unknowable, first_at, last_at)
SELECT delivery_id, link, MIN(run_id), MIN(contact_id), SUM(CASE verdict WHEN 'human' THEN 1 ELSE 0 END),
  SUM(CASE verdict WHEN 'machine' THEN 1 ELSE 0 END), 0, MIN(CASE verdict WHEN 'human' THEN at END), MAX(CASE verdict WHEN 'human' THEN at END)
FROM (
  SELECT delivery_id, -1 AS link, run_id, contact_id, verdict, at FROM hit WHERE kind = 'open'
  UNION ALL SELECT delivery_id, -2, run_id, contact_id, verdict, at FROM hit WHERE kind = 'click'
  UNION ALL SELECT delivery_id, link, run_id, contact_id, verdict, at FROM hit WHERE kind = 'click' AND link IS NOT NULL
) AS past
WHERE delivery_id <> 0
GROUP BY delivery_id, link;
INSERT INTO run_total (run_id, link, human, machine, unknowable, people, anonymous)
SELECT run_id, link, SUM(CASE verdict WHEN 'human' THEN 1 ELSE 0 END), SUM(CASE verdict WHEN 'machine' THEN 1 ELSE 0 END), 0,
  COUNT(DISTINCT CASE WHEN verdict = 'human' AND delivery_id <> 0 THEN delivery_id END),
  SUM(CASE WHEN verdict = 'human' AND delivery_id = 0 THEN 1 ELSE 0 END)
FROM (
  SELECT run_id, -1 AS link, delivery_id, verdict FROM hit WHERE kind = 'open'
  UNION ALL SELECT run_id, -2, delivery_id, verdict FROM hit WHERE kind = 'click'
  UNION ALL SELECT run_id, link, delivery_id, verdict FROM hit WHERE kind = 'click' AND link IS NOT NULL
) AS past
GROUP BY run_id, link;

-- How a person responds to a topic (0: to all). `opens` and `clicks` are human; `weight` is the sum of what
-- each response weighs, times two to the power of its age before the landmark in half-lives (forward decay),
-- so that nobody has to be touched as time goes by. `hours` are responses by hour of the day, `;`, by weekday.
CREATE TABLE engagement (
  topic_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  opens BIGINT NOT NULL,
  clicks BIGINT NOT NULL,
  last_open_at BIGINT,
  last_click_at BIGINT,
  weight DOUBLE PRECISION NOT NULL,
  hours TEXT NOT NULL,
  best_hour BIGINT,
  best_weekday BIGINT,
  PRIMARY KEY (topic_id, contact_id)
) /* clustered */;
CREATE INDEX engagement_contact ON engagement (contact_id);
-- People whose engagement or conversions have to be computed again: written by behaviour and tracking, emptied by
-- tracking.
CREATE TABLE engagement_due (
  contact_id BIGINT PRIMARY KEY,
  since BIGINT NOT NULL
);
-- Responses of all people added up by topic (0: all) and place: 0 to 23 the hours, 24 to 30 the weekdays from Monday.
-- `weight` always equals the rows of `engagement`; `prior` is what it was when the day began.
CREATE TABLE engagement_prior (
  topic_id BIGINT NOT NULL,
  place BIGINT NOT NULL,
  weight BIGINT NOT NULL,
  prior BIGINT NOT NULL,
  day BIGINT NOT NULL,
  PRIMARY KEY (topic_id, place)
) /* clustered */;
-- By which settings the rows above and below were computed (one row).
CREATE TABLE engagement_rule (
  id BIGINT PRIMARY KEY,
  rule TEXT NOT NULL
);

-- Orders that came of mails: `share` is in millionths of the order, `amount` its worth (see orders).
CREATE TABLE conversion (
  order_id BIGINT NOT NULL,
  delivery_id BIGINT NOT NULL,
  link BIGINT NOT NULL,
  run_id BIGINT NOT NULL,
  contact_id BIGINT NOT NULL,
  at BIGINT NOT NULL,
  share BIGINT NOT NULL,
  amount BIGINT NOT NULL,
  PRIMARY KEY (order_id, delivery_id, link)
) /* clustered */;
CREATE INDEX conversion_contact ON conversion (contact_id);
CREATE INDEX conversion_run ON conversion (run_id, at);
-- The same added up by run and link.
CREATE TABLE revenue_total (
  run_id BIGINT NOT NULL,
  link BIGINT NOT NULL,
  shares BIGINT NOT NULL,
  amount BIGINT NOT NULL,
  PRIMARY KEY (run_id, link)
) /* clustered */;
