"""A shop's past, made inside the database: people, mails, what came back, visits and orders.

Everything follows from counting and whole numbers, so both engines hold the same rows, and a hundredth of it
(SCALE=100) has the same shares. Tables are written without their indexes, which are made afterwards.
"""

import itertools
import os
import subprocess
import time

SCALE = int(os.environ.get("SCALE", 1))
PEOPLE = 1_000_000 // SCALE
VISITS = 3_500_000 // SCALE
DOWNLOADS = 1_500_000 // SCALE
ORDERS = 1_500_000 // SCALE

DAY = 86_400_000
# 2026-12-01T00:00Z: all is asked as of then.
NOW = 1_796_083_200_000
# Ids are made of the milliseconds since 2024 and 22 bits (src/entropy.rs).
EPOCH = 1_704_067_200_000
BITS = 4_194_304
# People came evenly over two and a half years, so a contact's number is its id divided by this.
STEP = 80_000_000_000 // PEOPLE * BITS
PRIME = 2_147_483_647

TOPICS = {"tea-letter": (1, 620), "offers": (2, 350), "events": (3, 260)}
RUNS = sorted(
    [("weekly", "tea-letter", NOW - (4 + 7 * week) * DAY) for week in range(24)]
    + [("sale", "offers", NOW - days * DAY - DAY // 8) for days in (1, 2, 4, 5, 40, 75)]
    + [("monthly", "events", NOW - days * DAY - DAY // 4) for days in (10, 41, 71, 101, 131, 161)], key=lambda run: run[2])
CATEGORIES = "oolong green black puerh white yellow herbal teaware books gifts tasting rare".split()
BIG = ["contact", "subscription", "delivery", "hit", "hit_total", "run_total", "engagement", "orders", "order_line", "order_total", "did_visit", "did_download"]

CONFIG = {
    "optin.toml": """
[site]
url = "https://news.tea.example"
[smtp]
url = "smtp://127.0.0.1:25"
[sender]
name = "Tea House 茶館"
email = "letters@tea.example"
reply_to = "hello@tea.example"
postal_address = "1 Leaf Street, Taipei"
[log]
level = "warn"
[attributes]
city = "text"
country = "text"
source = "text"
points = "number"
age = "number"
vip = "boolean"
trial = "boolean"
birthday = "date"
joined = "date"
interests = "list"
""",
    "segments.toml": """
[regulars]
where = "subscribed('tea-letter') and engagement.stage = 'active'"
[quiet]
where = "engagement.stage = 'dormant'"
[visitors]
where = "did('visit', within: 60d)"
[shoppers]
where = "ordered(sum >= 200) or segment('visitors')"
""",
    "topics.toml": "".join(f'[{name}]\nname = "{name}"\nopt_in = "single"\n' for name in TOPICS),
    "events.toml": '[visit.properties]\npage = "text"\nduration = "number"\n[download.properties]\nfile = "text"\nsize = "number"\n',
    **{f"campaigns/{name}.toml": f'topic = "{topic}"\nsubject = "Tea"\nbody = "tea.md"\n' for name, topic in (("weekly", "tea-letter"), ("sale", "offers"), ("monthly", "events"))},
    "campaigns/tea.md": "Tea [now](https://tea.example/)\n",
}


def chance(number, salt):
    """SQL: a number from 0 to PRIME - 1 that follows from `number` and looks like chance."""
    mixed = f"(({number}) * 48271 + {salt * 69621 + 12345}) % {PRIME}"
    return f"(({mixed}) * ({mixed}) % {PRIME})"


def choose(what, options):
    return f"CASE {what} " + " ".join(f"WHEN {index} THEN '{option}'" for index, option in enumerate(options)) + " END"


class Maker:
    """Runs statements on one engine, all of them in one process, and says how long each part took."""

    def __init__(self, engine, run):
        self.engine, self.run, self.began = engine, run, time.monotonic()

    def series(self, count):
        if self.engine == "sqlite":
            return f"(SELECT value AS i FROM generate_series(1, {count})) g"
        return f"(SELECT i FROM generate_series(CAST(1 AS BIGINT), {count}) AS s (i)) g"

    def part(self, name, statements):
        self.run(statements)
        print(f"  {self.engine}: {name} at {time.monotonic() - self.began:.0f} s", flush=True)


def contacts(maker):
    i = "g.i"
    city = f"({chance(i, 1)} % 1000)"
    country = f"({chance(i, 2)} % 1000)"
    kinds = [f"CASE WHEN {chance(i, 3)} % 100 < {share} THEN '{tag}' || char(31) ELSE '' END"
             for tag, share in [("oolong", 30), ("green", 25), ("black", 20), ("teaware", 8), ("tasting", 3)]]
    kinds = [kind.replace(chance(i, 3), chance(i, 30 + index)) for index, kind in enumerate(kinds)]
    interests = "char(31) || " + " || ".join(kinds)
    if maker.engine == "postgres":
        interests = interests.replace("char(31)", "chr(31)")
    day = f"(1940 + {chance(i, 4)} % 68) * 10000 + (1 + {chance(i, 5)} % 12) * 100 + 1 + {chance(i, 6)} % 28"
    joined = f"(2024 + {i} * 3 / {PEOPLE + 1}) * 10000 + (1 + {i} * 36 / {PEOPLE + 1} % 12) * 100 + 1 + {chance(i, 7)} % 28"
    return [f"""INSERT INTO contact (id, email, email_key, first_name, last_name, locale, timezone, created_at, updated_at,
        t_city, t_country, t_source, n_points, n_age, b_vip, b_trial, d_birthday, d_joined, l_interests)
      SELECT {i} * {STEP} + 7, 'reader.' || {i} || '@mail' || ({chance(i, 8)} % 40) || '.example.com', 'reader.' || {i} || '@mail' || ({chance(i, 8)} % 40) || '.example.com',
        {choose(f"{chance(i, 9)} % 4", ["Mei", "Anna", "Hugo", "佳穎"])}, {choose(f"{chance(i, 10)} % 4", ["Chen", "Smith", "Rossi", "林"])},
        {choose(f"{chance(i, 11)} % 3", ["zh-TW", "en-GB", "de-DE"])}, {choose(f"{chance(i, 12)} % 3", ["Asia/Taipei", "Europe/London", "Europe/Berlin"])},
        {EPOCH} + {i} * {STEP // BITS}, {EPOCH} + {i} * {STEP // BITS},
        CASE WHEN {chance(i, 13)} % 10 = 0 THEN NULL WHEN {city} < 70 THEN 'Taipei' ELSE 'City ' || ({city} * {city} / 5000) END,
        CASE WHEN {chance(i, 14)} % 20 = 0 THEN NULL ELSE {choose(f"{country} * {country} / 100000", "TW GB DE US FR IT JP NL SE PL".split())} END,
        {choose(f"{chance(i, 15)} % 5", "shop fair form friend import".split())},
        CASE WHEN {chance(i, 16)} % 3 = 0 THEN NULL ELSE ({chance(i, 17)} % 1000) * ({chance(i, 17)} % 1000) / 1000 END,
        CASE WHEN {chance(i, 18)} % 4 = 0 THEN NULL ELSE 18 + {chance(i, 19)} % 70 END,
        {chance(i, 20)} % 50 = 0, {chance(i, 21)} % 5 = 0,
        CASE WHEN {chance(i, 22)} % 100 < 15 THEN NULL ELSE {day} END, {joined},
        CASE WHEN {chance(i, 23)} % 4 = 0 THEN NULL ELSE {interests} END
      FROM {maker.series(PEOPLE)}"""]


def subscriptions():
    number = f"c.id / {STEP}"
    for name, (topic, share) in TOPICS.items():
        draw = f"{chance(number, 100 + topic)} % 1000"
        standing = f"CASE WHEN {draw} < {share} THEN 'subscribed' WHEN {draw} < {share + 60} THEN 'unsubscribed' WHEN {draw} < {share + 75} THEN 'pending' ELSE 'paused' END"
        yield f"INSERT INTO topic (id, name) VALUES ({topic}, '{name}')"
        yield f"""INSERT INTO subscription (topic_id, contact_id, standing, since, last_seq)
          SELECT {topic}, c.id, {standing}, c.created_at + {chance(number, 110 + topic)} % 1000 * 3600000, {number} FROM contact c
          WHERE {draw} < {share + 80} ORDER BY c.id"""


def deliveries():
    for index, (campaign, topic, at) in enumerate(RUNS):
        run, first = (at - EPOCH) * BITS + 9, (at - EPOCH) * BITS
        number = f"s.contact_id / {STEP}"
        state = f"{chance(number, 300 + index)} % 1000"
        yield f"""INSERT INTO run (id, campaign, topic_id, firing, state, scheduled_at, created_at, started_at, finished_at, definition_hash, definition, excluded,
            audience, audience_cursor, audience_done)
          VALUES ({run}, '{campaign}', {TOPICS[topic][0]}, '{at}', 'done', {at}, {at}, {at}, {at + 1_800_000}, '', '{{}}', '{{}}', 0, 0, TRUE)"""
        for link in range(5):
            yield f"INSERT INTO run_link (run_id, position, url, name) VALUES ({run}, {link}, 'https://tea.example/{link}?issue={index if link else 0}', 'link {link}')"
        yield f"""INSERT INTO delivery (id, run_id, contact_id, state, due_at, attempts, changed_at, provider)
          SELECT {first} + {number} * 4, {run}, s.contact_id,
            CASE WHEN {state} < 970 THEN 'sent' WHEN {state} < 988 THEN 'bounced' WHEN {state} < 995 THEN 'failed' ELSE 'skipped' END,
            {at}, 1, {at} + {number} * {SCALE} * 9 / 5, {choose(f"{chance(number, 25)} % 3", ["gmail", "other", "qq"])}
          FROM subscription s WHERE s.topic_id = {TOPICS[topic][0]} AND s.standing = 'subscribed' AND {chance(number, 200 + index)} % 100 < 75
          ORDER BY s.contact_id"""


def hits():
    """A third never opens, some always do; the mails of seventeen in a hundred are fetched by a relay, of five by a scanner."""
    number = f"d.contact_id / {STEP}"
    kind = f"{chance(number, 26)} % 100"
    habit = f"{chance(number, 27)} % 100"
    habit = f"CASE WHEN {habit} < 30 THEN 0 WHEN {habit} < 70 THEN 13 WHEN {habit} < 90 THEN 40 ELSE 80 END"
    for index, (_, _, at) in enumerate(RUNS):
        # The run moves the time in the ids a little: two hits of one person may fall into one millisecond.
        first = (at - EPOCH) * BITS
        late = f"{chance(number, 700 + index)} % 1000"
        opens = f"{kind} >= 22 AND {chance(number, 400 + index)} % 100 < {habit}"
        clicks = f"{opens} AND {chance(number, 500 + index)} % 100 < 15"
        link = f"{chance(number, 600 + index)} % 5"
        again = f"{clicks} AND {chance(number, 800 + index)} % 100 < 15"
        for position, (what, link, verdict, delay, condition) in enumerate([
                ("open", "NULL", "human", f"60000 + ({late}) * ({late}) * 80", opens),
                ("open", "NULL", "unknowable", f"30000 + ({late}) * 1000", f"{kind} < 17"),
                ("open", "NULL", "machine", "1000", f"{kind} >= 17 AND {kind} < 22 AND {chance(number, 900 + index)} % 100 < 70"),
                ("click", link, "machine", "1500", f"{kind} >= 17 AND {kind} < 22 AND {chance(number, 900 + index)} % 100 < 70"),
                ("click", link, "human", f"75000 + ({late}) * ({late}) * 80", clicks),
                ("click", f"({link} + 1) % 5", "human", f"95000 + ({late}) * ({late}) * 80", again)]):
            when = f"d.changed_at + {delay}"
            yield f"""INSERT INTO hit (id, at, kind, delivery_id, run_id, contact_id, link, verdict, signals, ip, score)
              SELECT ({when} + {index} - {EPOCH}) * {BITS} + d.contact_id / {STEP} % 1000000 * 4 + {position % 4}, {when}, '{what}', d.id, d.run_id, d.contact_id, {link}, '{verdict}',
                '', '192.0.2.1', {1.5 if verdict == "machine" else 0}
              FROM delivery d WHERE d.id >= {first} AND d.id < {first + BITS} AND d.state = 'sent' AND {condition} ORDER BY 1"""


def totals():
    each = """SUM(CASE WHEN h.verdict = 'human' THEN h.times ELSE 0 END), SUM(CASE WHEN h.verdict = 'machine' THEN h.times ELSE 0 END),
      SUM(CASE WHEN h.verdict = 'unknowable' THEN h.times ELSE 0 END), MIN(CASE WHEN h.verdict = 'human' THEN h.at END), MAX(CASE WHEN h.verdict = 'human' THEN h.at END)"""
    parts = [("-1", "h.kind = 'open'", ""), ("-2", "h.kind = 'click'", ""), ("h.link", "h.kind = 'click'", ", h.link")]
    yield "INSERT INTO hit_total (delivery_id, link, run_id, contact_id, human, machine, unknowable, first_at, last_at) " + " UNION ALL ".join(
        f"SELECT h.delivery_id, {link}, MIN(h.run_id), MIN(h.contact_id), {each} FROM hit h WHERE {which} GROUP BY h.delivery_id{group}" for link, which, group in parts) + " ORDER BY 1, 2"
    yield """INSERT INTO run_total (run_id, link, human, machine, unknowable, people, anonymous)
      SELECT run_id, link, SUM(human), SUM(machine), SUM(unknowable), SUM(CASE WHEN human > 0 THEN 1 ELSE 0 END), 0 FROM hit_total GROUP BY run_id, link"""


def engagement():
    columns = f"""SUM(CASE WHEN h.kind = 'open' THEN 1 ELSE 0 END), SUM(CASE WHEN h.kind = 'click' THEN 1 ELSE 0 END),
      MAX(CASE WHEN h.kind = 'open' THEN h.at END), MAX(CASE WHEN h.kind = 'click' THEN h.at END),
      SUM(CASE WHEN h.kind = 'open' THEN 1.0 ELSE 3.0 END * power(2.0, (h.at - 1577836800000) / 2592000000.0)), '0,0,0,0,0,0,0,0,1,2,1,0,0,0,0,0,0,1,0,0,0,0,0,0', 9, 2"""
    yield f"""INSERT INTO engagement (topic_id, contact_id, opens, clicks, last_open_at, last_click_at, weight, hours, best_hour, best_weekday)
      SELECT 0, h.contact_id, {columns} FROM hit h WHERE h.verdict = 'human' GROUP BY h.contact_id ORDER BY 2"""
    yield f"""INSERT INTO engagement (topic_id, contact_id, opens, clicks, last_open_at, last_click_at, weight, hours, best_hour, best_weekday)
      SELECT r.topic_id, h.contact_id, {columns} FROM hit h JOIN run r ON r.id = h.run_id WHERE h.verdict = 'human' GROUP BY r.topic_id, h.contact_id ORDER BY 1, 2"""


def somebody(salt, share):
    """The id of one of `share` people in a hundred, some far more often than others."""
    draw = f"({chance('g.i', salt)} % 1000000)"
    return f"(1 + ({draw} * {draw} / 1000000 * {share} / 100) * 7919 % {PEOPLE}) * {STEP} + 7"


def visits(maker):
    for table, count, salt, columns, values in [
            ("did_visit", VISITS, 40, "t_page, n_duration",
             f"CASE WHEN {chance('g.i', 41)} % 100 < 8 THEN '/oolong' ELSE '/page/' || ({chance('g.i', 42)} % 400) END, {chance('g.i', 43)} % 300"),
            ("did_download", DOWNLOADS, 50, "t_file, n_size", f"'/files/' || ({chance('g.i', 51)} % 50) || '.pdf', {chance('g.i', 52)} % 9000")]:
        draw = f"({chance('g.i', salt + 4)} % 100000)"
        at = f"{NOW - 1000} - {draw} * {draw} * 31 / 20"
        yield f"""INSERT INTO {table} (id, event_key, contact_id, known_as, at, recorded_at, {columns})
          SELECT ({at} - {EPOCH}) * {BITS} + g.i, 'event-' || g.i, {somebody(salt, 40)}, {somebody(salt, 40)}, {at}, {at} + 1500, {values}
          FROM {maker.series(count)} ORDER BY 1"""


def orders(maker):
    draw = f"({chance('g.i', 61)} % 100000)"
    at = f"{NOW - 5000} - {draw} * {draw} * 6"
    product = f"({chance('g.i * 3 + l.line', 62)} % 1000)"
    product = f"({product} * {product} / 2000)"
    line = chance("g.i * 3 + l.line", 63)
    lines = " UNION ALL ".join(f"SELECT {number} AS line" for number in (1, 2, 3))
    category = choose(f"{product} % {len(CATEGORIES)}", CATEGORIES)
    yield f"""INSERT INTO order_line (order_id, line, contact_id, at, product_id, product, category, quantity, amount, refunded)
      SELECT ({at} - {EPOCH}) * {BITS} + g.i, l.line, {somebody(60, 25)}, {at}, 'p' || {product}, 'Tea number ' || {product}, {category}, 1, ({line} % 900 + 50) * 1000, FALSE
      FROM {maker.series(ORDERS)} CROSS JOIN ({lines}) l WHERE l.line = 1 OR {chance('g.i', 64)} % 100 < 110 - 30 * l.line ORDER BY 1, 2"""
    yield """INSERT INTO orders (id, order_key, contact_id, known_as, at, amount, refunded, void, currency, rate, digest, recorded_at)
      SELECT order_id, 'order-' || order_id, MIN(contact_id), MIN(contact_id), MIN(at), SUM(amount), 0, FALSE, 'EUR', 1, '', MIN(at) FROM order_line GROUP BY order_id ORDER BY 1"""
    yield """INSERT INTO order_total (contact_id, orders, amount, first_at, last_at)
      SELECT contact_id, COUNT(*), SUM(amount), MIN(at), MAX(at) FROM orders GROUP BY contact_id ORDER BY 1"""


def make(engine, run, rows):
    """Fills a database whose tables are there. `run` takes statements, `rows` a query and answers its rows as texts."""
    maker = Maker(engine, run)
    if engine == "sqlite":
        indexes = rows("SELECT name, replace(sql, char(10), ' ') FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND tbl_name IN ('%s')" % "','".join(BIG))
    else:
        indexes = rows("SELECT i.indexname, i.indexdef FROM pg_indexes i WHERE i.indexname NOT LIKE '%%_pkey' AND i.tablename IN ('%s')" % "','".join(BIG))
    maker.part("indexes dropped", [f"DROP INDEX {name}" for name, _ in indexes])
    maker.part(f"{PEOPLE:,} contacts", contacts(maker))
    maker.part("subscriptions", subscriptions())
    if engine == "postgres":
        maker.part("analyzed", ["ANALYZE contact, subscription"])
    maker.part("deliveries", deliveries())
    maker.part("hits", hits())
    maker.part("totals", totals())
    maker.part("engagement", engagement())
    maker.part("events", visits(maker))
    maker.part("orders", orders(maker))
    maker.part("indexes", itertools.chain((sql for _, sql in indexes), [] if engine == "sqlite" else ["VACUUM ANALYZE"]))


def sqlite_run(file):
    """Runs statements through the sqlite3 shell, in one transaction that need not survive a power cut."""
    def run(statements):
        settings = ["PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -1500000", "PRAGMA temp_store = FILE", "PRAGMA threads = 2"]
        script = ";\n".join([*settings, "BEGIN", *statements, "COMMIT"]) + ";\n"
        subprocess.run(["sqlite3", "-bail", file], input=script, text=True, check=True, stdout=subprocess.DEVNULL)
    return run


def postgres_run(url):
    def run(statements):
        script = ";\n".join(["SET synchronous_commit = off", "SET maintenance_work_mem = '512MB'", "SET work_mem = '256MB'", *statements]) + ";\n"
        subprocess.run(["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", url], input=script, text=True, check=True, stdout=subprocess.DEVNULL)
    return run
