"""What all commands have in common: help, options, errors, exit codes, terminals."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from atomq import calls
from atomq.calls import Outgoing
from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.servers import Server, full_memory, wait_until

pytestmark = pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)


@pytest.mark.starts_anew
def test_help_lists_the_commands_and_the_exit_codes(atomq: Atomq, kind: str) -> None:
    done = atomq("--help")
    assert done.code == 0
    for word in ("scripts", "doctor", "queues", "peek", "dead", "delayed", "unacked", "hand-back"):
        assert word in done.out
    assert "Exit codes" in done.out


@pytest.mark.starts_anew
def test_the_version_comes_at_once(atomq: Atomq, kind: str) -> None:
    """It loads next to nothing, and asks nobody."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = atomq("--version")
    assert done.out.startswith("atomq ")
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    # 0.15 s on a quiet machine, of both; others there lengthen the second one only.
    assert spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime < 1
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "nix://host", "queues"], "there is no scheme nix://"),
        (["queues", "--url", "redis://:hunter2@h:x"], "the port is not a number"),
        (["queues", "--option", "visibility_timeut=5"], "did you mean visibility_timeout?"),
        (["queues", "--option", "hunter2"], "--option takes NAME=VALUE"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    atomq: Atomq, kind: str, arguments: list[str], said: str
) -> None:
    done = atomq(*arguments)
    assert done.code == 2
    assert said in done.err
    assert "hunter2" not in done.err + done.out


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@127.0.0.1:1/0",
        "redis+socket:///nowhere/redis.sock",
        "sentinel://:hunter2@127.0.0.1:1?master_name=main",
        "redis+cluster://:hunter2@127.0.0.1:1",
    ],
)
def test_an_unreachable_server_is_exit_code_3_and_one_line(
    atomq: Atomq, kind: str, url: str
) -> None:
    done = atomq("queues", url=url)
    assert done.code == 3
    assert done.err.startswith("atomq: ")
    assert len(done.err.strip().splitlines()) == 1
    assert "is it running" in done.err
    assert "hunter2" not in done.err


def test_a_refused_password_is_exit_code_4(atomq: Atomq, server: Server) -> None:
    server.client().config_set("requirepass", "secret")
    try:
        done = atomq("queues", url=f"redis://:hunter2@127.0.0.1:{server.port}")
        assert done.code == 4
        assert "hunter2" not in done.err
        assert done.err.startswith("atomq: the server refused user or password")
        none = atomq("queues", url=server.tcp_url)
        assert none.code == 4
        assert none.err.endswith("user or password: it wants one, and none was given\n")
        assert atomq("queues", url=f"redis://:secret@127.0.0.1:{server.port}").code == 0
    finally:
        server.client(password="secret").config_set("requirepass", "")


def test_a_user_who_may_not_is_exit_code_4(atomq: Atomq, server: Server) -> None:
    server.client().execute_command("ACL SETUSER", "bare", "on", ">pw", "~*", "+ping", "+hello")
    done = atomq("queues", url=f"redis://bare:pw@127.0.0.1:{server.port}")
    assert done.code == 4
    assert "+scan" in done.err
    assert "\n" not in done.err.strip()


def test_what_the_server_refuses_is_one_line_that_says_what_to_do(
    on: Atomq, server: Server
) -> None:
    admin = server.client()
    admin.set("taken", "by something else")
    done = on("put", "taken", "1")
    assert (done.code, len(done.err.strip().splitlines())) == (1, 1)
    assert "the key taken" in done.err
    assert "another program uses it" in done.err
    with full_memory(admin):
        done = on("put", "q", "1")
    assert (done.code, len(done.err.strip().splitlines())) == (1, 1)
    assert "nothing was written: drain queues" in done.err
    done = on("dead", "redrive", "q")
    assert (done.code, done.err.strip()) == (
        2,
        "atomq: give ids, --all or --reason, and one of them only",
    )


def test_url_and_json_may_stand_before_the_command(atomq: Atomq, server: Server) -> None:
    done = atomq("--url", server.tcp_url, "--json", "queues", url="redis://127.0.0.1:1")
    assert done.code == 0
    assert done.json("queues") == []


def test_options_reach_the_engine(atomq: Atomq, server: Server) -> None:
    options = ["--option", "global_keyprefix=app:", "--option", "priority_steps=0,5"]
    put = atomq("put", "q", "1", "--priority", "9", *options, url=server.tcp_url)
    assert put.code == 0, put.err
    assert server.client().llen("app:q\x06\x165") == 1
    listed = atomq("queues", "--json", *options, url=server.tcp_url)
    assert [row["queue"] for row in listed.json("queues")] == ["q"]


class Terminal:
    """`atomq` with stderr, and stdin unless it is piped, on a pseudo-terminal."""

    def __init__(self, url: str, *arguments: str, piped: bool = False) -> None:
        self._ours, theirs = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "atomq.cli", *arguments],
            stdin=subprocess.PIPE if piped else theirs,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            env=os.environ | {"ATOMQ_URL": url, "TERM": "xterm", "COLUMNS": "80"},
        )
        os.close(theirs)

    def answer(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def pipe(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Its exit code, and what the terminal showed."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        shown = b""
        with contextlib.suppress(OSError):  # the terminal is gone with its last user
            while data := os.read(self._ours, 4096):
                shown += data
        os.close(self._ours)
        return self.process.wait(30), shown.decode(errors="replace")


@pytest.mark.skipif(sys.platform == "win32", reason="its shell closes nothing")
@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_the_program_was_started_without_is_not_missed(server: Server, closing: str) -> None:
    command = shlex.join([sys.executable, "-m", "atomq", "queues", "q", "--url", server.url])
    done = subprocess.run(f"{command} {closing}", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no SIGPIPE here")
@pytest.mark.parametrize(
    "arguments", [["peek", "q", "--json", "--limit", "400"], ["peek", "q"], ["--help"]]
)
def test_a_reader_that_has_seen_enough_is_no_failure(
    engine: Engine, server: Server, arguments: list[str]
) -> None:
    """As `| head`: the same end as other programs have, and not a word."""
    environment = os.environ | {"ATOMQ_URL": server.tcp_url, "PYTHONUNBUFFERED": ""}
    message = Outgoing('{"body": "%s"}' % ("x" * 2000), "")
    engine.run(calls.publish(engine.keys("q"), [message._replace(id=f"m{i}") for i in range(400)]))
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "atomq", *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment,
    )
    os.close(reading)
    os.close(writing)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (-signal.SIGPIPE, b"")


def _holds(client: Any, count: int) -> bool:
    return bool(client.llen("q") == count)


def test_a_terminal_shows_progress_of_what_lasts(server: Server) -> None:
    admin = server.client()
    terminal = Terminal(server.tcp_url, "put", "q", "--lines", piped=True)
    for batch in (1, 2):
        terminal.pipe("1\n" * 1000)
        wait_until("the batch to be put", partial(_holds, admin, 1000 * batch))
        time.sleep(0.4)
    terminal.pipe("1\n" * 1000)
    code, shown = terminal.end()
    assert code == 0
    assert "putting" in shown
    assert "3000" in shown


def test_a_terminal_is_asked_before_messages_are_thrown_away(
    engine: Engine, server: Server
) -> None:
    engine.run(calls.publish(engine.keys("q"), [Outgoing('{"body": "1"}', str(i)) for i in "12"]))
    for answer, code, left in (("n\n", 1, 2), ("y\n", 0, 0)):
        terminal = Terminal(server.tcp_url, "purge", "q", "--ready")
        terminal.answer(answer)
        ended, shown = terminal.end()
        assert ended == code
        assert "Throw away 2 ready of q?" in shown
        assert server.client().llen("q") == left


@pytest.mark.starts_anew  # a command of each module: no other has loaded what it needs
@pytest.mark.parametrize(
    "looking",
    [
        *("queues", "peek q", "get q 1", "delayed list q", "dead list q", "pause q", "workers"),
        *("acl worker q", "scripts verify", "doctor", "web", "metrics --listen x:1"),
    ],
)
def test_a_look_starts_no_embedded_server(
    atomq: Atomq, kind: str, tmp_path: Path, looking: str
) -> None:
    done = atomq(*looking.split(), "--url", "embedded:mail-data")
    place = tmp_path / "mail-data"
    assert done.code == 3, done.err
    assert f"there is no embedded server in {place}: " in done.err + done.out
    assert f"atomq embedded start {place}" in done.err
    assert not place.exists()


@pytest.mark.starts_anew
def test_a_put_starts_an_embedded_server(atomq: Atomq, kind: str) -> None:
    try:
        assert atomq("put", "q", "1", url="embedded:mail-data").code == 0
        (row,) = atomq("queues", "--json", url="embedded:mail-data").json("queues")
        assert (row["queue"], row["ready"]) == ("q", 1)
    finally:
        assert atomq("embedded", "stop", "mail-data").code == 0


def test_the_embedded_server_is_started_shown_and_stopped(
    atomq: Atomq, kind: str, tmp_path: Path
) -> None:
    directory = str(tmp_path / "queue")
    assert atomq("embedded", "status", directory, "--json").code == 1
    try:
        started = atomq("embedded", "start", directory, "--json")
        assert started.code == 0, started.err
        row = started.json("embedded")[0]
        assert row["running"]
        assert row["started"]
        assert atomq("put", "q", "1", url=row["url"]).code == 0
        status = atomq("embedded", "status", directory)
        assert status.code == 0
        assert str(row["pid"]) in status.out
    finally:
        stopped = atomq("embedded", "stop", directory, "--json")
    assert stopped.json("embedded")[0]["stopped"]
    assert atomq("embedded", "stop", directory).code == 0
