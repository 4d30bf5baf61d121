"""The page in headless Chromium: every page at every width, every action by its buttons."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from atomq import Item, Queue, calls
from atomq.client import Engine
from atomq.web import asgi_app, site
from tests.servers import Server
from tests.web.browser import Browser, needed, opened, served

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("kind", ["valkey-9"], indirect=True),
]

EVERY = ("/", "/queue?name=orders&part=ready", "/queue?name=orders&part=delayed",
         "/queue?name=orders&part=unacked", "/queue?name=orders&part=dead", "/dead", "/workers",
         "/doctor", "/doctor?run=1", "/queue?name=nowhere")  # fmt: skip


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with opened(*needed()) as browser:
        yield browser


@pytest.fixture
def browser(
    window: Browser, fleet: Queue, server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Browser]:
    """The browser in front of a page that may act, and that is looked at twice a second."""
    monkeypatch.setattr(site, "EVERY", 0.5)
    app = asgi_app(server.url, writable=True, retry_budget=0)
    with served(app) as window.site:
        window.size(1280)
        window.dark(False)
        window.scripts(True)
        yield window
        window.scripts(True)
        window.driver.get("about:blank")
        window.complaints()


@pytest.fixture
def fleet(engine: Engine) -> Queue:
    """A queue with something in each part, and a name that is no name."""
    orders, odd = Queue("orders", engine), Queue("<img src=x onerror=hacked()>", engine)
    orders.put_many([Item({"n": n}, id=f"o-{n}", priority=3 * (n % 2)) for n in range(4)])
    for message in orders.claim_many(2):
        message.reject("no_card", "ValueError: <script>hacked()</script>")
    orders.claim_many(1)
    orders.put("later", id="later", delay=3600)
    odd.put("<script>hacked()</script>", id="<b onclick=hacked()>")
    engine.run(calls.register(engine.register.keys, [orders.name, odd.name]))
    return orders


@pytest.mark.parametrize(
    ("width", "dark"),
    [(1280, True), (390, False), pytest.param(1280, False, marks=pytest.mark.long)],
)
def test_every_page_fits_and_the_browser_has_no_complaint(
    browser: Browser, width: int, dark: bool
) -> None:
    browser.size(width)
    browser.dark(dark)
    browser.go("/queue?name=orders&part=dead")
    message = browser.js("return document.querySelector('tbody th a').getAttribute('href')")
    for path in (*EVERY, message):
        browser.go(path)
        wide, seen = browser.js("return [document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, path
        assert browser.js("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)"
        )
        complaints = [each for each in browser.complaints() if "404" not in each]
        assert complaints == [], path


def test_a_host_with_a_long_name_can_be_read_beside_many_queues(
    browser: Browser, fleet: Queue, engine: Engine
) -> None:
    entry = {
        "host": "worker-eu-central-1.internal.example.org", "pid": 31337, "version": "0.1.0",
        "name": "celery@worker-eu-central-1", "queues": [f"queue-{n}" for n in range(25)],
        "queue_count": 25, "concurrency": 16, "holds": 12,
        "working": [{"queue": "q", "task": "shop.tasks.orders.charge_the_customer", "seconds": 65}],
    }  # fmt: skip
    said = json.dumps(entry)
    engine.run(calls.register(engine.register.keys, process="a", alive_ms=60_000, entry=said))
    browser.size(1100)
    browser.go("/workers")
    browser.js("window.words = document.createRange()")
    cells = "[...document.querySelectorAll('tbody th')]"
    browser.js(f"words.selectNodeContents({cells}.find(e => e.innerText.includes('31337')))")
    assert browser.js("return words.getBoundingClientRect().height") <= 4 * 23  # four lines
    browser.js("window.box = document.querySelector('.scroll')")
    assert browser.js("return box.scrollWidth") <= browser.js("return box.clientWidth")


def test_an_open_page_follows(browser: Browser, fleet: Queue) -> None:
    browser.go("/")
    browser.js("window.mark = 1")
    fleet.put_many(range(100, 123))
    browser.says("orders 24")
    browser.until(lambda: browser.js("return document.querySelector('.curve')"), "a curve")
    assert browser.js("return window.mark") == 1, "it was loaded anew"
    assert browser.complaints() == []


def test_what_is_chosen_stays_what_it_was(browser: Browser, fleet: Queue) -> None:
    """Rows move when others come; none may move under a tick."""
    browser.go("/queue?name=orders&part=dead")
    box = browser.find("tbody input[name=key]")
    box.click()
    key = box.get_attribute("value")
    for message in fleet.claim_many(5):
        message.reject("newer")
    looks = browser.js("return performance.getEntriesByType('resource').length")
    browser.js("window.until = performance.now() + 1500")
    browser.until(lambda: browser.js("return performance.now() > window.until"))
    # One look may have been under way; what it brought was not shown.
    assert browser.js("return performance.getEntriesByType('resource').length") <= looks + 1
    chosen = browser.js("return [...document.querySelectorAll(':checked')].map(e => e.value)")
    assert chosen == [key]
    box.click()
    browser.says("newer")


def test_pause_and_resume_by_the_keyboard(browser: Browser, fleet: Queue) -> None:
    from selenium.webdriver import ActionChains, Keys

    browser.go("/?still=1")
    browser.find("body").send_keys(Keys.TAB)
    assert browser.js("return document.activeElement.innerText") == "To the content"
    for _ in range(40):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        row = browser.js("return document.activeElement.closest('tr')?.innerText ?? ''")
        if "orders" in row and browser.js("return document.activeElement.tagName") == "BUTTON":
            break
    outline = browser.js("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    browser.says("Paused.")
    assert fleet.state().paused
    browser.press("Resume")
    browser.says("Resumed.")
    assert not fleet.state().paused


def chosen(browser: Browser, part: str, *labels: str) -> None:
    """Choose the first message of a part, and press these buttons, each on the page that came."""
    browser.go(f"/queue?name=orders&part={part}")
    browser.find("tbody input[name=key]").click()
    for label in labels:
        browser.press(label)


@pytest.mark.parametrize(
    ("part", "labels", "said"),
    [
        ("dead", ["Redrive"], "1 message put back to ready."),
        ("dead", ["Throw away", "Yes, throw away"], "1 message thrown away."),
        ("delayed", ["Cancel", "Yes, cancel"], "1 message cancelled."),
        ("delayed", ["Run now"], "1 message due now."),
        ("ready", ["Cancel", "Yes, cancel"], "1 message cancelled."),
        ("unacked", ["Release", "Yes, release"], "1 message given back to ready."),
    ],
)
def test_each_action_on_chosen_messages(
    browser: Browser, fleet: Queue, part: str, labels: list[str], said: str
) -> None:
    before = getattr(fleet.state(), part)
    chosen(browser, part, *labels)
    browser.says(said)
    assert getattr(fleet.state(), part) == before - ("due now" not in said)
    assert browser.complaints() == []


def test_all_at_once_from_the_page_of_dead_letters(browser: Browser, fleet: Queue) -> None:
    browser.go("/dead")
    browser.press("Redrive all")
    browser.says("all dead letters of orders (2 now)")
    browser.press("Yes, redrive")
    browser.says("2 messages put back to ready.")
    browser.go("/queue?name=orders&part=ready")
    browser.press("Purge ready")
    browser.press("Yes, throw away")
    browser.says("3 messages thrown away.")
    assert fleet.state().ready == 0


def test_it_works_without_javascript(browser: Browser, fleet: Queue) -> None:
    browser.scripts(False)
    browser.go("/queue?name=orders&part=dead")
    assert not browser.find("#every").is_displayed()
    browser.find("tbody input[name=key]").click()
    browser.press("Throw away")
    browser.press("Yes, throw away")
    browser.says("1 message thrown away.")
    assert fleet.state().dead == 1


def test_what_others_wrote_does_nothing(browser: Browser) -> None:
    for path in ("/", "/queue?name=%3Cimg+src%3Dx+onerror%3Dhacked()%3E", "/dead"):
        browser.go(path)
        assert (
            browser.js("return document.querySelectorAll('main img, main b, main script').length")
            == 0
        )
    browser.go("/queue?name=orders&part=dead")
    browser.find("tbody th a").click()
    assert "<script>hacked()</script>" in browser.shown
    # And if something did come through, the policy would stop it.
    browser.js("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=hacked()>')")
    browser.until(lambda: any("Content Security Policy" in each for each in browser.complaints()))


def test_a_form_of_another_site_is_refused(browser: Browser, fleet: Queue) -> None:
    async def other(scope: object, receive: object, send: object) -> None:
        html = (
            f'<form id=f method=post action="{browser.site}/do/pause">'
            "<input name=queue value=orders></form>"
        ).encode()
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": html})  # type: ignore[operator]

    with served(other) as elsewhere:
        browser.driver.get(elsewhere.replace("127.0.0.1", "localhost"))
        browser.js("document.getElementById('f').submit()")
        browser.says("Another site sent this")
    assert not fleet.state().paused


def test_an_open_page_says_what_cannot_be_reached_and_comes_back(
    window: Browser, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "EVERY", 0.5)
    Queue("orders", own_server.url).put(1)
    with served(asgi_app(own_server.url, retry_budget=0)) as window.site:
        window.go("/queue?name=orders")
        own_server.kill()
        window.says("The server cannot be reached")
        own_server.start()
        window.says("Backlog 1")
    window.says("This page's own process cannot be reached")
    window.driver.get("about:blank")
