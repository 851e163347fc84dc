"""How long a transactional message takes from its POST to the relay, alone and beside a campaign in full swing."""

import concurrent.futures
import http.client
import json
import os
import random
import threading
import time

from common import ENGINES, Instance, free_port, settle, table, tool, workshop
from mail import LETTER, import_people, receiver, send_soon, taken

MESSAGES = int(os.environ.get("MESSAGES", 200))
PER_SECOND = 20
SESSIONS = int(os.environ.get("SESSIONS", 20))
MAILS = int(os.environ.get("MAILS", 130_000))
# Posts under way at a time; each waits for its answer.
CLIENTS = 16
FILES = {
    **LETTER,
    "messages/order.toml": 'subject = "Order {{ data.order }} 訂單"\nbody = "order.md"\nexpires_hours = 1\n',
    "messages/order.md": "Dear customer,\n\nwe have your order **{{ data.order }}** of {{ data.total }}.\n\n[See it](https://tea.example/orders)\n",
}


class Shop:
    """Posts messages over connections that stay."""

    def __init__(self, port, token):
        self.port, self.token, self.own = port, token, threading.local()

    def post(self, to, due_at):
        """Seconds since 1970 when it was posted and when it was accepted."""
        time.sleep(max(0, due_at - time.time()))
        if not hasattr(self.own, "connection"):
            self.own.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"to": to, "template": "order", "data": {"order": to, "total": "NT$ 1,280"}})
        posted = time.time()
        self.own.connection.request("POST", "/api/v1/messages", body, {
            "Authorization": f"Bearer {self.token}", "Content-Type": "application/json", "Idempotency-Key": to})
        answer = self.own.connection.getresponse()
        text = answer.read()
        assert answer.status == 201, (answer.status, text)
        return posted, time.time()


def arrivals(log):
    with open(log, encoding="ascii") as file:
        return {address: int(at) / 1e6 for address, at in (line.split() for line in file if line.endswith("\n"))}


def measure(shop, log, name):
    """Milliseconds: each post, and from its answer to the arrival of the mail; and how many never came."""
    rng = random.Random(11)
    due, begin = [], time.time() + 0.1
    for _ in range(MESSAGES):
        # People come when they like, not on the beat.
        begin += rng.expovariate(PER_SECOND)
        due.append(begin)
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        posts = {f"m-{name}-{number}@example.com": pool.submit(shop.post, f"m-{name}-{number}@example.com", at) for number, at in enumerate(due)}
    posts = {address: post.result() for address, post in posts.items()}
    until = time.monotonic() + 10
    while len(came := {address: at for address, at in arrivals(log).items() if address in posts}) < MESSAGES and time.monotonic() < until:
        time.sleep(0.05)
    answered = [(accepted - posted) * 1000 for posted, accepted in posts.values()]
    # A mail may be there before its answer was read.
    arrived = [max(0, came[address] - accepted) * 1000 for address, (_, accepted) in posts.items() if address in came]
    whole = [(came[address] - posted) * 1000 for address, (posted, _) in posts.items() if address in came]
    return answered, arrived, whole, MESSAGES - len(came)


def percentiles(values):
    values = sorted(values)
    return [values[min(len(values) - 1, int(len(values) * share))] for share in (0.5, 0.99, 1)]


def wait_until_campaign_flows(port, least):
    until = time.monotonic() + 60
    while taken(port) < least:
        if time.monotonic() > until:
            raise SystemExit("the campaign does not start")
        time.sleep(0.05)


def main():
    with workshop("postgres" in ENGINES) as (folder, postgres):
        program = tool(folder, "receiver")
        rows = []
        for engine in ENGINES:
            path = folder / f"arrivals-{engine}"
            with open(path, "wb") as log, receiver(program, 0, log) as port:
                instance = Instance(folder, engine, postgres, FILES, port, SESSIONS)
                listen = free_port()
                instance.env["OPTIN_SITE__LISTEN"] = f"127.0.0.1:{listen}"
                import_people(instance, folder, MAILS)
                token = instance.optin("token", "create", "--scope", "messages", "--name", "shop").json()["token"]
                settle()
                with instance.serve():
                    shop = Shop(listen, token)
                    idle = None
                    for state in ["idle", "campaign"]:
                        if state == "campaign":
                            before = taken(port)
                            send_soon(instance)
                            wait_until_campaign_flows(port, before + 2000)
                        began, count = time.monotonic(), taken(port)
                        answered, arrived, whole, missing = measure(shop, path, f"{engine}-{state}")
                        flow = (taken(port) - count - MESSAGES) / (time.monotonic() - began)
                        if state == "campaign" and taken(port) >= MAILS:
                            print(f"{engine}: the campaign ended too early; more MAILS make it longer")
                        figures = [*percentiles(answered), *percentiles(arrived), *percentiles(whole)]
                        idle = idle or figures
                        rows.append([engine, state, f"{max(0, flow):,.0f}", *(f"{figure:.1f}" for figure in figures),
                                     f"{figures[6] / idle[6]:.1f}", f"{figures[7] / idle[7]:.1f}", missing])
        print(f"{MESSAGES} messages at {PER_SECOND}/s on average, to the same receiver as the campaign; milliseconds")
        table(["engine", "beside", "campaign mails/s", "POST p50", "p99", "max", "accepted to relay p50", "p99", "max", "both p50", "p99", "max",
               "both p50, to idle", "p99, to idle", "not come in 10 s"], rows)


main()
