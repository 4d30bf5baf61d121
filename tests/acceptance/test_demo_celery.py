"""The second act of `atomq demo`: real Celery workers, really killed. It holds, it can fail, and
nothing of it is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from atomq import schema
from atomq.client import Engine
from tests.acceptance.conftest import Atomq
from tests.acceptance.watch import Running, processes, until
from tests.servers import Server

pytest.importorskip("celery")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("scratch"),
    pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc"),
]

SHORT = ("--act", "celery", "--tasks", "600", "--lease", "1")
# Nine seconds of a long task; and others enough for the demo to see in time, on a busy machine too,
# who holds one and can be killed.
LONGER = ("--act", "celery", "--tasks", "600", "--lease", "3")

# What Python runs in each of the demo's processes before anything else.
WITHOUT_RENEWAL = """
from atomq.leases import LeaseKeeper
LeaseKeeper._renew = lambda self: 3600.0
"""
WITHOUT_LEASE = """
from atomq import calls
from atomq.leases import LeaseKeeper
held = LeaseKeeper.hold
def hold(self, queue, holders, *rest):
    holders = list(holders)
    taken = held(self, queue, holders, *rest)
    self._engine.run(calls.ack(queue, [holder.receipt for holder in holders]))
    return taken
LeaseKeeper.hold = hold
"""
IMPATIENT = """
from atomq.contrib.kombu.channel import Channel
deliver = Channel.deliver
def impatient(self, delivery, now_ms):
    if delivery.deliveries > 1:
        self.qos._dead(delivery, "max_deliveries", None)
    else:
        deliver(self, delivery, now_ms)
Channel.deliver = impatient
"""


def nothing_is_left(scratch: Path) -> None:
    until(lambda: not processes(scratch) and not list(scratch.iterdir()), 20)


def test_everything_holds_and_nothing_is_left(atomq: Atomq, scratch: Path) -> None:
    done = atomq("demo", *SHORT, "--json")

    assert done.code == 0, done.out + done.err
    report = done.json("demo")
    (act,) = report["acts"]
    assert report["ok"] is True
    assert act["faults"] == []
    assert (act["published"], act["completed"], act["wrong"]) == (609, 609, 0)
    assert (act["lost"], act["left"], act["dead"], act["eta_early"]) == (0, 0, 0, 0)
    assert act["long_starts"] == 1
    (death,) = act["deaths"]
    assert death["how"] == "SIGKILL"
    assert 1 <= act["redelivered"] <= death["held"]
    assert 0 < death["back_seconds"] <= 2
    nothing_is_left(scratch)


def test_it_can_fail_and_says_why_in_plain_lines(
    atomq: Atomq, scratch: Path, broken: Callable[[str], None]
) -> None:
    broken(IMPATIENT)
    done = atomq("demo", *SHORT)

    assert done.code == 1
    assert "\x1b" not in done.out
    assert "of its messages went to dead letters" in done.out
    assert "Not everything holds." in done.out
    nothing_is_left(scratch)


@pytest.mark.parametrize(
    ("code", "faults"),
    # Without renewal tasks are handed out while their holder lives: the long one, or (where it goes
    # to dead letters before it starts again) others. Without leases the killed worker either held
    # nothing, or what it held is gone.
    [(WITHOUT_RENEWAL, ("long task", "redelivered")), (WITHOUT_LEASE, ("lost", "came back"))],
    ids=["without renewal", "without lease"],
)
def test_it_fails_when_the_transport_is_broken(
    code: str, faults: tuple[str, ...], atomq: Atomq, broken: Callable[[str], None]
) -> None:
    broken(code)
    done = atomq("demo", *SHORT, "--json")

    assert done.code == 1, done.out
    (act,) = done.json("demo")["acts"]
    assert any(text.startswith(faults) for text in act["faults"]), act


def test_it_survives_the_death_of_the_server(tmp_path: Path, scratch: Path) -> None:
    demo = Running(tmp_path, *LONGER)
    demo.says("its messages came back", 60)

    os.kill(processes(scratch, "valkey-server")[0], signal.SIGKILL)

    assert demo.process.wait(60) == 0, demo.said.read_text()
    assert "the server died and was started again" in demo.said.read_text()
    nothing_is_left(scratch)


@pytest.mark.parametrize("who", ["minder", "celery -A"])
def test_a_worker_that_dies_by_another_hand_takes_its_own_along(
    who: str, tmp_path: Path, scratch: Path
) -> None:
    demo = Running(tmp_path, *LONGER)
    demo.says("is ready", 60)
    first = min(processes(scratch, "celery_app.minder"))
    group = [pid for pid in processes(scratch, who) if os.getpgid(pid) == first]

    os.kill(min(group), signal.SIGKILL)

    demo.says("lost worker", 30)
    until(lambda: not any(group_of(pid) == first for pid in processes(scratch)), 10)
    demo.process.send_signal(signal.SIGINT)
    demo.process.wait(20)
    nothing_is_left(scratch)


def group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("moment", ["of a Celery app", "prefork workers", "killed worker"])
def test_it_leaves_nothing_when_it_is_interrupted(
    number: signal.Signals, moment: str, tmp_path: Path, scratch: Path
) -> None:
    demo = Running(tmp_path, *LONGER)
    demo.says(moment, 60)

    demo.process.send_signal(number)

    code = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert demo.process.wait(10) == code
    nothing_is_left(scratch)


def test_it_leaves_nothing_when_it_is_killed_between_two_acts(
    tmp_path: Path, scratch: Path
) -> None:
    demo = Running(tmp_path, "--files", "60", "--seconds", "0", "--lease", "1")
    demo.says("checking every digest", 60)

    demo.process.kill()

    nothing_is_left(scratch)


@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)
def test_on_a_server_of_others_nothing_is_left(atomq: Atomq, server: Server) -> None:
    with Engine(server.url) as engine:
        engine.command("SET", "theirs", "1")
        done = atomq("demo", *SHORT, "--json", "--url", server.url)

        assert done.code == 0, done.out + done.err
        schema.validator("cli", "demo").validate(done.json("demo"))
        left = {key.decode() for key in engine.command("KEYS", "*")} - {"theirs"}
        assert all(engine.command("TTL", key) > 0 for key in left), left


def test_celerys_own_settings_in_the_environment_do_not_lead_it_astray(
    atomq: Atomq, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "CELERY_BROKER_WRITE_URL"):
        monkeypatch.setenv(name, "redis://localhost:1/0")

    done = atomq("demo", *SHORT, "--json")

    assert done.code == 0, done.out + done.err


def test_without_celery_the_act_is_left_out(
    atomq: Atomq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'celery' else find(name, *more)\n"
    )
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *([path] if path else [])]))

    done = atomq("demo", "--files", "100", "--seconds", "1", "--lease", "1")
    assert done.code == 0, done.out + done.err
    assert "the celery act was left out: Celery is not installed" in done.out

    done = atomq("demo", "--act", "celery")
    assert done.code == 2
    assert "pip install 'atomq[celery]'" in done.err
