"""Fixtures every test may ask for: real servers of all kinds that can be run here.

`server` is shared by the whole run and put back into its first state before each test; a test that
kills, fills or reconfigures for good takes `own_server`. `cluster` and `sentinel` are the same
servers in those two arrangements. A test of one kind says
`@pytest.mark.parametrize("kind", ["valkey-9"], indirect=True)`.

Not every test runs on every kind: see `_kinds`. ATOMQ_TEST_SERVERS=valkey-9,redis-7 (or --servers)
chooses the kinds, and then all tests run on each of these; so they do with ATOMQ_LONG=1.

`make test` is two runs: several processes for what may run side by side (`--only beside`; each has
servers of its own), then those marked `alone` (`--only alone`): two processes, clusters in trouble
in one of them and all others in the other. Plain pytest runs both kinds of test in one process.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.servers import KINDS, ROOT, Cluster, NotAvailable, Sentinel, Server, choose_kinds

# How often a test with real workers is tried again: see the Makefile. All others fail at once.
RERUNS = int(os.environ.get("RERUNS", "0"))
# The two ways to name keys: see `keys.py`.
LAYOUTS = ("stock", "cluster")
LONG = os.environ.get("ATOMQ_LONG") == "1"
# What goes on in the client is tried on one kind of cluster; at full length on the others too.
ON_CLUSTERS = pytest.mark.parametrize(
    "kind",
    [
        "valkey-9",
        pytest.param("redis-7", marks=pytest.mark.long),
        pytest.param("redis-8", marks=pytest.mark.long),
    ],
    indirect=True,
)

# A shell's background job ignores these, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

hypothesis.settings.register_profile("short", deadline=None, print_blob=True, max_examples=50)
hypothesis.settings.register_profile("long", deadline=None, print_blob=True, max_examples=1000)
hypothesis.settings.load_profile("long" if LONG else "short")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--servers",
        default=os.environ.get("ATOMQ_TEST_SERVERS"),
        help=f"kinds of server to run, with commas, of {', '.join(KINDS)} (default: all there are)",
    )
    parser.addoption(
        "--only",
        choices=("beside", "alone"),
        help="tests that may run beside others, or those marked `alone` (default: both)",
    )


_RUN = pytest.StashKey[dict[str, Path]]()
_LEFT_OUT = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    try:
        run, left_out = choose_kinds(config.getoption("--servers"))
    except NotAvailable as reason:
        raise pytest.UsageError(str(reason)) from None
    config.stash[_RUN] = run
    config.stash[_LEFT_OUT] = left_out


def pytest_report_header(config: pytest.Config) -> list[str]:
    lines = [f"server {kind}: {binary}" for kind, binary in config.stash[_RUN].items()]
    return lines + [
        f"server {kind}: NOT RUN, {why}" for kind, why in config.stash[_LEFT_OUT].items()
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asks, test = metafunc.fixturenames, metafunc.definition
    names_kind = "kind" not in asks or _names(test, "kind")
    names_layout = "layout" not in asks or _names(test, "layout")
    kinds = _kinds(metafunc.config, test)
    if names_kind and not names_layout:
        metafunc.parametrize("layout", LAYOUTS, indirect=True)
    elif names_layout and not names_kind:
        metafunc.parametrize("kind", kinds, indirect=True, scope="session")
    elif not names_kind:
        if _all_chosen(metafunc.config) or len(kinds) == 1:
            both = list(itertools.product(kinds, LAYOUTS))
        else:  # the names are the client's: each is met by half of the kinds
            both = list(zip(kinds, itertools.cycle(reversed(LAYOUTS)), strict=False))
        metafunc.parametrize(("kind", "layout"), both, indirect=True, scope="session")


def _names(test: pytest.Item, what: str) -> bool:
    """Whether a test itself says for which of these it is."""
    marks = [mark.args[0] for mark in test.iter_markers("parametrize") if mark.args]
    return any(what in (mark, *mark) for mark in marks)


# ── which kinds of server ────────────────────────────────────────────────────────────────────

# What servers may answer differently: scripts, and what is said to connect.
EVERYWHERE = ("lua", "unit", "conformance")


def _all_chosen(config: pytest.Config) -> bool:
    """Whether every test is to run on every kind."""
    return LONG or bool(config.getoption("--servers"))


def _ends(config: pytest.Config) -> list[str]:
    """One kind of each family, the oldest there is: it knows and allows the least."""
    run, oldest = config.stash[_RUN], dict[str, str]()
    for kind in run:
        oldest.setdefault(kind.partition("-")[0], kind)
    return list(oldest.values())


def _kinds(config: pytest.Config, test: pytest.Item) -> list[str]:
    """All, or one of each family, for what goes on in the client or takes long."""
    folder = test.path.relative_to(ROOT).parts[1]
    takes_long = any(map(test.get_closest_marker, ("alone", "exhaustive")))
    everywhere = folder in EVERYWHERE and not takes_long
    run = config.stash[_RUN]
    return list(run) if everywhere or _all_chosen(config) else _ends(config)


def _is_more_of_the_same(config: pytest.Config, test: pytest.Item) -> bool:
    """Whether others prove it: each client runs the same scripts.

    All there is of clients and clusters runs on the last kind. On the first, a cluster meets the
    asyncio client alone and a server the sync one; on the kinds between there is no more than a
    server and the sync client, and what would run on all of these runs on one, in turn.
    """
    run = [*config.stash[_RUN]]
    given: dict[str, Any] = getattr(getattr(test, "callspec", None), "params", {})
    kind, _, cluster = str(given.get("kind") or given.get("place", "")).partition(" ")
    is_async = given.get("make") == "asyncio"
    if kind not in run or kind == run[-1]:
        return False
    if kind == run[0]:
        return "make" in given and is_async is not bool(cluster)
    return bool(cluster) or is_async or not (_names(test, "kind") or _is_turn_of(kind, run, test))


def _is_turn_of(kind: str, run: list[str], test: pytest.Item) -> bool:
    """Whether a test runs on this one of the kinds between the first and the last."""
    name, between = test.nodeid, run[1:-1]
    for word in (*run, *LAYOUTS):
        name = name.replace(word, "")
    return between[zlib.crc32(name.encode()) % len(between)] == kind


@pytest.hookimpl(trylast=True)  # after pytest has put tests of one kind together
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not _all_chosen(config):
        more = {item for item in items if _is_more_of_the_same(config, item)}
        config.hook.pytest_deselected(items=list(more))
        items[:] = [item for item in items if item not in more]
    if not LONG:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="set ATOMQ_LONG=1, or `make test-long`"))
    for item in items if RERUNS else ():
        if item.path.relative_to(ROOT).parts[1] in ("acceptance", "contrib"):
            item.add_marker(pytest.mark.flaky(reruns=RERUNS, reruns_delay=1))
    if only := config.getoption("--only"):
        chosen: list[pytest.Item] = []
        others: list[pytest.Item] = []
        for item in items:
            alone = item.get_closest_marker("alone") is not None
            (chosen if alone is (only == "alone") else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = chosen
    if hasattr(config, "workerinput"):  # one process of several: what takes long begins first
        items.sort(key=_length)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Most files hold no test that runs alone: collecting them takes longer than some that do."""
    if config.getoption("--only") != "alone" or collection_path.suffix != ".py":
        return None
    return "mark.alone" not in collection_path.read_text(encoding="utf-8") or None


def pytest_collection_finish() -> None:
    """Collected tests stay to the end: a test that collects garbage need not look through them."""
    gc.collect()
    gc.freeze()


# ── the end of a run ─────────────────────────────────────────────────────────────────────────

_STATUS = pytest.StashKey[int]()
LEAVE = 10.0  # seconds for the threads of tests to end, after the last test


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)  # after all has been reported
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run though a test that failed left a thread: Python would wait for it for ever."""
    if _STATUS not in config.stash or hasattr(config, "workerinput"):  # pytest-xdist ends its own
        return

    def leave() -> None:
        time.sleep(LEAVE)  # Python is gone by then, or waits
        left = [one for one in threading.enumerate() if not one.daemon]
        print(f"\ntests left threads that do not end: {left}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(config.stash[_STATUS] or 1)

    threading.Thread(target=leave, daemon=True).start()


# ── several processes at once (pytest -n) ────────────────────────────────────────────────────

# A worker in each pool that has to start its task within 0.1 s: after all others, when the clusters
# of the other process are over.
LAST = ("tests/contrib/test_eta.py", "tests/contrib/test_wire.py")
# Their tests share workers, a cluster, a browser or what was built: one process runs such a file.
SHARING = ("cluster", "eta", "faults", "leases", "poison", "worker")
TOGETHER = tuple(
    f"tests/{name}.py"
    for name in (
        *(f"contrib/test_{one}" for one in SHARING),
        "docs/test_site",
        "packaging/test_built",
        "web/test_browser",
    )
)


def _length(item: pytest.Item) -> tuple[bool, float, bool]:
    limit = item.get_closest_marker("timeout")
    alone = item.get_closest_marker("alone") is not None
    return (
        alone and item.nodeid.partition("::")[0] in LAST,
        -float(limit.args[0]) if limit else 0.0,
        item.get_closest_marker("slow") is None,
    )


# Of the tests marked `alone` these wait for most of their time, for elections and for nodes that
# stand still; so they run beside the others.
CLUSTERS = ("tests/faults/test_cluster.py", "tests/faults/test_partitions.py")


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc] # xdist publishes no types
    """Whoever is free takes the next test, or the next file of those in `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if self.config.getoption("--only") == "alone":
            return "clusters" if file in CLUSTERS else "others"
        return file if file in TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)  # under `-p no:xdist` nobody asks
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two a core: most tests wait for most of their time. Eight are as many as find work."""
    return min(8, 2 * (os.cpu_count() or 1))


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of server a test runs on."""
    name: str = request.param
    if name not in request.config.stash[_RUN]:
        why = request.config.stash[_LEFT_OUT].get(name, "unknown kind")
        pytest.skip(f"{name}: {why}")
    return name


@pytest.fixture(scope="session")
def shared_server(kind: str) -> Iterator[Server]:
    """The server behind `server`, as the test before left it."""
    with Server(kind) as server:
        yield server


@pytest.fixture
def server(shared_server: Server) -> Server:
    """A server of each kind, empty and in its first configuration."""
    shared_server.reset()
    return shared_server


@pytest.fixture
def own_server(kind: str) -> Iterator[Server]:
    """A server of each kind for this test alone, with an AOF: a kill loses nothing."""
    with Server(kind, persistent=True) as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster(kind: str) -> Iterator[Cluster]:
    """The cluster behind `cluster`, as the test before left it."""
    with Cluster(kind) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """A cluster of one node of each kind, empty. `Cluster(kind, nodes=3)` makes more nodes."""
    shared_cluster.reset()
    return shared_cluster


@pytest.fixture
def sentinel(kind: str) -> Iterator[Sentinel]:
    """A master, a replica and a Sentinel of each kind for this test alone."""
    with Sentinel(kind) as sentinel:
        yield sentinel
