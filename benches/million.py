"""A campaign to a million people: is the last tenth as fast as the first, and what does a mail leave behind."""

import itertools
import os
import threading
import time

from common import Instance, settle, table, workshop
from mail import LETTER, import_people, sent_at, sink, source

ENGINES = os.environ.get("ENGINES", "sqlite").split()
MAILS = int(os.environ.get("MAILS", 1_000_000))
SESSIONS = int(os.environ.get("SESSIONS", 20))
YARDSTICK_MAILS = min(MAILS, 50_000)


def write_many(path, count):
    """Addresses and names only, in no order of the addresses: made at some hundred thousand a second."""
    names = itertools.cycle("小明 美玲 Anna Ben Chloe 佳穎 Grace Hugo".split())
    with open(path, "w", encoding="utf-8") as file:
        file.write("email,name\n")
        # A factor without a common divisor with the count's powers of two and ten: each number once.
        file.writelines(f"{index * 7_368_787 % 1_000_003_003:09d}.{index}@example.com,{next(names)}\n" for index in range(count))


class Memory(threading.Thread):
    """Resident MiB of the `send` below this process, each tenth of a second, with the time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.samples, self.over = [], threading.Event()

    def run(self):
        while not self.over.wait(0.1):
            try:
                for task in os.listdir("/proc/self/task"):
                    with open(f"/proc/self/task/{task}/children", encoding="ascii") as file:
                        children = file.read().split()
                    for child in children:
                        with open(f"/proc/{child}/cmdline", "rb") as file:
                            if b"\0weekly" not in file.read():
                                continue
                        with open(f"/proc/{child}/status", encoding="ascii") as file:
                            resident = next(line for line in file if line.startswith("VmRSS"))
                        self.samples.append((time.time() * 1000, int(resident.split()[1]) / 1024))
            except (OSError, StopIteration):
                # It has just ended.
                continue

    def most(self, first_ms, last_ms):
        return max((mib for at, mib in self.samples if first_ms <= at <= last_ms), default=0)


def stored_bytes(instance):
    if instance.engine == "sqlite":
        instance.query("PRAGMA wal_checkpoint(TRUNCATE)")
        return instance.file.stat().st_size
    instance.query("CHECKPOINT")
    return int(instance.query("SELECT pg_database_size(current_database())")[0])


def measure(folder, engine, postgres, port):
    instance = Instance(folder, engine, postgres, LETTER, port, SESSIONS)
    began = time.monotonic()
    size, imported = import_people(instance, folder, MAILS, write_many)
    made = time.monotonic() - began - imported.seconds
    reference = source(port, size, YARDSTICK_MAILS, SESSIONS)
    before = stored_bytes(instance)
    settle()
    memory = Memory()
    memory.start()
    done = instance.optin("send", "weekly")
    memory.over.set()
    assert done.json()["sent"] == MAILS, done.text
    grown = stored_bytes(instance) - before
    marks = sent_at(instance, [min(MAILS * tenth // 10, MAILS - 1) for tenth in range(11)])
    rates = [MAILS / 10 / max((last - first) / 1000, 0.001) for first, last in itertools.pairwise(marks)]
    print(f"{engine}: {MAILS} mails of {size} bytes; list made in {made:.0f} s, imported in {imported.seconds:.0f} s "
          f"({MAILS / imported.seconds:,.0f}/s), sent in {done.seconds:.0f} s")
    print(f"mails/s in each tenth: {', '.join(f'{rate:,.0f}' for rate in rates)}")
    print(f"most MiB in each tenth: {', '.join(f'{memory.most(*span):.0f}' for span in itertools.pairwise(marks))}; "
          f"{memory.most(0, marks[0]):.0f} before the first reply, {memory.most(marks[-1], float('inf')):.0f} after the last", flush=True)
    whole = MAILS / done.seconds
    return [engine, f"{whole:,.0f}", f"{reference:,.0f}", f"{whole / reference:.2f}", f"{(marks[-1] - marks[0]) / 1000:.0f}", f"{rates[0]:,.0f}", f"{rates[-1]:,.0f}",
            f"{rates[-1] / rates[0]:.2f}", f"{done.cpu / MAILS * 1e6:.0f}", f"{done.mib:.0f}", f"{grown / MAILS:.0f}"]


def main():
    with workshop("postgres" in ENGINES) as (folder, postgres), sink() as port:
        rows = [measure(folder, engine, postgres, port) for engine in ENGINES]
        table(["engine", "mails/s", "smtp-source/s", "ratio", "s between first and last reply", "first tenth/s", "last tenth/s", "last to first",
               "CPU µs a mail", "peak MiB", "bytes stored a delivery"], rows)


main()
