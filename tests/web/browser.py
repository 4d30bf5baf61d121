"""A real browser, and the page behind it: Debian's headless Chromium, which `make tools` gets."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn

from tests.servers import ROOT

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PROGRAMS = ("chromium-headless-shell", "chromedriver")
PATIENCE = 20.0  # seconds: a machine under load draws a page in some


def programs() -> list[Path] | None:
    """The browser and its driver; None: they cannot be had here."""
    found = [
        shutil.which(name) or shutil.which(name, path=ROOT / ".tools/bin") for name in PROGRAMS
    ]
    return None if None in found else [Path(each) for each in found if each]


def needed() -> list[Path]:
    """The browser and its driver; where they cannot be had the test is skipped, in CI it fails."""
    if there := programs():
        return there
    words = "no Chromium and no chromedriver: `make tools` gets them where apt can be had"
    if os.environ.get("CI"):
        pytest.fail(words)
    pytest.skip(words)


class Browser:
    """One window. `shown` is what its last page shows, `go` leads to another."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self.site = ""

    def go(self, path: str) -> None:
        """Lead to a page of the site."""
        self.driver.get(f"{self.site}{path}")

    @property
    def shown(self) -> str:
        """What a reader sees."""
        return " ".join(self.js("return document.body.innerText").split())

    def js(self, code: str) -> Any:
        """Run this in the page."""
        return self.driver.execute_script(code)

    def find(self, css: str) -> Any:
        """The first element of these."""
        return self.driver.find_element("css selector", css)

    def press(self, label: str) -> None:
        """Press the button on which this stands, once it is there."""
        path = f"//main//button[normalize-space()={label!r}]"

        def pressed() -> bool:
            self.driver.find_element("xpath", path).click()
            return True

        self.until(pressed, f"the button {label}")

    def until(self, condition: Callable[[], Any], what: str = "") -> Any:
        """What the condition answers once it is true; while a page gives way it is not."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + PATIENCE
        while True:
            try:
                if found := condition():
                    return found
            except WebDriverException:
                pass
            assert time.monotonic() < end, f"{what} never came to be: {self.shown}"
            time.sleep(0.05)

    def says(self, words: str) -> None:
        """Wait until the page shows this."""
        self.until(lambda: words in self.shown, words)

    def size(self, width: int, height: int = 900, scale: float = 1) -> None:
        """Be so wide; below 600 a phone."""
        self._width = width
        screen = {"width": width, "height": height, "deviceScaleFactor": scale}
        self._cdp("Emulation.setDeviceMetricsOverride", {**screen, "mobile": width < 600})

    def dark(self, dark: bool = True) -> None:
        """Have the user like it dark, or light."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._cdp("Emulation.setEmulatedMedia", {"features": [feature]})

    def scripts(self, run: bool) -> None:
        """Run JavaScript in pages, or not."""
        self._cdp("Emulation.setScriptExecutionDisabled", {"value": not run})

    def widths(self) -> tuple[int, int]:
        """How wide the page is, and the window; the page scrolls sideways if it is wider.

        A phone is 980 wide until it has laid out what the page says of its width, after the load.
        """

        def laid_out() -> tuple[int, int] | None:
            seen = self._cdp("Page.getLayoutMetrics", {})
            window = seen["cssLayoutViewport"]["clientWidth"]
            return (seen["cssContentSize"]["width"], window) if window == self._width else None

        found: tuple[int, int] = self.until(laid_out, f"a window {self._width} wide")
        return found

    def nodes(self, name: str) -> list[dict[str, str]]:
        """The attributes of all elements of this name, those in closed shadow roots too."""
        self._cdp("DOM.enable", {})
        self._cdp("DOM.getDocument", {"depth": 0})
        every = self._cdp("DOM.getFlattenedDocument", {"depth": -1, "pierce": True})["nodes"]
        pairs = (iter(node["attributes"]) for node in every if node["nodeName"] == name)
        return [dict(zip(each, each, strict=True)) for each in pairs]

    def picture(self, *, whole: bool = True) -> bytes:
        """The page as a PNG, or as much of it as the window shows."""
        taken = self._cdp("Page.captureScreenshot", {"captureBeyondViewport": whole})
        return base64.b64decode(taken["data"])

    def complaints(self) -> list[str]:
        """What the browser logged since the last time: errors, and what the policy refused."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def _cdp(self, command: str, arguments: dict[str, Any]) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)


@contextmanager
def opened(browser: Path, driver: Path) -> Iterator[Browser]:
    """A browser of its own."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = str(browser)
    for argument in ("--headless", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    # No name leads anywhere: a page that fetches something from elsewhere complains.
    here = "EXCLUDE 127.0.0.1, EXCLUDE localhost"
    options.add_argument(f"--host-resolver-rules=MAP * ~NOTFOUND, {here}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    window = Chrome(options=options, service=Service(str(driver)))
    try:
        window.set_page_load_timeout(60)
        yield Browser(window)
    finally:
        window.quit()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An application behind a port of this machine; where."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
