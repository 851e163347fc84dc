"""What the measurements share: processes with their time and memory, databases, people, tables."""

import contextlib
import csv
import itertools
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
OPTIN = os.environ.get("OPTIN_BINARY", str(REPOSITORY / "target/release/optin"))
ENGINES = os.environ.get("ENGINES", "sqlite postgres").split()

# Whatever ends a measurement, what it started ends too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))

HEADER = ["email", "name", "company", "city", "address", "phone", "locale", "timezone", "signup_at", "tags", "birthday"]
FAMILY = "王 李 張 劉 陳 楊 黃 趙 吳 周 林 Smith Jones Garcia Müller Sato Kim Tanaka Rossi Novak Silva".split()
GIVEN = "小明 美玲 志偉 淑芬 Anna Ben Chloe David Élodie Farid Grace Hugo Ines Jonas 佳穎 宗翰".split()
CITIES = [("台北", "zh-TW", "Asia/Taipei"), ("上海", "zh-CN", "Asia/Shanghai"), ("香港", "zh-HK", "Asia/Hong_Kong"),
          ("London", "en-GB", "Europe/London"), ("New York", "en-US", "America/New_York"), ("München", "de-DE", "Europe/Berlin")]
DOMAINS = "example.com example.org example.net mail.example.com shop.example.org 163.example.net".split()
TAGS = "oolong green black puerh teaware newsletter vip trial".split()

SETTINGS = """
[site]
url = "https://news.tea.example"
[smtp]
url = "smtp://127.0.0.1:{smtp}"
connections = {sessions}
[sender]
name = "Tea House 茶館"
email = "letters@tea.example"
reply_to = "hello@tea.example"
postal_address = "1 Leaf Street, Taipei"
[log]
level = "warn"
[attributes]
company = "text"
city = "text"
address = "text"
signup_at = "date"
tags = "list"
birthday = "date"
"""

TOPICS = """
[letter]
name = "Tea letter"
description = "What is fresh"
opt_in = "single"
"""


def write_people(path, count, seed=7):
    """A list as shops export it: eleven columns, English and Chinese, in no order."""
    rng = random.Random(seed)
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(HEADER)
        for index in range(count):
            city, locale, zone = rng.choice(CITIES)
            out.writerow([
                f"{rng.randrange(16**6):06x}.{index}@{rng.choice(DOMAINS)}", f"{rng.choice(GIVEN)} {rng.choice(FAMILY)}",
                f"{rng.choice(FAMILY)} & Co. {rng.randrange(999)}", city, f"{rng.randrange(1, 400)} {rng.choice(FAMILY)} Road, Floor {rng.randrange(30)}",
                f"+886 9{rng.randrange(10**8):08d}", locale, zone, f"20{rng.randrange(15, 26)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
                ";".join(rng.sample(TAGS, rng.randrange(4))), f"{rng.randrange(1940, 2008)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
            ])


class Measured:
    """A process that ended: what it said, wall and CPU seconds, most memory in MiB."""

    def __init__(self, command, env=None, cwd=None):
        started = time.monotonic()
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.seconds = time.monotonic() - started
            self.cpu = usage.ru_utime + usage.ru_stime
            self.mib = usage.ru_maxrss / 1024
            output.seek(0)
            errors.seek(0)
            self.text = output.read().decode()
            if process.returncode != 0:
                sys.exit(f"{command} ended with {process.returncode}\n{self.text}\n{errors.read().decode()}")

    def json(self):
        return json.loads(self.text)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """A private server with its durable defaults. What its folder holds already is kept."""

    def __init__(self, folder, settings=("shared_buffers=256MB", "max_wal_size=4GB")):
        self.folder = pathlib.Path(folder) / "postgres"
        there = (self.folder / "data" / "PG_VERSION").exists()
        self.folder.mkdir(exist_ok=True)
        self.port = free_port()
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
        bin = found[-1].parent if found else pathlib.Path(shutil.which("initdb") or sys.exit("PostgreSQL is missing: run ./test")).parent
        self.user = {}
        if os.getuid() == 0:
            # It refuses to run as root.
            shutil.chown(self.folder, "postgres", "postgres")
            os.chmod(folder, 0o755)
            self.user = {"user": "postgres", "group": "postgres", "extra_groups": []}
        data = str(self.folder / "data")
        if not there:
            subprocess.run([bin / "initdb", "-D", data, "-U", "optin", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"],
                           check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)
        self.server = subprocess.Popen(
            [bin / "postgres", "-D", data, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
             *itertools.chain.from_iterable(("-c", setting) for setting in settings)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **self.user)
        for _ in range(200):
            if subprocess.run([bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0:
                return
            time.sleep(0.05)
        sys.exit("PostgreSQL did not start")

    def url(self, name):
        return f"postgres://optin@127.0.0.1:{self.port}/{name}"

    def create(self, name):
        self.query("postgres", f"DROP DATABASE IF EXISTS {name}")
        self.query("postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def query(self, name, sql):
        return subprocess.run(["psql", "-X", "-q", "-A", "-t", "-F", ",", "-v", "ON_ERROR_STOP=1", "-c", sql, self.url(name)],
                              check=True, capture_output=True, text=True).stdout.strip()

    def stop(self):
        self.server.terminate()
        self.server.wait()


@contextlib.contextmanager
def workshop(with_postgres):
    """A folder and perhaps a PostgreSQL, both gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="optin-bench-") as folder:
        postgres = Postgres(folder) if with_postgres else None
        try:
            yield pathlib.Path(folder), postgres
        finally:
            if postgres:
                postgres.stop()


class Instance:
    """An instance in `folder` on a fresh database of `engine`."""

    def __init__(self, folder, engine, postgres, files=None, smtp=25, sessions=20):
        self.folder, self.engine, self.postgres = pathlib.Path(folder), engine, postgres
        config = self.folder / "config"
        if config.exists():
            shutil.rmtree(config)
        config.mkdir(parents=True)
        for name, text in {"optin.toml": SETTINGS.format(smtp=smtp, sessions=sessions), "topics.toml": TOPICS, **(files or {})}.items():
            (config / name).parent.mkdir(parents=True, exist_ok=True)
            (config / name).write_text(text, encoding="utf-8")
        self.file = self.folder / "optin.db"
        for file in self.folder.glob("optin.db*"):
            file.unlink()
        url = f"sqlite://{self.file}" if engine == "sqlite" else postgres.create("bench")
        self.env = {"PATH": os.environ["PATH"], "OPTIN_SECRET": "a-secret-for-benches-0123456789", "OPTIN_DATABASE__URL": url}

    def optin(self, *arguments):
        return Measured([OPTIN, "--json", *map(str, arguments)], env=self.env, cwd=self.folder)

    @contextlib.contextmanager
    def serve(self, *arguments):
        """`optin serve`, ready, and ended afterwards."""
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen([OPTIN, "serve", *arguments], env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=errors, text=True)
            try:
                if "ready" not in (process.stdout.readline() or ""):
                    errors.seek(0)
                    sys.exit(f"`optin serve` is not ready\n{errors.read().decode()}")
                yield process
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    print("`optin serve` did not end within 20 seconds of SIGTERM", flush=True)
                    process.kill()
                    process.wait()
                errors.seek(0)
                if said := errors.read().decode():
                    print(said, file=sys.stderr)

    def query(self, sql):
        """One row, as texts."""
        if self.engine == "sqlite":
            answer = subprocess.run(["sqlite3", "-csv", self.file, sql], check=True, capture_output=True, text=True).stdout.strip()
        else:
            answer = self.postgres.query("bench", sql)
        return answer.split(",")


def tool(folder, name):
    """A program of tools/, compiled."""
    program = pathlib.Path(folder) / name
    subprocess.run(["rustc", "--edition", "2024", "-O", "-o", program, REPOSITORY / "benches/tools" / f"{name}.rs"], check=True, cwd=folder)
    return program


def settle():
    """What the run before left to the disk is not charged to the next one."""
    os.sync()


def table(header, rows):
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        print("| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths)) + " |", flush=True)
