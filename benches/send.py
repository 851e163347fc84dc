"""`optin send` over loopback into smtp-sink, against smtp-source with as many sessions and bytes, in the same run."""

import contextlib
import os
import shutil
import socket
import subprocess
import time

from common import ENGINES, OPTIN, Instance, Measured, free_port, settle, table, workshop, write_people

MAILS = int(os.environ.get("MAILS", 100_000))
SESSIONS = int(os.environ.get("SESSIONS", 20))
CAMPAIGN = {
    "campaigns/weekly.toml": """
topic = "letter"
subject = "{{ contact.first_name | default('Tea lover') }}, this week's leaves 新茶"
preheader = "Three new oolongs"
layout = "newsletter"
body = "weekly.md"
[tracking]
opens = true
clicks = true
""",
    "campaigns/weekly.md": """
# Spring has come to {{ contact.city | default('your city') }}

Dear {{ contact.first_name | default('friend') }},

It rained for ten days, and the growers held their breath. In the last week the sky cleared, and the buds were
picked in time. There is less of it than last year, and it smells cleaner than any we drank in five years.

## Three new teas

**[Alishan spring oolong](https://tea.example/alishan-spring)** from 1,400 metres, lightly roasted: gardenia first, then a pear just cut.

**[Longjing before the rain](https://tea.example/longjing)** by Master Xu, who has roasted for thirty-one years. It still tastes of
something in the fourth pot.

**[Silver needle](https://tea.example/silver-needle)**, buds only, dried in the sun.

{% if contact.tags %}You told us what you like: that is why this letter is yours.{% endif %}

> Eighty degrees, three grams, a hundred and fifty millilitres, forty-five seconds.

[Brewing guide with pictures](https://tea.example/brewing)
""",
}


def smtp_program(name):
    return shutil.which(name) or f"/usr/sbin/{name}"


@contextlib.contextmanager
def sink():
    """Postfix's SMTP server that throws everything away."""
    port = free_port()
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    process = subprocess.Popen([smtp_program("smtp-sink"), *user, f"127.0.0.1:{port}", "1024"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


def source(port, size):
    """Messages per second of smtp-source, and its CPU seconds."""
    settle()
    done = Measured([smtp_program("smtp-source"), "-d", "-c", "-m", str(MAILS), "-s", str(SESSIONS), "-l", str(size),
                     "-f", "letters@tea.example", "-t", "reader@example.com", f"127.0.0.1:{port}"])
    return MAILS / done.seconds


def steady(instance):
    """Messages per second between the first and the last tenth of the replies."""
    span = "SELECT changed_at FROM delivery WHERE state = 'sent' ORDER BY changed_at, id LIMIT 1 OFFSET"
    first, last = (int(instance.query(f"{span} {at}")[0]) for at in (MAILS // 10, MAILS * 9 // 10))
    return MAILS * 0.8 / ((last - first) / 1000)


def main():
    with workshop("postgres" in ENGINES) as (folder, postgres), sink() as port:
        people = folder / "people.csv"
        write_people(people, MAILS)
        rows = []
        for engine in ENGINES:
            instance = Instance(folder, engine, postgres, CAMPAIGN, port, SESSIONS)
            instance.optin("import", "contacts", people, "--map", "name=first_name", "--topic", "letter", "--consent", "confirmed", "--source", "bench")
            with open(people, encoding="utf-8") as file:
                addresses = [line.split(",")[0] for line in file.readlines()[1:21]]
            sizes = [len(instance_eml(instance, address)) for address in addresses]
            size = sum(sizes) // len(sizes)
            before = source(port, size)
            settle()
            done = instance.optin("send", "weekly")
            assert done.json()["sent"] == MAILS, done.text
            after = source(port, size)
            reference = (before + after) / 2
            flow = steady(instance)
            rows.append([engine, size, f"{MAILS / done.seconds:,.0f}", f"{flow:,.0f}", f"{done.seconds:.1f}", f"{done.cpu:.1f}",
                         f"{reference:,.0f}", f"{MAILS / done.seconds / reference:.2f}", f"{flow / reference:.2f}", f"{done.mib:.0f}"])
        print(f"{MAILS} mails, {SESSIONS} sessions, smtp-source -d into the same smtp-sink before and after each run")
        table(["engine", "bytes", "mails/s", "steady", "s", "CPU s", "smtp-source/s", "ratio", "steady ratio", "peak MiB"], rows)


def instance_eml(instance, address):
    return subprocess.run([OPTIN, "preview", "weekly", "--to", address, "--format", "eml"],
                          env=instance.env, cwd=instance.folder, check=True, capture_output=True).stdout


main()
