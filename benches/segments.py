"""Ten segments over a million people with a past, against SQL written by hand for the same question.

FOLDER=/some/where keeps the databases for the next run (they take minutes to make and some 10 GB each).
"""

import contextlib
import hashlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import past
from common import ENGINES, OPTIN, Postgres, settle, table
from past import CONFIG, DAY, NOW, PRIME

ROUNDS = int(os.environ.get("ROUNDS", 5))
ONLY = os.environ.get("ONLY", "").split()
COLD = os.environ.get("COLD", "yes") == "yes"
# A server of 4 GB, as small shops rent it.
SETTINGS = ["shared_buffers=1536MB", "work_mem=64MB", "effective_cache_size=3GB", "random_page_cost=1.1", "max_wal_size=4GB"]
EVENTS = {"did_visit": "t_page TEXT, n_duration DOUBLE PRECISION", "did_download": "t_file TEXT, n_size DOUBLE PRECISION"}
HALF_A_YEAR = 1_780_272_000_000
A_YEAR = 1_764_547_200_000
TOPIC = {name: number for name, (number, _) in past.TOPICS.items()}


def ago(days):
    return NOW - days * DAY


def bucket(column, seed):
    """`random(..)` as src/segment/random.rs has it."""
    digest = hashlib.sha256(seed.encode()).digest()
    words = [int.from_bytes(digest[at:at + 4], "little") for at in range(0, 20, 4)]
    mixed = str(1 + words[0] % (PRIME - 1))
    for word in words[1:]:
        mixed = f"(({mixed} * ({column} % {PRIME}) + {word % PRIME}) % {PRIME})"
    return f"({mixed} * 1000000 / {PRIME})"


# Name, rule, and the same by hand: for SQLite, and for PostgreSQL where one would write it otherwise.
CASES = [
    ("fields", "city = 'Taipei' and vip",
     "SELECT COUNT(*) FROM contact c WHERE c.t_city = 'Taipei' AND c.b_vip AND c.merged_into IS NULL", None),
    ("birthdays", "birthday in next 7 days",
     "SELECT COUNT(*) FROM contact c WHERE c.d_birthday % 10000 BETWEEN 1201 AND 1207 AND c.d_birthday < 20270000 AND c.merged_into IS NULL", None),
    ("unopened", "subscribed('tea-letter') and not opened(within: 6mo)",
     f"""SELECT COUNT(*) FROM contact c JOIN subscription s ON s.contact_id = c.id AND s.topic_id = {TOPIC['tea-letter']} AND s.standing = 'subscribed'
       WHERE c.merged_into IS NULL
         AND NOT EXISTS (SELECT 1 FROM hit_total h WHERE h.contact_id = c.id AND h.link = -1 AND h.last_at >= {HALF_A_YEAR})""", None),
    ("clicked twice", "clicked(campaign: 'weekly', within: 30d, at_least: 2)",
     f"""SELECT COUNT(*) FROM contact c WHERE c.merged_into IS NULL AND c.id IN (
       SELECT h.contact_id FROM hit h WHERE h.kind = 'click' AND h.verdict = 'human' AND h.at >= {ago(30)}
         AND h.run_id IN (SELECT r.id FROM run r WHERE r.campaign = 'weekly') GROUP BY h.contact_id HAVING SUM(h.times) >= 2)""", None),
    ("many and none", "sent(within: 7d, at_least: 3) and not clicked(within: 90d)",
     f"""SELECT COUNT(*) FROM contact c WHERE c.merged_into IS NULL
         AND (SELECT COUNT(*) FROM delivery d WHERE d.contact_id = c.id AND d.state = 'sent' AND d.transactional = FALSE AND d.changed_at >= {ago(7)}) >= 3
         AND NOT EXISTS (SELECT 1 FROM hit_total h WHERE h.contact_id = c.id AND h.link = -2 AND h.last_at >= {ago(90)})""",
     f"""SELECT COUNT(*) FROM (SELECT d.contact_id FROM delivery d WHERE d.state = 'sent' AND d.transactional = FALSE AND d.changed_at >= {ago(7)}
         GROUP BY d.contact_id HAVING COUNT(*) >= 3) m JOIN contact c ON c.id = m.contact_id AND c.merged_into IS NULL
       WHERE NOT EXISTS (SELECT 1 FROM hit_total h WHERE h.contact_id = c.id AND h.link = -2 AND h.last_at >= {ago(90)})"""),
    ("visited a page", "did('visit', within: 14d, at_least: 3, where: page = '/oolong')",
     f"""SELECT COUNT(*) FROM contact c WHERE c.merged_into IS NULL AND c.id IN (
       SELECT e.contact_id FROM did_visit e WHERE e.at >= {ago(14)} AND e.t_page = '/oolong' GROUP BY e.contact_id + 0 HAVING COUNT(*) >= 3)""", "as SQLite"),
    ("ordered much", "ordered(within: 90d, sum >= 100)",
     f"""SELECT COUNT(*) FROM contact c WHERE c.merged_into IS NULL AND c.id IN (
       SELECT o.contact_id FROM orders o WHERE o.void = FALSE AND o.at >= {ago(90)} GROUP BY o.contact_id HAVING SUM(o.amount) >= 1000000)""", None),
    ("nested", "(country in ('TW', 'JP') and points >= 200 or vip and not (trial or age < 30)) and not (interests contains 'teaware' and opened(within: 30d)) "
     "and (clicked(campaign: 'sale') or ordered(at_least: 2))",
     f"""SELECT COUNT(*) FROM contact c WHERE c.merged_into IS NULL
         AND (c.t_country IN ('TW', 'JP') AND c.n_points >= 200 OR c.b_vip AND NOT COALESCE(c.b_trial, FALSE) AND NOT COALESCE(c.n_age < 30, FALSE))
         AND NOT (COALESCE(INSTR(c.l_interests, char(31) || 'teaware' || char(31)) > 0, FALSE)
           AND EXISTS (SELECT 1 FROM hit_total h WHERE h.contact_id = c.id AND h.link = -1 AND h.last_at >= {ago(30)}))
         AND (EXISTS (SELECT 1 FROM order_total o WHERE o.contact_id = c.id AND o.orders >= 2)
           OR EXISTS (SELECT 1 FROM hit_total h WHERE h.contact_id = c.id AND h.link = -2 AND h.last_at IS NOT NULL
             AND +h.run_id IN (SELECT r.id FROM run r WHERE r.campaign = 'sale')))""", "as SQLite"),
    ("drawn", "ordered(category: 'oolong', within: 1y) and not clicked(within: 60d) and random(10%, seed: 'spring')",
     f"""SELECT COUNT(*) FROM (SELECT DISTINCT o.contact_id AS id FROM order_line o WHERE o.category = 'oolong' AND o.refunded = FALSE AND o.at >= {A_YEAR}
         AND {bucket('o.contact_id', 'spring')} < 100000) o JOIN contact c ON c.id = o.id AND c.merged_into IS NULL
       WHERE NOT EXISTS (SELECT 1 FROM hit_total h WHERE h.contact_id = c.id AND h.link = -2 AND h.last_at >= {ago(60)})""", None),
    ("of segments", "segment('quiet') and segment('shoppers') and not subscribed('offers')",
     f"""SELECT COUNT(*) FROM contact c LEFT JOIN engagement g ON g.topic_id = 0 AND g.contact_id = c.id LEFT JOIN order_total o ON o.contact_id = c.id AND o.orders > 0
       WHERE c.merged_into IS NULL
         AND (o.amount >= 2000000 OR EXISTS (SELECT 1 FROM did_visit e WHERE e.contact_id = c.id AND e.at >= {ago(60)}))
         AND NOT EXISTS (SELECT 1 FROM subscription s WHERE s.topic_id = {TOPIC['offers']} AND s.contact_id = c.id AND s.standing = 'subscribed')
         AND COALESCE(NULLIF(MAX(COALESCE(g.last_open_at, 0), COALESCE(g.last_click_at, 0), COALESCE(o.last_at, 0)), 0),
           (SELECT MAX(s.since) FROM subscription s WHERE s.topic_id IN (1, 2, 3) AND s.contact_id = c.id AND s.standing = 'subscribed')) <= {ago(180)}""",
     "as SQLite"),
]


def by_hand(engine, case):
    _, _, sqlite, postgres = case
    if engine == "sqlite" or postgres is None:
        return sqlite
    if postgres != "as SQLite":
        return postgres
    return sqlite.replace("INSTR(", "STRPOS(").replace("char(31)", "chr(31)").replace("+h.run_id", "h.run_id").replace("e.contact_id + 0", "e.contact_id").replace("NULLIF(MAX(", "NULLIF(GREATEST(")


class Store:
    """One engine with the past in it; `cold` puts nothing of it in memory."""

    def __init__(self, engine, folder):
        self.engine, self.folder, self.server = engine, pathlib.Path(folder), None
        self.config = self.folder / "config"
        self.config.mkdir(parents=True, exist_ok=True)
        for name, text in CONFIG.items():
            (self.config / name).parent.mkdir(exist_ok=True)
            (self.config / name).write_text(text, encoding="utf-8")
        self.file = self.folder / "optin.db"
        made = self.file.exists()
        if engine == "postgres":
            made = (self.folder / "postgres").exists()
            self.server = Postgres(self.folder, SETTINGS)
        if not made:
            self.fill()

    @property
    def url(self):
        return f"sqlite://{self.file}" if self.engine == "sqlite" else self.server.url("bench")

    def rows(self, sql):
        command = ["sqlite3", "-separator", "\t", self.file, sql] if self.engine == "sqlite" else ["psql", "-X", "-q", "-A", "-t", "-F", "\t", "-c", sql, self.url]
        return [line.split("\t") for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()]

    def fill(self):
        if self.server:
            self.server.create("bench")
        env = {"PATH": os.environ["PATH"], "OPTIN_SECRET": "a-secret-for-benches-0123456789", "OPTIN_DATABASE__URL": self.url, "OPTIN_CLOCK": "2026-12-01T00:00:00Z"}
        # Makes the tables, with a column for each attribute.
        subprocess.run([OPTIN, "segment", "count", "vip"], env=env, cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        run = past.sqlite_run(self.file) if self.engine == "sqlite" else past.postgres_run(self.url)
        known = "SELECT name FROM sqlite_master" if self.engine == "sqlite" else "SELECT tablename FROM pg_tables"
        run([statement for name, columns in EVENTS.items() if [name] not in self.rows(known) for statement in self.event_table(name, columns)])
        past.make(self.engine, run, self.rows)
        settle()

    def event_table(self, name, columns):
        key = "BIGINT"
        if self.engine == "sqlite":
            key, columns = "INTEGER", columns.replace("DOUBLE PRECISION", "DOUBLE")
        return [f"CREATE TABLE {name} (id {key} PRIMARY KEY, event_key TEXT NOT NULL, contact_id BIGINT NOT NULL, known_as BIGINT NOT NULL, at BIGINT NOT NULL, recorded_at BIGINT NOT NULL, {columns})",
                f"CREATE UNIQUE INDEX {name}_key ON {name} (event_key)", f"CREATE INDEX {name}_contact ON {name} (contact_id, at)",
                f"CREATE INDEX {name}_at ON {name} (at, contact_id)"]

    def cold(self):
        if self.server:
            self.server.stop()
        os.sync()
        for file in [self.file] if self.engine == "sqlite" else (self.folder / "postgres/data/base").rglob("*"):
            with contextlib.suppress(OSError), open(file, "rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if self.server:
            self.server = Postgres(self.folder, SETTINGS)

    def stop(self):
        if self.server:
            self.server.stop()


def bench():
    found = [path for path in (pathlib.Path(OPTIN).parent / "deps").glob("segments-*") if path.suffix == ""]
    return max(found, key=lambda path: path.stat().st_mtime, default=None) or sys.exit("run `benches/run segments`, which builds it")


def ask(store, case, rounds, hand_first=False):
    one = {"rule": case[1], "sql": by_hand(store.engine, case), "hand_first": hand_first}
    task = {"url": store.url, "config": str(store.config), "now": NOW, "rounds": rounds, "cases": [one]}
    done = subprocess.run([bench()], env={"PATH": os.environ["PATH"], "SEGMENTS": json.dumps(task)}, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(store, case):
    cold = {}
    if COLD:
        for hand_first, name in ((False, "ours"), (True, "hand")):
            store.cold()
            cold[name] = f"{ask(store, case, 0, hand_first)[name][0]:,.0f}"
    found = ask(store, case, ROUNDS)
    assert found["counts"][0] == found["counts"][1], (case[0], found["counts"], found["sql"], found["args"])
    ours, hand = (statistics.median(found[name][1:]) for name in ("ours", "hand"))
    fastest = min(found["ours"][1:]) / min(found["hand"][1:])
    if os.environ.get("SQL"):
        print(f"-- {case[1]}\n{found['sql']}\n{found['args']}", flush=True)
    return [store.engine, case[0], f"{found['counts'][0]:,}", f"{ours:,.0f}", f"{hand:,.0f}", f"{ours / hand:.2f}", f"{fastest:.2f}", cold.get("ours", ""), cold.get("hand", "")]


def main():
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(os.environ.get("FOLDER") or stack.enter_context(tempfile.TemporaryDirectory(prefix="optin-bench-")))
        rows = []
        for engine in ENGINES:
            store = Store(engine, folder)
            try:
                for case in CASES:
                    if not ONLY or case[0].replace(" ", "-") in ONLY:
                        rows.append(measure(store, case))
                        print("  " + ", ".join(rows[-1]), flush=True)
            finally:
                store.stop()
        table(["engine", "segment", "people", "ours ms", "by hand ms", "ratio", "ratio of the fastest", "cold ms", "by hand, cold ms"], rows)


main()
