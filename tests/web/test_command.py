"""`atomq web`: where it listens, whom it lets in, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atomq import Queue
from tests.schemas import validator
from tests.servers import Server

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


class Running:
    """`atomq web`, at work."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atomq.cli", "web", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("ATOMQ_")},
        )
        assert self.process.stdout
        said = self.process.stdout.read(1)
        while said.count("{") != said.count("}") or not said:
            said += self.process.stdout.read(1) or "}{"
        self.said = json.loads(said)
        validator("cli", "web").validate(self.said)

    def ask(self, path: str = "", data: bytes | None = None, **headers: str) -> tuple[int, str]:
        """The status, and the text of a page."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.said["url"] + path, data=data, headers=named)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def end(self) -> tuple[int, str]:
        """Its exit code after Ctrl-C, and what it said on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, words = self.process.communicate(timeout=20)
        return self.process.returncode, words


@pytest.fixture
def running(server: Server) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*arguments: str) -> Running:
        started.append(Running("--url", server.tcp_url, "--listen", "127.0.0.1:0", *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.communicate(timeout=20)


def test_it_shows_the_queues_and_logs_what_it_does(
    running: Callable[..., Running], server: Server, tmp_path: Path
) -> None:
    Queue("orders", server.url).put(1)
    file = tmp_path / "users"
    file.write_text("# who may\nann:s3cret\n\n")
    web = running("--writable", "--password-file", str(file), "--root-path", "/q")
    assert web.said["url"].endswith("/q/")
    assert web.ask("queue?name=orders")[0] == 401
    ann = f"Basic {b64encode(b'ann:s3cret').decode()}"
    code, html = web.ask("queue?name=orders", authorization=ann)
    assert code == 200
    assert 'action="/q/do/pause"' in html
    origin = web.said["url"].removesuffix("/q/")
    code, html = web.ask("do/pause", b"queue=orders", authorization=ann, origin=origin)
    assert (code, "Paused." in html) == (200, True)
    code, words = web.end()
    assert code == 0
    assert "ann: pause 'orders'" in words
    assert "wrong" not in words
    assert "Traceback" not in words


def test_by_itself_it_only_looks_and_knows_its_own_name(
    running: Callable[..., Running], server: Server
) -> None:
    Queue("orders", server.url).put(1)
    web = running()
    assert web.said["writable"] is False
    assert web.ask("queue?name=orders")[0] == 200
    assert web.ask("do/pause", b"queue=orders", sec_fetch_site="same-origin")[0] == 403
    assert web.ask("", host="evil.example")[0] == 403
    assert web.end() == (0, "")


@pytest.mark.parametrize("host", ["0.0.0.0:0", "[::]:0", "queues.example:80", "10.1.2.3:0"])
def test_where_others_can_reach_it_it_needs_a_password(
    server: Server, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, words = told(server, capsys, "--listen", host)
    assert code == 2
    assert "--password-file" in words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "8080"], "HOST:PORT"),
        (["--listen", "127.0.0.1:99999"], "HOST:PORT"),
        (["--root-path", "queues"], "slash"),
        (["--password-file", "missing"], "cannot be read"),
        (["--password-file", "empty"], "names no user"),
        (["--password-file", "wrong"], "line 1"),
        (["--password-file", "binary"], "cannot be read"),
        (["--listen", "taken"], "cannot listen"),
        (["--url", "nonsense://x"], "nonsense"),
    ],
)
def test_what_is_wrong_is_said_before_it_listens(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    (tmp_path / "empty").write_text("# nobody\n")
    (tmp_path / "wrong").write_text("ann\n")
    (tmp_path / "binary").write_bytes(b"\xff:\xfe")
    option, value = arguments
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if option == "--password-file":
            value = str(tmp_path / value)
        if value == "taken":
            value = f"127.0.0.1:{taken.getsockname()[1]}"
        code, said = told(server, capsys, option, value)
    assert code == 2
    assert words in said


def told(server: Server, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command that does not begin, and what it says."""
    from atomq.cli.app import app

    with pytest.raises(SystemExit) as ended:
        app(["web", "--url", server.tcp_url, *arguments], prog_name="atomq")
    code: Any = ended.value.code
    return code, capsys.readouterr().err


@pytest.mark.parametrize("missing", ["starlette", "jinja2", "uvicorn"])
def test_without_its_libraries_it_names_the_extra(
    server: Server,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import atomq.web

    there = atomq.web.find_spec
    monkeypatch.setattr(
        atomq.web, "find_spec", lambda name: None if name == missing else there(name)
    )
    code, words = told(server, capsys)
    assert code == 2
    assert words == f"atomq: the web page needs {missing}: pip install 'atomq[web]'\n"
    if missing != "uvicorn":  # an application that mounts the page has a server of its own
        with pytest.raises(ImportError, match="pip install"):
            atomq.web.asgi_app(server.url)
