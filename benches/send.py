"""`optin send` over loopback into smtp-sink, unsigned and signed, against smtp-source with as many sessions and bytes."""

import os

from common import ENGINES, Instance, settle, table, workshop
from mail import LETTER, import_people, sink, source, steady

MAILS = int(os.environ.get("MAILS", 20_000))
SESSIONS = int(os.environ.get("SESSIONS", 20))
SIGNED = os.environ.get("DKIM", "off rsa rsa+ed25519").split()


def sign(instance, kinds):
    """Keys for its mails. Ed25519 alone is refused: many receivers verify RSA only."""
    made = [instance.optin("dkim", "new", "tea.example", "--selector", kind, "--type", kind).json() for kind in kinds.split("+")]
    with open(instance.folder / "config/optin.toml", "a", encoding="utf-8") as settings:
        settings.write("\n" + "\n".join(key["declaration"] for key in made) + "\n")


def main():
    with workshop("postgres" in ENGINES) as (folder, postgres), sink() as port:
        rows = []
        for engine in ENGINES:
            before = unsigned = None
            for kind in SIGNED:
                instance = Instance(folder, engine, postgres, LETTER, port, SESSIONS)
                if kind != "off":
                    sign(instance, kind)
                size, _ = import_people(instance, folder, MAILS)
                before = before or source(port, size, MAILS, SESSIONS)
                settle()
                done = instance.optin("send", "weekly")
                assert done.json()["sent"] == MAILS, done.text
                after = source(port, size, MAILS, SESSIONS)
                reference, before = (before + after) / 2, after
                whole, flow = MAILS / done.seconds, steady(instance, MAILS)
                unsigned = unsigned or flow
                rows.append([engine, kind, size, f"{whole:,.0f}", f"{flow:,.0f}", f"{done.cpu / MAILS * 1e6:.0f}", f"{reference:,.0f}",
                             f"{whole / reference:.2f}", f"{flow / reference:.2f}", f"{flow / unsigned:.2f}", f"{done.mib:.0f}"])
        print(f"{MAILS} mails, {SESSIONS} sessions, smtp-source -d into the same smtp-sink before and after each run")
        table(["engine", "DKIM", "bytes", "mails/s", "steady", "CPU µs a mail", "smtp-source/s", "ratio", "steady ratio",
               f"steady, to {SIGNED[0]}", "peak MiB"], rows)


main()
