"""Photographs of the web page for the documentation: `python -m tests.web.screenshots docs/web`."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from atomq import Engine, Item, Queue, calls
from atomq.web import asgi_app
from tests.servers import Server
from tests.web.browser import Browser, opened, programs, served

QUEUES = ("emails", "invoices", "orders", "thumbnails", "webhooks")
ERROR = (
    "Traceback (most recent call last):\n"
    '  File "shop/orders.py", line 41, in charge\n'
    "    gateway.charge(order.card, order.total)\n"
    "shop.payments.CardDeclined: the card of order 1042 was declined\n"
)


def fill(engine: Engine) -> None:
    """A shop on a busy day."""
    for at, name in enumerate(QUEUES):
        queue = Queue(name, engine)
        bodies = [{"order": 1000 + n, "total": 19.9 + n} for n in range(30 * (at + 1))]
        queue.put_many([Item(b, id=f"{name}-{b['order']}") for b in bodies])
        queue.put_many([Item({"reminder": n}, delay=3600 * (n + 1)) for n in range(at)])
    orders = Queue("orders", engine)
    orders.put_many([Item({"order": n}, priority=3, id=f"orders-{n}") for n in range(2000, 2012)])
    for n, message in enumerate(orders.claim_many(12)):
        if n < 9:
            reason = "card_declined" if n % 3 else "address_unknown"
            message.reject(reason, ERROR if n % 3 else "AddressUnknown: no such street")
    Queue("webhooks", engine).pause()
    engine.run(calls.register(engine.register.keys, QUEUES))


def move(engine: Engine, browser: Browser) -> None:
    """Let the curves have a shape."""
    browser.go("/")
    for name in QUEUES[:4]:
        queue = Queue(name, engine)
        for message in queue.claim_many(random.randint(3, 9)):
            message.ack()
        queue.put_many(range(random.randint(0, 8)))
    time.sleep(2.1)


def main(folder: Path) -> None:
    """Take them all."""
    there = programs()
    if there is None:
        raise SystemExit("no Chromium and no chromedriver here: make tools")
    folder.mkdir(exist_ok=True)
    random.seed(7)
    with Server("valkey-9") as server, Engine(server.tcp_url) as engine:
        fill(engine)
        app = asgi_app(server.tcp_url, writable=True)
        with opened(*there) as browser, served(app) as browser.site:
            browser.size(1100, 460)
            for _ in range(10):
                move(engine, browser)
            shots = (
                ("queues", "/", 1100, 400, False),
                ("dead", "/queue?name=orders&part=dead", 1100, 640, True),
                ("message", "", 1100, 640, False),
                ("phone", "/", 390, 760, True),
            )
            for name, path, width, height, dark in shots:
                browser.size(width, height)
                browser.dark(dark)
                if path:
                    browser.go(path)
                else:
                    browser.find("tbody th a").click()
                (folder / f"{name}.png").write_bytes(browser.picture(whole=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
