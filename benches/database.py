"""Five real statements through `db/`, and typed through sqlx, on both engines (benches/db.rs)."""

import os
import pathlib
import sys

from common import ENGINES, OPTIN, Measured, workshop


def main():
    # Cargo puts benches beside the dependencies; the newest one is the one just built.
    found = [path for path in (pathlib.Path(OPTIN).parent / "deps").glob("db-*") if path.suffix == ""]
    bench = max(found, key=lambda path: path.stat().st_mtime, default=None) or sys.exit("run `benches/run db`, which builds it")
    with workshop("postgres" in ENGINES) as (folder, postgres):
        urls = [f"sqlite://{folder / 'bench.db'}" if engine == "sqlite" else postgres.create("bench") for engine in ENGINES]
        print(Measured([bench], env={"PATH": os.environ["PATH"], "DB_URLS": " ".join(urls)}).text, end="")


main()
