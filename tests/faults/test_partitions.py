"""Partitions on a cluster whose shards die or stand still: what goes elsewhere, what must not."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import pytest

from atomq import AsyncQueue, Engine, Queue, Verdict, calls
from atomq.errors import ServerUnavailable
from atomq.keys import QueueKeys
from atomq.partitions import COPIES
from atomq.wires import Wire
from tests.conformance.twin import Loop, Twin
from tests.conftest import LONG, ON_CLUSTERS
from tests.servers import Cluster, Server, wait_until

pytestmark = [
    ON_CLUSTERS,
    pytest.mark.parametrize("make", ["sync", "asyncio"], indirect=True),
    pytest.mark.slow,
    pytest.mark.alone,
]
PARTIAL = {"cluster-require-full-coverage": "no", "cluster-allow-replica-migration": "no"}


@pytest.fixture(scope="module")
def _loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Make:
    """Makes queues, sync or asyncio, with engines of their own; they are closed with the test."""

    def __init__(self, cluster: Cluster, loop: Loop | None) -> None:
        self.cluster = cluster
        self.loop = loop
        self._queues: list[Any] = []

    def url(self, first: int = 0) -> str:
        """Its seeds begin with this node."""
        nodes = [*self.cluster.nodes[first:], *self.cluster.nodes[:first]]
        return ";".join(f"redis+cluster://127.0.0.1:{node.port}" for node in nodes)

    def __call__(self, name: str = "q", *, first: int = 0, **options: Any) -> Any:
        """A queue of six partitions; its seeds begin with this node."""
        kind = Queue if self.loop is None else AsyncQueue
        made: Any = kind(name, self.url(first), partitions=6, **options)
        if self.loop is not None:
            made = Twin(self.loop, made)
        self._queues.append(made)
        return made

    def close(self) -> None:
        for queue in self._queues:
            queue.close()


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[Cluster]:
    with Cluster(kind, nodes=3, options=PARTIAL) as cluster:
        yield cluster


@pytest.fixture
def make(request: pytest.FixtureRequest, three: Cluster, _loop: Loop) -> Iterator[Make]:
    for node in three.nodes:
        node.client().flushall()
    if request.param == "asyncio" and "killed" not in request.node.name and not LONG:
        pytest.skip("set ATOMQ_LONG=1: what is chosen is one text for both")
    made = Make(three, _loop if request.param == "asyncio" else None)
    yield made
    made.close()


def node_of(cluster: Cluster, queue: Any) -> Server:
    """The node that serves an ordinary queue, or one of this name."""
    name = queue if isinstance(queue, str) else getattr(queue, "target", queue).name
    return cluster.nodes[QueueKeys(name, layout="cluster").slot * 3 // 16384]


def home_of(cluster: Cluster, queue: Any, key: str) -> Server:
    """The node of the partition to which a key goes."""
    target = getattr(queue, "target", queue)
    return node_of(cluster, target._parts[target._map.of_key(key)])


def put_for(queue: Any, seconds: float) -> tuple[list[Any], float]:
    """Put one message after another; what was put, and the longest time that one took."""
    put: list[Any] = []
    slowest, until = 0.0, time.monotonic() + seconds
    while (began := time.monotonic()) < until:
        put.append(queue.put(len(put)))
        slowest = max(slowest, time.monotonic() - began)
    return put, slowest


def drained(queue: Any, count: int) -> list[Any]:
    """The bodies of so many messages, acked."""
    bodies: list[Any] = []
    deadline = time.monotonic() + 10
    while len(bodies) < count and time.monotonic() < deadline:
        found = queue.claim_many(100, timeout=1)
        bodies += [message.body for message in found]
        queue.ack_many(found)
    return bodies


def test_partitions_lie_evenly_on_the_shards(make: Make, three: Cluster) -> None:
    queue = make()
    homes = [node_of(three, part) for part in queue.partitions()]
    assert sorted(homes.count(node) for node in three.nodes) == [2, 2, 2]


def test_a_shard_is_killed(make: Make, three: Cluster) -> None:
    """What names nothing goes elsewhere at once; what has a home says that it is away."""
    queue = make(retry_budget=1)
    parts = queue.partitions()
    dead = node_of(three, parts[1])  # which has not the first one
    keys = [f"k{i}" for i in range(60)]
    homeless = [key for key in keys if home_of(three, queue, key) is dead]
    living = [key for key in keys if home_of(three, queue, key) is not dead]
    put = [queue.put(i) for i in range(6)]
    dead.kill()
    try:
        more, slowest = put_for(queue, 0.6)
        assert len(more) > 20
        assert slowest < 1.0
        assert not any(node_of(three, sent.queue) is dead for sent in more)
        batch = queue.put_many(range(50))
        assert len({sent.queue.name for sent in batch}) == 1
        assert queue.put("x", key=living[0]).new
        with pytest.raises(ServerUnavailable, match="of 'q#") as raised:
            queue.put("x", key=homeless[0])
        assert str(dead.port) in str(raised.value)
        state = queue.state()
        lost = [part.name for part in parts if node_of(three, part) is dead]
        assert list(state.unanswered) == lost
        assert len(state.partitions) == 6
        with pytest.raises(ServerUnavailable, match="4 partitions of 'q' are paused") as raised:
            queue.pause()
        assert all(name in str(raised.value) for name in lost)
        with pytest.raises(ServerUnavailable):
            queue.resume()
        there = [sent for sent in put if node_of(three, sent.queue) is not dead]
        count = len(there) + len(more) + len(batch) + 1
        assert len(drained(queue, count)) == count
    finally:
        dead.start()
    wait_until("the shard to be back", lambda: not queue.state().unanswered)
    assert queue.put("x", key=homeless[0]).new
    wait_until(
        "it to be published to again",
        lambda: node_of(three, queue.put("y").queue) is dead,
    )


def test_a_process_begins_while_the_first_partition_is_away(make: Make, three: Cluster) -> None:
    """A copy of the record says where the others are."""
    queue = make()
    names = [part.name for part in queue.partitions()]
    for part in queue.partitions():
        part.put(1, delay=60)
    with Engine(f"redis+cluster://127.0.0.1:{three.nodes[0].port}") as other:
        other.run(calls.register(other.register.keys, names))
    before = Engine(f"redis+cluster://127.0.0.1:{three.nodes[0].port}", retry_budget=1)
    before.overview(["q"])
    dead = node_of(three, queue.partitions()[0])
    dead.kill()
    try:
        first = (three.nodes.index(dead) + 1) % 3
        late = make(first=first, retry_budget=1)
        assert [part.name for part in late.partitions()] == names
        url = f"redis+cluster://127.0.0.1:{three.nodes[first].port}"
        with Engine(url, retry_budget=1) as other:
            seen = [other.overview(), other.overview(["q"]), before.overview(["q"])]
            plain = next(n for n in map("p{}".format, range(99)) if node_of(three, n) is dead)
            with pytest.raises(ServerUnavailable):
                other.overview([plain])
        for each in seen:
            assert [row.name for row in each.queues] == ["q"]
            assert "q" in each.queues[0].unanswered
            assert each.queues[0].partitions == tuple(names)
            assert each.queues[0].delayed == 4
            assert set(each.queues[0].unanswered) == set(each.unreadable)
        put, slowest = put_for(late, 0.5)
        assert put
        assert slowest < 1.5
        assert len(drained(late, len(put))) == len(put)
    finally:
        before.close()
        dead.start()


def test_a_shard_stands_still_and_what_was_sent_to_it_is_put_once(
    make: Make, three: Cluster
) -> None:
    """A publish without an answer goes to its own partition again, and to no other."""
    queue = make()
    parts = queue.partitions()
    still = node_of(three, parts[2])
    for i in range(12):
        queue.put(i)
    still.pause()
    thaw = threading.Timer(1.2, still.resume)
    thaw.daemon = True
    thaw.start()
    try:
        put, _ = put_for(queue, 1.6)
    finally:
        thaw.join()
    bodies = drained(queue, 12 + len(put))
    assert sorted(bodies) == sorted([*range(12), *range(len(put))])
    assert queue.state().ready == 0


def test_a_consumer_of_all_goes_on_while_one_shard_is_away(make: Make, three: Cluster) -> None:
    queue = make()
    dead = node_of(three, queue.partitions()[1])
    seen: list[tuple[int, float]] = []
    stop = threading.Event()

    def work() -> None:
        for message in queue.consume(stop=stop):
            with message:
                seen.append((message.body, time.monotonic()))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        queue.put(-1)
        wait_until("the first", lambda: len(seen) == 1)
        dead.kill()
        put, _ = put_for(queue, 1.5)
        wait_until("all of them", lambda: len(seen) == 1 + len(put))
        times = [at for _, at in seen[1:]]
        assert max((b - a for a, b in itertools.pairwise(times)), default=0.0) < 1.0
    finally:
        stop.set()
        if not dead.alive:
            dead.start()
        thread.join(10)
    assert sorted(body for body, _ in seen) == [-1, *range(len(put))]


class Ledger:
    """What was put and what was handed out, kept outside the servers."""

    def __init__(self) -> None:
        self.put: dict[int, str] = {}
        self.doubtful: set[int] = set()
        """What `put` raised for, and may be there all the same."""
        self.seen: dict[int, set[str]] = {}
        self.lost: set[int] = set()
        self._numbers = itertools.count()

    def publish(self, queue: Any, key: str | None, stop: threading.Event) -> None:
        while not stop.is_set():
            number = next(self._numbers)
            try:
                self.put[number] = queue.put(number, key=key).id
            except ServerUnavailable as error:
                if not error.unsent:
                    self.doubtful.add(number)
            time.sleep(0.002)

    def work(self, queue: Any, stop: threading.Event) -> None:
        while not stop.is_set():
            with suppress(ServerUnavailable):
                for message in queue.consume(stop=stop):
                    with message:
                        self.seen.setdefault(message.body, set()).add(message.id)

    def is_whole(self) -> bool:
        self.lost = self.put.keys() - self.seen.keys()
        return not self.lost


def trouble(cluster: Cluster, seconds: float) -> int:
    """Freeze a node, kill the next one, and so on; how often."""
    until, count = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        node = cluster.nodes[count % 3]
        if count % 2:
            node.restart(down=1.0)
        else:
            node.pause()
            time.sleep(1.0)
            node.resume()
        count += 1
        time.sleep(0.5)
    return count


@pytest.mark.long
@pytest.mark.timeout(300)
def test_nothing_is_lost_nor_put_twice_while_shards_die_and_stand_still(
    kind: str, make: Make
) -> None:
    """Shards with a disk, killed or frozen in turn for 40 s."""
    durable = {**PARTIAL, "appendonly": "yes", "appendfsync": "always"}
    ledger, stop, end = Ledger(), threading.Event(), threading.Event()
    with Cluster(kind, nodes=3, options=durable) as cluster:
        made = Make(cluster, make.loop)
        made().state()  # the record is written
        publishers = [
            threading.Thread(
                target=ledger.publish, args=(made(retry_budget=2), key, stop), daemon=True
            )
            for key in (None, "a", None)
        ]
        consumers = [
            threading.Thread(target=ledger.work, args=(made(lease=3), end), daemon=True)
            for _ in range(2)
        ]
        for thread in (*publishers, *consumers):
            thread.start()
        try:
            faults = trouble(cluster, 40)
        finally:
            stop.set()
            for thread in publishers:
                thread.join(20)
        try:
            wait_until("all that was put to be handed out", ledger.is_whole, 20)
        finally:
            end.set()
            for thread in consumers:
                thread.join(20)
            made.close()
    assert len(ledger.put) > 1000
    assert faults > 15
    assert ledger.seen.keys() - ledger.put.keys() <= ledger.doubtful
    assert {body: ids for body, ids in ledger.seen.items() if len(ids) > 1} == {}
    print(f"{len(ledger.put)} put, {len(ledger.doubtful)} in doubt, {faults} faults")


# ── more partitions, and what comes in between ────────────────────────────────────────────────────


class Raised:
    """A queue of three partitions in use, which others make six of: what was put, in which order.

    It has a backlog, messages that are held and delayed ones; a thread that knows of three goes on
    to publish.
    """

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.old = Queue(name, url, partitions=3)
        self._put: dict[str, int] = dict.fromkeys("abcdef", 0)
        self._sent: list[Any] = []
        self.keyed()
        self.put(self.old, 6)
        for n in range(4):
            self._sent.append(["late", n])
            self.old.put(["late", n], key="late", delay=0.05)
        self._held = self.old.claim_many(6)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._thread.start()

    def put(self, queue: Any, count: int) -> None:
        for _ in range(count):
            self._sent.append(["", len(self._sent)])
            queue.put(self._sent[-1])

    def keyed(self, queue: Any = None) -> None:
        """One message of each key."""
        for key in "abcdef":
            self._put_keyed(key, queue or self.old)

    def _put_keyed(self, key: str, queue: Any) -> None:
        self._put[key] += 1
        self._sent.append([key, self._put[key]])
        queue.put(self._sent[-1], key=key)

    def _publish(self) -> None:
        mine = Queue(self.name, self.url, partitions=3)
        self._put["thread"] = 0
        while not self._stop.is_set():
            self._put_keyed("thread", mine)
            time.sleep(0.001)
        mine.close()

    def child(self, step: int, do: Callable[[], object], retry_budget: float = 10) -> bool:
        """A process that makes six of them, and does this once it has sent so many times.

        Whether it came to its end before.
        """
        pid = os.fork()
        if pid == 0:
            sends, send = itertools.count(1), Wire.send

            def sent(wire: Wire, data: bytes) -> None:
                send(wire, data)
                if next(sends) == step:
                    do()

            Wire.send = sent  # type: ignore[method-assign]
            try:
                Queue(self.name, self.url, partitions=6, retry_budget=retry_budget).partitions()
            except ServerUnavailable:
                os._exit(1)
            finally:
                os._exit(0 if next(sends) <= step else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def check(self) -> None:
        """Make six of them again. Nothing is lost or doubled, and each key has its order."""
        self.keyed()
        again = Queue(self.name, self.url, partitions=6)
        self.put(again, 12)
        self.keyed(again)
        self.put(self.old, 3)
        self._stop.set()
        self._thread.join(10)
        parts, engine = again.partitions(), again.engine
        assert len(parts) == 6
        record = engine.run(calls.partitions(parts[0].keys))
        copies = [engine.run(calls.partitions(parts[at].keys)) for at in COPIES]
        assert copies == ["copy " + record] * len(COPIES)
        assert not any(part.state().paused for part in parts)
        bodies = [message.body for message in self._held]
        assert set(self.old.ack_many(self._held)) == {Verdict.DONE}
        bodies += drained(again, len(self._sent) - len(bodies))
        assert sorted(bodies) == sorted(self._sent)
        for key in self._put:
            numbers = [number for of, number in bodies if of == key]
            assert numbers == sorted(numbers)
        state = again.state()
        assert (state.ready, state.unacked, state.delayed) == (0, 0, 0)
        again.close()
        self.old.close()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("paused", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_process_dies_while_it_makes_more_of_them(make: Make, *, paused: bool) -> None:
    """At each of its steps; a queue that was paused goes on before others make more of it."""
    for step in itertools.count(1):
        raised = Raised(make.url(), f"raised{step}")
        if paused:
            raised.old.pause()
        is_done = raised.child(step, _die)
        if paused:
            raised.old.resume()
        raised.check()
        if is_done:
            break
    assert step > 5


@pytest.mark.parametrize(
    ("which", "how"),
    [
        ("first", "freeze"),
        ("other", "freeze"),
        pytest.param("first", "kill", marks=pytest.mark.long),
        pytest.param("other", "kill", marks=pytest.mark.long),
    ],
)
@pytest.mark.timeout(300)
def test_a_shard_is_away_while_a_process_makes_more_of_them(
    kind: str, make: Make, which: str, how: str
) -> None:
    """From each of its steps on. The process gives up, or does without the shard."""
    with ExitStack() as stack:
        cluster, loop = make.cluster, make.loop
        if how == "kill":
            durable = {**PARTIAL, "appendonly": "yes", "appendfsync": "always"}
            cluster = stack.enter_context(Cluster(kind, nodes=3, options=durable))
        for step in itertools.count(1) if LONG else (4,):
            raised = Raised(Make(cluster, loop).url(), f"raised{step}")
            node = node_of(cluster, raised.old.partitions()[0 if which == "first" else 1])
            try:
                goes = node.pause if how == "freeze" else partial(os.kill, node.pid, signal.SIGKILL)
                is_done = raised.child(step, goes, retry_budget=0.5)
            finally:
                if how == "freeze":
                    node.resume()
                elif not is_done:
                    node.restart()
            if how == "kill":
                wait_until("the shard", lambda raised=raised: not raised.old.state().unanswered)
            raised.check()
            if is_done:
                break
