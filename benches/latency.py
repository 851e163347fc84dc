"""`optin send` to a relay that is 20 and 100 ms away, against smtp-source with as many sessions over the same way.

A program that waits for each reply needs four round trips a mail; one that sends MAIL, RCPT and DATA together with the
end of the mail before needs one."""

import os

from common import Instance, settle, table, tool, workshop
from mail import LETTER, delayed, import_people, sink, source, steady

ENGINES = os.environ.get("ENGINES", "sqlite").split()
SECONDS = float(os.environ.get("SECONDS", 8))
ROUND_TRIPS_MS = [20, 100]
SESSIONS = [10, 100]


def main():
    with workshop("postgres" in ENGINES) as (folder, postgres), sink() as target:
        program = tool(folder, "delay")
        rows = []
        for rtt_ms in ROUND_TRIPS_MS:
            for sessions in SESSIONS:
                # What four round trips a mail allow, and one.
                slow = max(sessions, round(sessions * SECONDS * 1000 / rtt_ms / 4))
                fast = slow * 4
                with delayed(program, target, rtt_ms) as port:
                    for number, engine in enumerate(ENGINES):
                        instance = Instance(folder, engine, postgres, LETTER, port, sessions)
                        size, _ = import_people(instance, folder, fast)
                        if number == 0:
                            reference = source(port, size, slow, sessions)
                        settle()
                        done = instance.optin("send", "weekly")
                        assert done.json()["sent"] == fast, done.text
                        whole, flow = fast / done.seconds, steady(instance, fast)
                        rows.append([engine, rtt_ms, sessions, fast, f"{whole:,.0f}", f"{flow:,.0f}", f"{reference:,.0f}", f"{whole / reference:.2f}",
                                     f"{flow / reference:.2f}", f"{flow / (sessions * 1000 / rtt_ms):.2f}"])
        print("smtp-source -d with as many sessions through the same proxy; `of one trip`: steady, to what one round trip a mail allows")
        table(["engine", "round trip ms", "sessions", "mails", "mails/s", "steady", "smtp-source/s", "ratio", "steady ratio", "of one trip"], rows)


main()
