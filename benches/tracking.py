"""Tracked links and images under wrk, with recording on, against nginx answering the same from its configuration with
its access log on; bytes of a hit; how fast hits come into the database; and whether an answered hit is ever lost by kill -9.

The links are those of mails of a real run."""

import asyncio
import base64
import contextlib
import email
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

from common import ENGINES, OPTIN, REPOSITORY, Instance, free_port, settle, table, workshop
from mail import LETTER, ended, import_people, wait_for_port

PEOPLE = int(os.environ.get("PEOPLE", 10_000))
SECONDS = float(os.environ.get("SECONDS", 10))
CONNECTIONS = [int(count) for count in os.environ.get("CONNECTIONS", "64 256").split()]
CLIENTS = 24
KILLED_AFTER = 1.5

NGINX = """
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/nginx-errors.log;
events {{ worker_connections 4096; }}
http {{
  access_log {folder}/access.log combined;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location /c/ {{
      add_header Cache-Control no-store always; add_header Referrer-Policy no-referrer always;
      add_header X-Content-Type-Options nosniff always; add_header X-Robots-Tag "noindex, nofollow" always;
      return 302 https://tea.example/longjing;
    }}
    location /o/ {{
      add_header Cache-Control "no-store, max-age=0" always; add_header Referrer-Policy no-referrer always;
      add_header X-Content-Type-Options nosniff always; add_header X-Robots-Tag "noindex, nofollow" always;
      empty_gif;
    }}
  }}
}}
"""


class Mailbox:
    """An SMTP server that keeps what it took."""

    def __init__(self):
        self.mails = []

    async def talk(self, reader, writer):
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            word = line[:4].upper()
            if word == b"DATA":
                writer.write(b"354 go on\r\n")
                await writer.drain()
                lines = []
                while (line := await reader.readline()) not in (b".\r\n", b""):
                    lines.append(line[1:] if line.startswith(b".") else line)
                self.mails.append(b"".join(lines))
            elif word == b"QUIT":
                break
            writer.write(b"250-here\r\n250 PIPELINING\r\n" if word == b"EHLO" else b"250 ok\r\n")
        writer.close()


def run_and_read(folder, engine, postgres):
    """Sends a campaign; answers the instance and the paths of images and links in its mails."""
    box = Mailbox()
    loop = asyncio.new_event_loop()

    async def play():
        server = await asyncio.start_server(box.talk, "127.0.0.1", 0, limit=1 << 22)
        port = server.sockets[0].getsockname()[1]
        instance = Instance(folder, engine, postgres, LETTER, port, 4)
        await asyncio.to_thread(import_people, instance, folder, PEOPLE)
        done = await asyncio.to_thread(instance.optin, "send", "weekly")
        assert done.json()["sent"] == PEOPLE, done.text
        server.close()
        return instance

    instance = loop.run_until_complete(play())
    images, links = [], []
    for data in box.mails:
        html = next(part for part in email.message_from_bytes(data).walk() if part.get_content_type() == "text/html").get_payload(decode=True).decode()
        images += re.findall(r"https://news\.tea\.example(/o/[^\"]+)", html)
        links += re.findall(r"https://news\.tea\.example(/c/[^\"]+)", html)
    assert len(images) == PEOPLE and len(links) >= 4 * PEOPLE, (len(images), len(links))
    shutil.rmtree(folder / "optin-hits", ignore_errors=True)
    return instance, images, links


def named(path):
    """Delivery and link of a tracked link's token."""
    token = path.split("/")[2]
    data = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))[2:-12]
    numbers, value, shift = [], 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value, shift = 0, 0
    return tuple(numbers)


@contextlib.contextmanager
def nginx(folder):
    port = free_port()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    os.chmod(folder, 0o755)
    with ended(subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-e", folder / "nginx-errors.log"], stderr=subprocess.DEVNULL)):
        wait_for_port(port)
        yield port


def wrk(port, paths, connections):
    """Requests a second, and the median and 99th percentile in milliseconds."""
    settle()
    said = subprocess.run(["wrk", "-t2", f"-c{connections}", f"-d{SECONDS:g}s", "--latency", "-s", REPOSITORY / "benches/tools/cycle.lua", f"http://127.0.0.1:{port}"],
                          env={**os.environ, "PATHS": str(paths)}, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        print(said, file=sys.stderr)
    unit = {"us": 0.001, "ms": 1, "s": 1000}
    at = {share: float(number) * unit[kind] for share, number, kind in re.findall(r"(\d+)%\s+([\d.]+)(us|ms|s)", said)}
    return float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]), at["50"], at["99"]


def metrics(port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    return {name: float(value) for name, value in re.findall(r"^(optin_hit\w+) (\S+)$", text, re.M)}


def stored_bytes(instance):
    if instance.engine == "sqlite":
        instance.query("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(instance.query("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()")[0])
    return int(instance.query("SELECT pg_database_size('bench')")[0])


async def click_until_killed(port, paths, process):
    """Each link once; answers those that were answered."""
    answered, waiting = [], list(reversed(paths))
    end = time.monotonic() + KILLED_AFTER

    async def client():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while waiting:
            path = waiting.pop()
            writer.write(f"GET {path} HTTP/1.1\r\nHost: news.tea.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 302 " in head.split(b"\r\n")[0], head
            answered.append(path)

    async def killer():
        await asyncio.sleep(end - time.monotonic())
        process.send_signal(signal.SIGKILL)

    await asyncio.gather(killer(), *(client() for _ in range(CLIENTS)), return_exceptions=True)
    return answered


def rows_of(instance):
    sql = "SELECT delivery_id, link FROM hit WHERE kind = 'click'"
    if instance.engine == "sqlite":
        text = subprocess.run(["sqlite3", "-csv", instance.file, sql], check=True, capture_output=True, text=True).stdout
    else:
        text = instance.postgres.query("bench", sql)
    return [tuple(map(int, line.split(","))) for line in text.split()]


def wait_until_folded(instance, port, limit=120):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        now = metrics(port)
        # It finds what dead processes left a moment after it is ready; perhaps they left nothing.
        found = now["optin_hits_folded_total"] > 0 or time.monotonic() > until - limit + 3
        if found and now["optin_hit_log_bytes"] == 0:
            return
        time.sleep(0.1)
    sys.exit("the log of hits is not folded")


def kill(instance, links, port):
    """kill -9 while links are followed, and again; answers how many were answered, lost and doubled, and the bytes of a hit."""
    before, answered, links = stored_bytes(instance), [], list(links)
    for _ in range(3):
        process = subprocess.Popen([OPTIN, "serve", "--only", "web"], env=instance.env, cwd=instance.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        process.stdout.readline()
        done = asyncio.run(click_until_killed(port, links, process))
        process.wait()
        answered += done
        links = links[len(done) + CLIENTS:]
    with instance.serve("--only", "web"):
        began = time.monotonic()
        wait_until_folded(instance, port)
        folded = metrics(port)["optin_hits_folded_total"] / (time.monotonic() - began)
    rows = rows_of(instance)
    lost = {named(path) for path in answered} - set(rows)
    return len(answered), len(lost), len(rows) - len(set(rows)), (stored_bytes(instance) - before) / max(len(rows), 1), folded


def main():
    missing = [name for name in ["nginx", "wrk", "sqlite3"] if not shutil.which(name)]
    if missing:
        sys.exit(f"missing: {' '.join(missing)}; on Debian: apt install nginx wrk sqlite3")
    rows, kills, folds = [], [], []
    with workshop("postgres" in ENGINES) as (folder, postgres), nginx(folder) as nginx_port:
        for engine in ENGINES:
            instance, images, links = run_and_read(folder, engine, postgres)
            port = free_port()
            instance.env["OPTIN_SITE__LISTEN"] = f"127.0.0.1:{port}"
            answered, lost, doubled, size, folded = kill(instance, links, port)
            kills.append([engine, 3, f"{answered:,}", lost, doubled, f"{size:.0f}", f"{folded:,.0f}"])
            with instance.serve("--only", "web"):
                for kind, paths in [("redirect", links), ("image", images)]:
                    file = folder / f"{kind}s.txt"
                    file.write_text("\n".join(paths) + "\n")
                    for connections in CONNECTIONS:
                        reference = wrk(nginx_port, file, connections)
                        ours = wrk(port, file, connections)
                        rows.append([engine, kind, connections, f"{ours[0]:,.0f}", f"{reference[0]:,.0f}", f"{ours[0] / reference[0]:.2f}",
                                     f"{ours[1]:.1f}", f"{ours[2]:.1f}", f"{reference[1]:.1f}", f"{reference[2]:.1f}"])
                first, began = metrics(port), time.monotonic()
                time.sleep(10)
                then, took = metrics(port), time.monotonic() - began
                folds.append([engine, f"{first['optin_hits_logged_total']:,.0f}", f"{first['optin_hits_dropped_total']:,.0f}",
                              f"{first['optin_hit_log_bytes'] / max(first['optin_hits_logged_total'] - first['optin_hits_folded_total'], 1):.0f}",
                              f"{(then['optin_hits_folded_total'] - first['optin_hits_folded_total']) / took:,.0f}"])
    print(f"wrk -t2 for {SECONDS:g} s over {PEOPLE:,} people's links; nginx: 2 workers, the same answers and headers, access log on")
    table(["engine", "what", "connections", "optin/s", "nginx/s", "ratio", "p50 ms", "p99 ms", "nginx p50", "nginx p99"], rows)
    print("\nkill -9 under clicks, started again: answered 302s that are not in `hit`, and rows that are there twice")
    table(["engine", "kills", "answered", "lost", "doubled", "bytes a hit", "folded/s"], kills)
    print("\nthe log after wrk (dozens of hits of each mail within two minutes), and how fast it comes into the database with half of the writer's time")
    table(["engine", "logged", "dropped", "log bytes a hit", "folded/s"], folds)


main()
