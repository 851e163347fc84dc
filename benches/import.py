"""`optin import contacts` against the fastest plain load of the same file, in the same run."""

import os
import subprocess
import time

from common import ENGINES, HEADER, Instance, Measured, settle, table, workshop, write_people

ROWS = int(os.environ.get("ROWS", 1_000_000))
FEW = 10_000
NONE = ["--consent", "none"]
CONFIRMED = ["--topic", "letter", "--consent", "confirmed", "--source", "shop checkout 2026"]


def import_command(file, consent):
    return ["import", "contacts", file, "--map", "name=first_name", *consent]


def sqlite_import(folder, file):
    database = folder / "yardstick.db"
    database.unlink(missing_ok=True)
    settle()
    done = Measured(["sqlite3", str(database), f".import --csv {file} people"])
    counted = subprocess.run(["sqlite3", database, "SELECT count(*) FROM people"], check=True, capture_output=True, text=True)
    assert int(counted.stdout) == ROWS, counted.stdout
    return done


def sqlite_import_indexed(folder, file):
    """The same with what a list needs: no address twice, durable at each step, readers not locked out."""
    database = folder / "indexed.db"
    for old in folder.glob("indexed.db*"):
        old.unlink()
    subprocess.run(["sqlite3", database, "PRAGMA journal_mode = WAL", f"CREATE TABLE people ({', '.join(name + ' TEXT' for name in HEADER)})",
                    "CREATE UNIQUE INDEX people_email ON people (email)"], check=True, stdout=subprocess.DEVNULL)
    settle()
    return Measured(["sqlite3", str(database), "PRAGMA cache_size = -32768", f".import --csv {file} people"])


def postgres_copy(postgres, file):
    url = postgres.create("yardstick")
    postgres.query("yardstick", f"CREATE TABLE people ({', '.join(name + ' TEXT' for name in HEADER)})")
    settle()
    return Measured(["psql", "-X", "-q", "-c", f"\\copy people FROM '{file}' WITH (FORMAT csv, HEADER true)", url])


def main():
    with workshop("postgres" in ENGINES) as (folder, postgres):
        started = time.monotonic()
        many, few = folder / "many.csv", folder / "few.csv"
        write_people(many, ROWS)
        write_people(few, FEW)
        print(f"inputs: {ROWS} rows, {many.stat().st_size >> 20} MiB, made in {time.monotonic() - started:.0f} s", flush=True)
        rows = []
        if "sqlite" in ENGINES:
            indexed = sqlite_import_indexed(folder, many)
            print(f"for comparison, .import into a table with a unique index on the address, in WAL mode: {ROWS / indexed.seconds:,.0f} rows/s", flush=True)
        for engine in ENGINES:
            name, yardstick = ("sqlite3 .import", lambda: sqlite_import(folder, many)) if engine == "sqlite" else \
                ("psql \\copy", lambda: postgres_copy(postgres, many))
            for label, consent in [("none", NONE), ("confirmed", CONFIRMED)]:
                small = Instance(folder, engine, postgres).optin(*import_command(few, consent))
                before = yardstick()
                instance = Instance(folder, engine, postgres)
                settle()
                done = instance.optin(*import_command(many, consent))
                assert done.json()["added"] == ROWS, done.text
                if consent is CONFIRMED:
                    assert instance.query("SELECT count(*) FROM subscription") == [str(ROWS)]
                after = yardstick()
                reference = (before.seconds + after.seconds) / 2
                rows.append([engine, label, f"{ROWS / done.seconds:,.0f}", f"{done.seconds:.1f}", f"{done.cpu:.1f}", name,
                             f"{ROWS / reference:,.0f}", f"{reference / done.seconds:.2f}", f"{small.mib:.0f}", f"{done.mib:.0f}"])
                if label == "none":
                    again = instance.optin(*import_command(many, consent))
                    assert again.json()["unchanged"] == ROWS, again.text
                    rows.append([engine, "none, again", f"{ROWS / again.seconds:,.0f}", f"{again.seconds:.1f}", f"{again.cpu:.1f}", name,
                                 f"{ROWS / reference:,.0f}", f"{reference / again.seconds:.2f}", "", f"{again.mib:.0f}"])
        table(["engine", "consent", "rows/s", "s", "CPU s", "yardstick", "rows/s", "ratio", f"MiB at {FEW:,}", f"MiB at {ROWS:,}"], rows)


main()
