"""Events and orders into a fresh database, against the bare loading of the same rows into a table without index.

EVENTS=5000000 ORDERS=500000 PEOPLE=1000000 change the sizes, ENGINES the databases.
"""

import json
import os
import random
import subprocess
import time
import uuid

from common import ENGINES, Instance, Measured, settle, table, workshop

EVENTS = int(os.environ.get("EVENTS", 5_000_000))
ORDERS = int(os.environ.get("ORDERS", 500_000))
PEOPLE = int(os.environ.get("PEOPLE", 1_000_000))
FEW = 100_000
FILES = {"events.toml": '[visit]\n[visit.properties]\npage = "text"\ntitle = "text"\nduration = "number"\n'}
PAGES = [f"/tea/{name}" for name in "oolong green black puerh white yellow jasmine matcha sencha assam".split()]
FIRST = 1_750_000_000


def person(rng):
    """Some do much, most do little."""
    return int(PEOPLE * rng.random() ** 2)


def write_people(path):
    with open(path, "w", encoding="utf-8") as out:
        out.write("email,external_id\n")
        for index in range(PEOPLE):
            out.write(f"p{index}@tea.example,{index}\n")


def write_events(path, flat, count):
    """The same events as JSON lines and as a table. Ids are random (version 4), as scripts on pages make them; times grow."""
    rng = random.Random(5)
    with open(path, "w", encoding="utf-8") as out, open(flat, "w", encoding="utf-8") as table_out:
        for index in range(count):
            key = uuid.UUID(int=rng.getrandbits(128), version=4)
            who, page, duration = person(rng), rng.choice(PAGES), rng.randrange(3_000) / 10
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(FIRST + index * 6))
            out.write(json.dumps({"id": str(key), "type": "visit", "email": f"p{who}@tea.example", "at": at,
                                  "properties": {"page": page, "title": "Tea", "duration": duration}}) + "\n")
            table_out.write(f"{key},p{who}@tea.example,{at},{page},Tea,{duration}\n")


def write_orders(path, flat, count):
    rng = random.Random(6)
    lines = 0
    with open(path, "w", encoding="utf-8") as out, open(flat, "w", encoding="utf-8") as table_out:
        out.write("order_id,email,at,amount,product_id,category,quantity,refunded\n")
        for index in range(count):
            who = person(rng)
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(FIRST + index * 60))
            for _ in range(rng.randrange(1, 4)):
                line = f"A-{index},p{who}@tea.example,{at},{rng.randrange(100, 9_000) / 100},p{rng.randrange(500)},tea,{rng.randrange(1, 5)},\n"
                out.write(line)
                table_out.write(line)
                lines += 1
    return lines


def bare(folder, engine, postgres, flat, columns):
    """The yardstick: the rows as text into a table without any index, by the database's own tool."""
    settle()
    names = ", ".join(f"c{index} TEXT" for index in range(columns))
    if engine == "sqlite":
        file = folder / "yardstick.db"
        file.unlink(missing_ok=True)
        subprocess.run(["sqlite3", file, f"CREATE TABLE rows ({names})"], check=True)
        return Measured(["sqlite3", str(file), f".import --csv {flat} rows"]).seconds
    url = postgres.create("yardstick")
    postgres.query("yardstick", f"CREATE TABLE rows ({names})")
    return Measured(["psql", "-X", "-q", "-c", f"\\copy rows FROM '{flat}' WITH (FORMAT csv)", url]).seconds


def main():
    with workshop("postgres" in ENGINES) as (folder, postgres):
        people, few = folder / "people.csv", folder / "few.jsonl"
        events, events_flat, orders, orders_flat = (folder / name for name in ["events.jsonl", "events.csv", "orders.csv", "orders_flat.csv"])
        started = time.monotonic()
        write_people(people)
        write_events(few, folder / "few.csv", FEW)
        write_events(events, events_flat, EVENTS)
        lines = write_orders(orders, orders_flat, ORDERS)
        print(f"inputs: {PEOPLE} people, {EVENTS} events ({events.stat().st_size >> 20} MiB), {ORDERS} orders of {lines} lines, made in "
              f"{time.monotonic() - started:.0f} s", flush=True)
        rows = []
        for engine in ENGINES:
            name = "sqlite3 .import" if engine == "sqlite" else "psql \\copy"
            small = Instance(folder, engine, postgres, FILES)
            small.optin("import", "contacts", people, "--consent", "none")
            small_mib = small.optin("import", "events", few).mib
            instance = Instance(folder, engine, postgres, FILES)
            instance.optin("import", "contacts", people, "--consent", "none")
            for what, file, flat, columns, count in [("events", events, events_flat, 6, EVENTS), ("orders", orders, orders_flat, 8, lines)]:
                before = bare(folder, engine, postgres, flat, columns)
                settle()
                done = instance.optin("import", what, file)
                assert done.json()["added"] == count, done.text
                reference = (before + bare(folder, engine, postgres, flat, columns)) / 2
                rows.append([engine, what, f"{count:,}", f"{count / done.seconds:,.0f}", f"{done.seconds:.1f}", f"{done.cpu:.1f}", name,
                             f"{count / reference:,.0f}", f"{reference / done.seconds:.2f}", f"{small_mib:.0f}" if what == "events" else "",
                             f"{done.mib:.0f}"])
                again = instance.optin("import", what, file)
                assert again.json()["unchanged"] == count, again.text
                rows.append([engine, f"{what}, again", f"{count:,}", f"{count / again.seconds:,.0f}", f"{again.seconds:.1f}", f"{again.cpu:.1f}",
                             name, f"{count / reference:,.0f}", f"{reference / again.seconds:.2f}", "", f"{again.mib:.0f}"])
            assert instance.query("SELECT COUNT(*) FROM did_visit") == [str(EVENTS)]
        table(["engine", "what", "rows", "rows/s", "s", "CPU s", "yardstick", "rows/s", "ratio", f"MiB at {FEW:,}", "MiB"], rows)


main()
