"""What the measurements of sending share: the letter, receivers, smtp-source, and how runs went."""

import contextlib
import datetime
import os
import shutil
import socket
import subprocess
import time

from common import OPTIN, Measured, free_port, settle, write_people

LETTER = {
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
CONFIRMED = ["--map", "name=first_name", "--topic", "letter", "--consent", "confirmed", "--source", "bench"]


def smtp_program(name):
    return shutil.which(name) or f"/usr/sbin/{name}"


def wait_for_port(port):
    for _ in range(500):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise SystemExit(f"nothing listens on port {port}")


@contextlib.contextmanager
def ended(process):
    """A process that does not outlive the measurement."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def sink():
    """Postfix's SMTP server that throws everything away."""
    port = free_port()
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    command = [smtp_program("smtp-sink"), *user, "-m", "1024", f"127.0.0.1:{port}", "1024"]
    with ended(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)):
        wait_for_port(port)
        yield port


@contextlib.contextmanager
def delayed(program, target, rtt_ms):
    """A port `rtt_ms` further away than `target` (tools/delay.rs)."""
    port = free_port()
    with ended(subprocess.Popen([program, str(port), str(target), str(rtt_ms * 500)])):
        wait_for_port(port)
        yield port


@contextlib.contextmanager
def receiver(program, wait_ms, log=subprocess.DEVNULL):
    """Our own server, which needs `wait_ms` for a mail and counts them (tools/receiver.rs)."""
    port = free_port()
    with ended(subprocess.Popen([program, str(port), str(wait_ms)], stdout=log)):
        wait_for_port(port)
        yield port


def taken(port):
    """How many mails our own server took."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection, connection.makefile("rw", newline="\r\n") as file:
        file.readline()
        file.write("COUNT\r\n")
        file.flush()
        return int(file.readline().split()[1])


def source(port, size, mails, sessions):
    """Mails per second of smtp-source over connections that stay."""
    settle()
    done = Measured([smtp_program("smtp-source"), "-d", "-c", "-m", str(mails), "-s", str(sessions), "-l", str(size),
                     "-f", "letters@tea.example", "-t", "reader@example.com", f"127.0.0.1:{port}"])
    return mails / done.seconds


def import_people(instance, folder, count, write=write_people):
    """Fills an instance; answers the bytes of the letter to the first twenty, on average, and the import."""
    people = folder / f"people-{count}.csv"
    if not people.exists():
        write(people, count)
    done = instance.optin("import", "contacts", people, *CONFIRMED)
    with open(people, encoding="utf-8") as file:
        next(file)
        addresses = [file.readline().split(",")[0] for _ in range(20)]
    sizes = [len(letter(instance, address)) for address in addresses]
    return sum(sizes) // len(sizes), done


def letter(instance, address):
    return subprocess.run([OPTIN, "preview", "weekly", "--to", address, "--format", "eml"],
                          env=instance.env, cwd=instance.folder, check=True, capture_output=True).stdout


def send_soon(instance):
    """A run that `optin serve` sends in some seconds; a time that has passed would be sent by the command itself."""
    at = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=4)
    instance.optin("send", "weekly", "--at", at.strftime("%Y-%m-%dT%H:%M:%SZ"))


def sent_at(instance, positions):
    """When the n-th mails were sent, counted from 0, in milliseconds since 1970."""
    picked = ", ".join(f"MAX(CASE WHEN n = {position + 1} THEN changed_at END)" for position in positions)
    numbered = "SELECT changed_at, ROW_NUMBER() OVER (ORDER BY changed_at, id) AS n FROM delivery WHERE state = 'sent'"
    return [int(at) for at in instance.query(f"SELECT {picked} FROM ({numbered}) AS numbered")]


def steady(instance, mails):
    """Mails per second between the first and the last tenth of the replies."""
    first, last = sent_at(instance, [mails // 10, mails * 9 // 10])
    return mails * 0.8 / ((last - first) / 1000)
