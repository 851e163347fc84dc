"""One, two, three `optin serve --only worker` on one PostgreSQL, to a receiver slower than a node."""

import contextlib
import os
import time

from common import Instance, settle, table, tool, workshop
from mail import LETTER, import_people, receiver, send_soon, source, taken

NODES = 3
SESSIONS = int(os.environ.get("SESSIONS", 20))
# What the receiver needs for each mail, on each session.
WAIT_MS = int(os.environ.get("WAIT_MS", 50))
SECONDS = float(os.environ.get("SECONDS", 6))
# A node that joins is at work within this time.
JOINS_SECONDS = 3


def main():
    with workshop(True) as (folder, postgres), receiver(tool(folder, "receiver"), WAIT_MS) as port:
        instance = Instance(folder, "postgres", postgres, LETTER, port, SESSIONS)
        most = SESSIONS * 1000 / WAIT_MS
        mails = int(most * sum(range(NODES + 1)) * (SECONDS + JOINS_SECONDS) * 1.3)
        size, _ = import_people(instance, folder, mails)
        reference = source(port, size, int(most * SECONDS / 2), SESSIONS)
        settle()
        send_soon(instance)
        rows, first = [], None
        with contextlib.ExitStack() as serving:
            for nodes in range(1, NODES + 1):
                before = taken(port)
                node = serving.enter_context(instance.serve("--only", "worker"))
                until = time.monotonic() + 30
                while taken(port) == before:
                    if time.monotonic() > until or node.poll() is not None:
                        raise SystemExit(f"node {nodes} sends nothing")
                    time.sleep(0.05)
                time.sleep(JOINS_SECONDS)
                began, count = time.monotonic(), taken(port)
                time.sleep(SECONDS)
                rate = (taken(port) - count) / (time.monotonic() - began)
                first = first or rate
                rows.append([nodes, SESSIONS, f"{rate:,.0f}", f"{reference:,.0f}", f"{rate / reference:.2f}", f"{rate / first:.2f}",
                             f"{rate / (most * nodes):.2f}"])
        print(f"{WAIT_MS} ms a mail at the receiver; one run of {mails} mails, nodes join while it is sent; "
              f"smtp-source -d -s {SESSIONS} is one node's yardstick; ideal: what the receiver lets {SESSIONS} sessions a node do")
        table(["nodes", "sessions each", "mails/s", "smtp-source/s", "ratio", "gain", "of the ideal"], rows)


main()
