"""Clusters in trouble: nodes that die or stand still, slots that move, primaries that change.

Each test is run with the sync engine and the asyncio one; none of them may show an error to a
caller whose node is well, or whose budget is not spent.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import pytest

from atomq import (
    AsyncEngine,
    AsyncQueue,
    AsyncReceiver,
    Engine,
    Queue,
    Receiver,
    Verdict,
    calls,
    scripts,
)
from atomq.calls import Call
from atomq.cli import checks
from atomq.cli.session import Session
from atomq.errors import AtomqError, PermissionDenied, ServerError, ServerUnavailable
from atomq.keys import QueueKeys
from atomq.wires import Wire
from benchmarks.meter import Meter
from tests.conformance.twin import Loop, Twin
from tests.conftest import LONG, ON_CLUSTERS
from tests.lua.rig import Rig, msg, names
from tests.lua.verbs import VERBS, world
from tests.servers import Cluster, Server, wait_until
from tests.threads import running

pytestmark = [
    ON_CLUSTERS,
    pytest.mark.parametrize("make", ["sync", "asyncio"], indirect=True),
    pytest.mark.slow,
    pytest.mark.alone,
]
# A slot without a node stops no other; a primary that gave its last slot away stays one.
PARTIAL = {"cluster-require-full-coverage": "no", "cluster-allow-replica-migration": "no"}
CAP = 0.3  # seconds between two looks of a consumer, where they are counted
_numbers = itertools.count(1)


def url_of(cluster: Cluster, *nodes: Server) -> str:
    """All nodes are seeds, in this order, or those given."""
    ports = [node.port for node in nodes or cluster.nodes]
    return ";".join(f"redis+cluster://127.0.0.1:{port}" for port in ports)


def name_on(cluster: Cluster, index: int) -> str:
    """A queue that no other test has, in the slots that the node had at first."""
    count = len(cluster.nodes)
    while True:
        name = f"q{next(_numbers)}"
        if QueueKeys(name, layout="cluster").slot * count // 16384 == index:
            return name


class Make:
    """Makes queues, sync or asyncio, with engines of their own; they are closed with the test."""

    def __init__(self, loop: Loop | None) -> None:
        self._loop = loop
        self.kind = "sync" if loop is None else "asyncio"
        self._engines: list[Any] = []

    def engine(self, url: str, **options: Any) -> Any:
        self._engines.append((Engine if self._loop is None else AsyncEngine)(url, **options))
        return self._engines[-1]

    def queue(self, name: str, engine: Any) -> Any:
        if self._loop is None:
            return Queue(name, engine)
        return Twin(self._loop, AsyncQueue(name, engine))

    def receiver(self, queues: list[Any]) -> Any:
        if self._loop is None:
            return Receiver(queues)
        return Twin(self._loop, AsyncReceiver([queue.target for queue in queues]))

    def run(self, what: Any) -> Any:
        """The result of an engine's method."""
        return what if self._loop is None else self._loop.run(what)

    def close(self) -> None:
        for engine in self._engines:
            self.run(engine.close())


@pytest.fixture(scope="module")
def _loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def make(request: pytest.FixtureRequest, _loop: Loop) -> Iterator[Make]:
    made = Make(_loop if request.param == "asyncio" else None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def three(kind: str) -> Iterator[Cluster]:
    """Three primaries. A fourth serves no slots."""
    with Cluster(kind, nodes=3, spare=True, options=PARTIAL) as cluster:
        yield cluster


def seldom(make: Make, how: str, *pairs: tuple[str, str]) -> None:
    """Leave these out of short runs: each way of trouble is tried by one engine at least."""
    if (how, make.kind) in pairs and not LONG:
        pytest.skip("set ATOMQ_LONG=1")


class Calls:
    """A thread that calls again and again, and notes how it went.

    Beside it a plain client asks a node that is well, for how long the machine let all wait.
    """

    def __init__(self, well: Server, *calls: Callable[[], object]) -> None:
        self._well = well
        self._calls = calls
        self.errors: list[Exception] = []
        self.done: list[float] = []
        self._stood = 0.0
        self._stop = threading.Event()

    def _run(self) -> None:
        for call in itertools.cycle(self._calls):
            if self._stop.is_set():
                return
            try:
                call()
                self.done.append(time.monotonic())
            except AtomqError as error:
                self.errors.append(error)
            time.sleep(0.005)

    def _beat(self) -> None:
        client, before = self._well.client(), time.monotonic()
        while not self._stop.is_set():
            client.ping()
            now = time.monotonic()
            self._stood, before = max(self._stood, now - before), now
            time.sleep(0.005)

    @contextmanager
    def run(self) -> Iterator[None]:
        with running(self._run, self._beat, stop=self._stop):
            wait_until("a first call", lambda: self.done)
            yield

    def gap(self) -> float:
        """The longest time without a call that was carried out, in seconds."""
        return self.within(self.done)

    def within(self, times: list[float]) -> float:
        """The longest time between two of these, less what the machine stood still at most."""
        return max(after - before for before, after in itertools.pairwise(times)) - self._stood


@contextmanager
def in_trouble(node: Server, how: str) -> Iterator[None]:
    if how == "frozen":
        node.pause()
    else:
        node.kill()
    try:
        yield
    finally:
        if how == "frozen":
            node.resume()
        else:
            node.start()


# ── a node in trouble ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["frozen", "dead"])
def test_a_node_in_trouble_costs_no_call_to_another(three: Cluster, make: Make, how: str) -> None:
    seldom(make, how, ("dead", "sync"))
    engine, url = make.engine(url_of(three), retry_budget=1, socket_timeout=2), url_of(three)
    lost, *well = [make.queue(name_on(three, index), engine) for index in range(3)]
    for queue in (lost, *well):
        queue.put("before")
    errors: list[AtomqError] = []

    def call_it() -> None:
        with pytest.raises(ServerUnavailable) as raised:
            lost.put("lost")
        errors.append(raised.value)

    calls = Calls(three.nodes[1], *(lambda queue=queue: queue.put("x") for queue in well))
    with in_trouble(three.nodes[0], how):
        with calls.run(), running(call_it, call_it, call_it):
            # And in a process that begins now, whose first seed is the node in trouble.
            late = make.queue(name_on(three, 2), make.engine(url))
            began = time.monotonic()
            late.put("x")
            assert time.monotonic() - began < 1
        assert not calls.errors
        assert calls.gap() < 1
        where = f"127.0.0.1:{three.nodes[0].port}"
        assert all(where in str(error) for error in errors)
    wait_until("it to be back", lambda: put(lost))


def put(queue: Any) -> bool:
    try:
        queue.put("x")
    except ServerUnavailable:
        return False
    return True


def test_a_batch_answers_what_the_nodes_that_are_well_answer(three: Cluster, make: Make) -> None:
    engine = make.engine(url_of(three), retry_budget=0.3, socket_timeout=0.6)
    names = [name_on(three, index) for index in (0, 1, 2, 0, 1)]
    for name in names:
        make.queue(name, engine).put(name)
    batch = [calls.inspect(engine.keys(name)) for name in names]
    assert [state.ready for state in make.run(engine.run_all(batch))] == [1] * 5
    with in_trouble(three.nodes[0], "frozen"):
        began = time.monotonic()
        both = [make.run(engine.run_all(batch))]
        assert time.monotonic() - began < 3
        # One that has not spoken with the cluster yet asks another node what it may.
        new = make.engine(url_of(three, three.nodes[1]), retry_budget=0.3, socket_timeout=0.6)
        both.append(make.run(new.run_all([calls.inspect(new.keys(name)) for name in names])))
    for found in both:
        assert [getattr(state, "ready", type(state)) for state in found] == [
            ServerUnavailable,
            1,
            1,
            ServerUnavailable,
            1,
        ]
        assert f"127.0.0.1:{three.nodes[0].port}" in str(found[0])


@pytest.mark.parametrize("how", ["frozen", "dead"])
def test_a_consumer_of_several_queues_serves_those_that_are_well(
    three: Cluster, make: Make, how: str
) -> None:
    seldom(make, how, ("dead", "sync"), ("dead", "asyncio"))
    engine = make.engine(url_of(three))
    queues = [make.queue(name_on(three, index), engine) for index in (0, 0, 0, 1, 2)]
    well = queues[3:]
    for queue in queues:
        queue.put("first")
    got: list[tuple[str, float]] = []
    stop = threading.Event()

    def consume() -> None:
        while not stop.is_set():
            for message in receiver.receive(4, 1):
                with message:
                    got.append((message.body, time.monotonic()))

    numbers = itertools.count()
    puts = (lambda queue=queue: queue.put(str(next(numbers))) for queue in well)
    calls = Calls(three.nodes[1], *puts)
    with make.receiver(queues) as receiver, running(consume, stop=stop):
        wait_until("the first five", lambda: len(got) == 5)
        with calls.run():
            wait_until("some of theirs", lambda: len(got) > 10)
            with in_trouble(three.nodes[0], how):
                time.sleep(3)
        assert not calls.errors
        wait_until("all of theirs", lambda: len(got) == 5 + len(calls.done), 3)
        times = [at for _, at in got[5:]]
        assert calls.within(times) < 1
        queues[0].put("back")
        wait_until("the node to be served again", lambda: got[-1][0] == "back", 6)
    assert len({body for body, _ in got[5:]}) == len(got) - 5, "none is handed out twice"


def test_a_message_waits_for_no_consumer_that_works_on_another_queue(
    three: Cluster, make: Make
) -> None:
    """A consumer that goes to work waits on no line any more, and passes on what came there."""
    engine = make.engine(url_of(three))
    queues = [make.queue(name_on(three, index), engine) for index in (0, 0, 1, 2)]
    got: list[tuple[str, float]] = []
    clients = [node.client() for node in three.nodes[:3]]

    def waiting() -> int:
        return sum(client.info("clients")["blocked_clients"] for client in clients)

    def receive(receiver: Any) -> None:
        (message,) = receiver.receive(1, 5)
        got.append((message.body, time.monotonic()))
        wait_until("the other one", lambda: len(got) == 2, 5)
        message.ack()

    late = []
    with make.receiver(queues) as one, make.receiver(queues) as other:
        for first, second in itertools.pairwise([*queues, queues[0]]):
            got.clear()
            with running(lambda: receive(one)), running(lambda: receive(other)):
                wait_until("both to wait", lambda: waiting() == 2 * len(queues))
                first.put("x")
                wait_until("one to work", lambda: len(got) == 1)
                put = time.monotonic()
                second.put("y")
                wait_until("the other one", lambda: len(got) == 2, 5)
            late.append(got[1][1] - put)
    assert sum(late) < 1.2, "the look that finds a lost token comes within 1.2 s, each time"


def test_results_of_a_node_that_is_well_come_at_once(three: Cluster, make: Make) -> None:
    """Each is listened for at the node of its queue."""
    engine = make.engine(url_of(three))
    queues = [make.queue(name_on(three, index), engine) for index in range(3)]
    for queue in queues:  # an engine listens at all nodes
        sent = queue.put("x")
        with running(lambda sent=sent: sent.wait(5)):
            queue.claim().complete("done")
    with in_trouble(three.nodes[0], "frozen"):
        for queue in queues[1:] * 4:
            sent, found = queue.put("x"), []
            with running(lambda sent=sent, found=found: found.append(sent.wait(5))):
                time.sleep(0.05)
                began = time.monotonic()
                queue.claim().complete("done")
            assert time.monotonic() - began < 1
            assert found == ["done"]


def test_leases_on_a_frozen_node_cost_none_on_another(three: Cluster, make: Make) -> None:
    """They are renewed in a thread a node, and so are acks sent."""
    engine = make.engine(url_of(three), lease=1.5)
    frozen = [make.queue(name_on(three, 0), engine) for _ in range(4)]
    well, acked = (make.queue(name_on(three, index), engine) for index in (1, 2))
    for queue in (*frozen, well, acked):
        queue.put(queue.name)
    held = [queue.claim() for queue in (*frozen, well)]
    other = make.queue(well.name, make.engine(url_of(three), lease=1.5))
    with in_trouble(three.nodes[0], "frozen"):
        end = time.monotonic() + 3.5
        while time.monotonic() < end:
            assert other.claim() is None, "its holder lives"
            time.sleep(0.1)
        began = time.monotonic()
        message = acked.claim()
        acked.keeper.ack_later(acked.keys, message.receipt)
        wait_until("the ack", lambda: acked.state().unacked == 0)
        assert time.monotonic() - began < 1
    assert [message.lost for message in held] == [False] * 5
    for message in held:
        message.ack()


def test_what_ended_while_its_node_was_away_is_acked_before_another_consumer_gets_it(
    three: Cluster, make: Make
) -> None:
    """Its lease has ended meanwhile: the ack comes within the grace that follows an outage."""
    name = name_on(three, 0)
    queue = make.queue(name, make.engine(url_of(three), lease=1.5))
    other = make.queue(name, make.engine(url_of(three), lease=1.5, retry_budget=0.2))
    begun, may_end, stop = threading.Event(), threading.Event(), threading.Event()

    def consume() -> None:
        for message in queue.consume(stop=stop):
            with message:
                begun.set()
                may_end.wait(20)

    def is_acked() -> bool:
        with suppress(ServerUnavailable):
            assert other.claim() is None, "it is done"
        return unacked.zcard(queue.keys.unacked) == 0

    queue.put("x")
    with running(consume, stop=stop):
        assert begun.wait(20)
        with in_trouble(three.nodes[0], "frozen"):
            may_end.set()
            time.sleep(3)
        unacked = three.nodes[0].client()
        wait_until("the ack", is_acked, 5)


def test_doctor_names_a_node_that_is_away_and_checks_the_others(three: Cluster, make: Make) -> None:
    seldom(make, "in its process", ("in its process", "asyncio"))
    session = Session(url_of(three), ["retry_budget=0.3", "socket_timeout=0.3"], as_json=True)
    with in_trouble(three.nodes[0], "frozen"):
        found = list(checks.everything(session, None))
    session.close()
    names = [f"127.0.0.1:{node.port}" for node in three.nodes]
    (away,) = [each for each in found if each.status == "fail"]
    assert (away.check, away.node) == ("connection", names[0])
    assert {each.node for each in found if each.check == "scripts"} == {*names[1:]}
    assert found[-1].found == "skipped: a node is away"


def test_what_is_held_alone_on_a_frozen_node_keeps_no_consumer_waiting(
    three: Cluster, make: Make
) -> None:
    """That it is alone no more is said by a thread of its node, when it answers again."""
    engine = make.engine(url_of(three))
    frozen, well = (make.queue(name_on(three, index), engine) for index in (0, 1))
    unacked, held = three.nodes[0].client(), []

    def is_alone() -> bool:
        scores = [score for _, score in unacked.zrange(frozen.keys.unacked, 0, -1, withscores=True)]
        return [score % 1 for score in scores] == [0.5]

    with make.receiver([frozen, well]) as receiver:
        frozen.put("first")
        held += receiver.receive(1, 5)
        assert is_alone()
        well.put("second")
        with in_trouble(three.nodes[0], "frozen"):
            began = time.monotonic()
            held += receiver.receive(1, 5)
            assert time.monotonic() - began < 2
        assert [message.body for message in held] == ["first", "second"]
        wait_until("it to be alone no more", lambda: not is_alone(), 5)
        for message in held:
            message.ack()


# ── slots that move ───────────────────────────────────────────────────────────────────────────


class Moving:
    """A slot on its way from one node to another, key by key or as a whole."""

    def __init__(self, cluster: Cluster, slot: int, target: Server) -> None:
        self.cluster, self.slot, self.target = cluster, slot, target
        self.source = cluster.owner(slot)

    def begin(self) -> None:
        source, target = self.cluster.id_of(self.source), self.cluster.id_of(self.target)
        self._to(self.target, "IMPORTING", source)
        self._to(self.source, "MIGRATING", target)

    def keys(self, share: float) -> None:
        """Move this share of the keys."""
        client = self.source.client()
        count = int(client.execute_command("CLUSTER COUNTKEYSINSLOT", self.slot) * share)
        names = client.execute_command("CLUSTER GETKEYSINSLOT", self.slot, max(1, count))
        if names:
            where = ("127.0.0.1", self.target.port, "", 0, 5000, "KEYS")
            client.execute_command("MIGRATE", *where, *names)

    def end(self) -> None:
        while self.source.client().execute_command("CLUSTER COUNTKEYSINSLOT", self.slot):
            self.keys(1)
        target = self.cluster.id_of(self.target)
        for node in (self.target, self.source, *self.cluster.nodes):
            self._to(node, "NODE", target)

    def give_up(self) -> None:
        """It stays where it was."""
        for node in (self.target, self.source):
            node.client().execute_command("CLUSTER SETSLOT", self.slot, "STABLE")

    def at_once(self) -> None:
        """As Valkey 9 does it: the slot is refused for a moment only."""
        if not self.cluster.kind.startswith("valkey"):
            pytest.skip("only Valkey moves a slot at once")
        target = self.cluster.id_of(self.target)
        client = self.source.client()
        client.execute_command(
            "CLUSTER MIGRATESLOTS", "SLOTSRANGE", self.slot, self.slot, "NODE", target
        )
        wait_until("the move", lambda: self.cluster.owns(self.target, self.slot))

    def _to(self, node: Server, state: str, name: str) -> None:
        node.client().execute_command("CLUSTER SETSLOT", self.slot, state, name)


@pytest.mark.parametrize("how", ["key by key", "at once"])
def test_a_slot_moves_under_load_and_nobody_notices(three: Cluster, make: Make, how: str) -> None:
    """To a node that served nothing before, and back."""
    engine = make.engine(url_of(three))
    name = name_on(three, 1)
    queue, other = make.queue(name, engine), make.queue(name_on(three, 1), engine)
    numbers, got, stop = itertools.count(), list[int](), threading.Event()

    def consume() -> None:
        for message in queue.consume(stop=stop):
            with message:
                got.append(message.body)

    puts = Calls(three.nodes[2], lambda: queue.put(next(numbers)))
    others = Calls(three.nodes[1], lambda: other.put("x"))
    assert three.spare is not None
    slot = engine.keys(name).slot
    home = three.owner(slot)
    with running(consume, stop=stop):
        with puts.run(), others.run():
            for target in (three.spare, home):
                moving = Moving(three, slot, target)
                if how == "at once":
                    moving.at_once()
                else:
                    moving.begin()
                    moving.keys(0.5)
                    time.sleep(5 if LONG else 0.5)  # a reshard takes its time
                    moving.end()
                known = len(got)
                wait_until("the consumer to go on", lambda known=known: len(got) > known + 5, 5)
        sent = next(numbers)
        wait_until("all to be consumed", lambda: len(got) >= sent, 5)
    assert not puts.errors
    assert not others.errors
    assert others.gap() < 1
    assert got == list(range(sent)), "none lost, none twice, in their order"


@pytest.mark.parametrize("lost", [0, 1])
def test_the_last_message_is_acked_beside_a_lost_one_while_its_slot_moves(
    three: Cluster, make: Make, lost: int
) -> None:
    """A key that a script empties then is no longer the node's, so it must not be touched again."""
    engine = make.engine(url_of(three))
    name = name_on(three, 1)
    queue, keys = make.queue(name, engine), engine.keys(name)
    queue.put_many(["x", "y"])
    held = queue.claim_many(2)
    assert three.spare is not None
    moving = Moving(three, keys.slot, three.spare)
    client = moving.source.client()
    for command, key in (("ZREM", keys.unacked), ("HDEL", keys.records)):
        assert client.execute_command(command, key, held[lost].receipt) == 1
    verdicts = [Verdict.DONE, Verdict.DONE]
    verdicts[lost] = Verdict.LOST
    moving.begin()
    try:
        assert queue.ack_many(held) == verdicts
        assert client.hget(keys.stats, "acked") == b"1"
    finally:
        moving.give_up()


# By type of a key: what is added to one that is not there.
FILLERS: dict[str, tuple[Any, ...]] = {
    "zset": ("ZADD", 9e12, "filler"),
    "hash": ("HSET", "filler", "1"),
    "list": ("RPUSH", msg("filler")),
    "set": ("SADD", "filler"),
    "string": ("SET", "0"),
    "any": ("SET", "0"),
    "stream": ("XADD", "*", "message", msg("filler"), "reason", "filler", "step", "1"),
}
KINDS = {key.name: key.type for script in scripts.every() for key in script.contract.keys}


def fill(client: Any, call: Call[Any]) -> None:
    """Have all keys of a call there, but for the one that never is."""
    for key in call.keys:
        if not key.endswith("}.looked") and not client.exists(key):
            _, own, name = key.rpartition("}.")
            command, *words = FILLERS[KINDS[name.partition(".")[0]] if own else "list"]
            client.execute_command(command, key, *words)


def carried_out_while_it_moves(
    three: Cluster, make: Make, engine: Any, call: Call[Any]
) -> list[Any]:
    """What a call answers whose slot begins to move, until it is refused, and stays after all."""
    assert three.spare is not None
    moving = Moving(three, call.queue.slot, three.spare)
    client = moving.source.client()
    fill(client, call)
    ended: list[Any] = []

    def refused() -> int:
        return int(client.info("errorstats").get("errorstat_TRYAGAIN", {"count": 0})["count"])

    def run() -> None:
        try:
            ended.append(make.run(engine.run(call)))
        except AtomqError as error:
            ended.append(error)

    before = refused()
    moving.begin()
    try:
        with running(run):
            wait_until("it to end or to be refused", lambda: ended or refused() > before)
            moving.give_up()
    finally:
        moving.give_up()
    return ended


@pytest.mark.parametrize("how", ["acked", "expired"])
def test_a_claim_that_empties_a_key_loses_no_message_while_its_slot_moves(
    three: Cluster, make: Make, how: str
) -> None:
    """A part of it would be carried out, so it names a key that is never there: it is refused."""
    engine = make.engine(url_of(three), priority_steps=[0])
    name = name_on(three, 1)
    queue, keys = make.queue(name, engine), engine.keys(name)
    queue.put_many(["x", "y", "z"])
    receipts = [message.receipt for message in queue.claim_many(2)]
    client = three.owner(keys.slot).client()
    if how == "expired":
        client.zadd(keys.unacked, dict.fromkeys(receipts, 1))
        client.hdel(keys.meta, "quiet")
    acks = [receipts if how == "acked" else []]
    call = calls.claim([keys], "another-1", limit=2, lease_ms=60_000, acks=acks)
    (claimed,) = carried_out_while_it_moves(three, make, engine, call)
    assert names(claimed.deliveries) == (['"z"'] if how == "acked" else ['"x"', '"y"'])


def test_every_verb_ends_well_though_it_empties_a_key_while_its_slot_moves(
    three: Cluster, make: Make
) -> None:
    """It is carried out, or refused before it begins, or said again."""
    seldom(make, "verbs", ("verbs", "asyncio"))
    engine, home = make.engine(url_of(three)), three.nodes[1]
    rig = Rig(home, "cluster", address=url_of(three), retry_attempts=3)
    ended: dict[str, Any] = {}
    for verb, call_of in VERBS.items():
        if verb == "restore_foreign":
            continue  # keys of stock, which a cluster has none of
        w = world(rig, name_on(three, 1), stock=False)
        rig.db.zrem(w.q.keys.unacked, *w.held[1:])
        rig.db.hdel(w.q.keys.records, *w.held[1:])
        rig.db.zrem(w.q.keys.delayed, f"{w.q.name}-due")
        rig.db.hdel(w.q.keys.delayed_records, f"{w.q.name}-due")
        rig.db.hset(w.q.keys.meta, "cancels", 1 << 42)
        rig.db.hset(w.q.keys.cancelled, f"!{w.held[0]}", 1)
        (ended[verb],) = carried_out_while_it_moves(three, make, engine, call_of(w))
        for node in three.everyone:
            node.client().flushall()
    rig.engine.close()
    assert {verb: end for verb, end in ended.items() if isinstance(end, AtomqError)} == {}


def test_a_slot_that_moves_is_no_server_that_is_away(
    three: Cluster, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once that it moves, if that takes more than a second, and once that it is over."""
    seldom(make, "moves", ("moves", "asyncio"))
    engine = make.engine(url_of(three))
    names = [name_on(three, 1), name_on(three, 1)]
    queues = [make.queue(name, engine) for name in names]
    for queue in queues:
        queue.put("first")
    got, stop = list[str](), threading.Event()

    def consume() -> None:
        while not stop.is_set():
            for message in receiver.receive(4, 1):
                with message:
                    got.append(message.body)

    assert three.spare is not None
    slot = engine.keys(names[0]).slot
    home = three.owner(slot)
    with make.receiver(queues) as receiver, running(consume, stop=stop):
        wait_until("both", lambda: len(got) == 2)
        queues[0].put("delayed", delay=60)
        moving = Moving(three, slot, three.spare)
        moving.begin()
        moving.keys(0.5)
        with running(lambda: queues[0].put("last")):
            time.sleep(1.5)
            queues[1].put("other")
            wait_until("the other", lambda: "other" in got)
            moving.end()
        wait_until("the last", lambda: "last" in got)
        Moving(three, slot, home).at_once()
    words = ("waiting for ", "is back after ")
    said = [m for r in caplog.records if any(word in (m := r.getMessage()) for word in words)]
    assert [m[: m.find(str(slot))] for m in said] == ["waiting for slot ", "slot "]
    assert 1 <= float(said[1].split()[-2]) < 5, "since it was missed"


def test_a_slot_that_had_no_node_is_used_as_soon_as_one_serves_it(
    three: Cluster, make: Make
) -> None:
    name = name_on(three, 2)
    slot = QueueKeys(name, layout="cluster").slot
    owner = three.owner(slot)
    # The owner first: as long as it has the slot, the others learn of it again.
    for node in (owner, *(node for node in three.everyone if node is not owner)):
        node.client().execute_command("CLUSTER DELSLOTS", slot)
    hasty = make.queue(name, make.engine(url_of(three), retry_budget=0.2))
    patient = make.queue(name, make.engine(url_of(three)))
    with pytest.raises(ServerUnavailable, match=f"slot {slot}"):
        hasty.put("x")
    done: list[float] = []
    with running(lambda: (patient.put("x"), done.append(time.monotonic()))):
        time.sleep(0.3)
        owner.client().execute_command("CLUSTER ADDSLOTS", slot)
        added = time.monotonic()
    hasty.put("x")
    assert done[0] - added < 1
    assert hasty.state().ready == 2


def test_every_verb_waits_for_a_slot_that_has_no_node(three: Cluster, make: Make) -> None:
    """For `retry_budget`, whether the engine is new or has served."""
    name = name_on(three, 2)
    slot = QueueKeys(name, layout="cluster").slot
    engine, owner = make.engine(url_of(three)), three.owner(slot)
    queue = make.queue(name, engine)
    queue.put_many(["x"] * 6)
    held = queue.claim_many(6)
    answered = held[3].id
    new = make.queue(name, make.engine(url_of(three)))
    for node in (owner, *(node for node in three.everyone if node is not owner)):
        node.client().execute_command("CLUSTER DELSLOTS", slot)
    verbs: dict[str, Callable[[], object]] = {
        "put": lambda: queue.put("x"),
        "put of a new engine": lambda: new.put("x"),
        "put_many": lambda: queue.put_many(["x", "y"]),
        "put, delayed": lambda: queue.put("x", delay=60),
        "claim": queue.claim,
        "claim_many": lambda: queue.claim_many(3),
        "receive": lambda: make.receiver([queue]).receive(1, 0),
        "wait": lambda: queue.wait(answered, 5),
        "wait of a new engine": lambda: new.wait(answered, 5),
        "ack": held[0].ack,
        "release": held[1].release,
        "reject": held[2].reject,
        "complete": lambda: held[3].complete(1),
        "extend": held[4].extend,
        "progress": lambda: held[4].progress(0.5),
        "ack_many": lambda: queue.ack_many(held[5:]),
        "state": queue.state,
        "peek": queue.peek,
        "get": lambda: queue.get("none"),
        "cancel": lambda: queue.cancel("none"),
        "run_now": lambda: queue.run_now("none"),
        "redrive": queue.redrive,
        "purge": lambda: queue.purge("dead"),
        "pause": queue.pause,
        "resume": queue.resume,
    }
    ended: dict[str, Exception | None] = {}

    def trying(verb: str) -> None:
        error = None
        try:
            verbs[verb]()
        except AtomqError as raised:
            error = raised
        ended[verb] = error

    with running(*(partial(trying, verb) for verb in verbs)):
        time.sleep(0.5)
        early = dict(ended)
        owner.client().execute_command("CLUSTER ADDSLOTS", slot)
        wait_until("all of them", lambda: len(ended) == len(verbs), 5)
    assert not early
    assert {verb: error for verb, error in ended.items() if error is not None} == {}


# ── another primary ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def heirs(kind: str) -> Iterator[Cluster]:
    """Three primaries, each with a replica."""
    with Cluster(kind, nodes=3, replicas=True, options=PARTIAL) as cluster:
        yield cluster


def role(server: Server, client: Any = None) -> str:
    client = client or server.client(socket_timeout=1)
    return str(client.info("replication")["role"])


@pytest.mark.parametrize("how", ["manual", "dead", "frozen"])
def test_a_failover_is_followed_within_a_second(
    heirs: Cluster, make: Make, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names the old primary once at most, and does not say that it is back meanwhile."""
    seldom(make, how, ("manual", "asyncio"), ("dead", "sync"))
    name = name_on(heirs, 0)
    everyone = heirs.everyone
    engine = make.engine(url_of(heirs, *everyone))
    queue, other = make.queue(name, engine), make.queue(name_on(heirs, 1), engine)
    master = heirs.owner(engine.keys(name).slot)
    index = everyone.index(master)
    heir = everyone[(index + 3) % 6]
    heirs.await_fit(heir)
    numbers, got, stop = itertools.count(), list[tuple[float, int]](), threading.Event()

    def consume() -> None:
        for message in queue.consume(stop=stop):
            with message:
                got.append((time.monotonic(), message.body))

    well = heirs.owner(engine.keys(other.name).slot)
    puts, others = (
        Calls(well, put) for put in (lambda: queue.put(next(numbers)), lambda: other.put("x"))
    )
    with running(consume, stop=stop):
        with puts.run(), others.run():
            wait_until("the consumer to begin", lambda: got)
            replicated = len(puts.done)
            master.client().execute_command("WAIT", 1, 1000)
            with failing_over(heirs, master, heir, how):
                admin = heir.client(socket_timeout=1)
                wait_until("the election", lambda: role(heir, admin) == "master", 10)
                elected = time.monotonic()
                wait_until("puts to go on", lambda: puts.done[-1] > elected, 2)
                wait_until("the consumer to go on", lambda: got[-1][0] > elected, 2)
                came = (puts.done, [at for at, _ in got])
                went_on = [min(at for at in times if at > elected) for times in came]
                told = [r.getMessage() for r in caplog.records if r.name == "atomq.client"]
        # What the heir had not heard of is lost with the old primary: replication is asynchronous.
        safe = {n for n, at in enumerate(puts.done) if n < replicated or at > elected}
        wait_until("all to be consumed", lambda: safe <= {n for _, n in got}, 10)
    wait_until("the old one to be a replica", lambda: role(master) == "slave")
    assert not puts.errors
    assert not others.errors
    assert others.gap() < 1
    assert max(went_on) - elected < 1
    if how != "manual":
        where = f"the server 127.0.0.1:{master.port}"
        assert sum(line.startswith(f"waiting for {where}") for line in told) <= 1, told
        assert not any(line.startswith(f"{where} is back") for line in told), told


def test_a_worker_that_may_load_has_replicas_know_the_scripts(heirs: Cluster, make: Make) -> None:
    """So a failover to one that joined after `scripts load` stops no user that may not load."""
    with loading(heirs, make) as (name, engine, heir):
        wait_until("it to know them", lambda: knows_all(heir), 5)
        heirs.fail_over(heir)
        wait_until("it to take over", lambda: heirs.owns(heir, engine.keys(name).slot))
        plain = make.engine(url_of(heirs, heir).replace("//", "//plain:p@"))
        assert make.queue(name, plain).put("x").new


def test_a_primary_without_scripts_is_given_them_by_the_first_that_may(
    heirs: Cluster, make: Make
) -> None:
    """One that took over as soon as it had joined, say: not what that one runs, but all of them."""
    with loading(heirs, make) as (name, engine, heir):
        wait_until("it to know them", lambda: knows_all(heir), 5)
        plain = make.queue(name, make.engine(url_of(heirs).replace("//", "//plain:p@")))
        puts = Calls(heirs.owner(engine.keys(name_on(heirs, 1)).slot), lambda: plain.put("x"))
        with puts.run():
            heirs.await_fit(heir)
            heir.client().script_flush()
            heirs.fail_over(heir)
            wait_until("it to take over", lambda: heirs.owns(heir, engine.keys(name).slot))
            elected = time.monotonic()
            wait_until("it to know them", lambda: knows_all(heir), 2)
            wait_until("puts to go on", lambda: puts.done[-1] > elected, 2)
    assert not puts.errors
    assert puts.gap() < 1


def mapped(cluster: Cluster) -> set[int]:
    """The ports of the nodes that every node names: those that serve slots, or may do so soon."""
    maps = [node.client().execute_command("CLUSTER SLOTS") for node in cluster.everyone]
    return set.intersection(*({int(one[1]) for _, _, *some in m for one in some} for m in maps))


def knows_all(node: Server) -> bool:
    return all(node.client().script_exists(*(script.sha for script in scripts.every())))


@contextmanager
def loading(heirs: Cluster, make: Make) -> Iterator[tuple[str, Any, Server]]:
    """A consumer that may load scripts, of a queue whose primary has a replica without them.

    The user `plain` may not load any.
    """
    name, user = name_on(heirs, 0), f"loads-{next(_numbers)}"
    # Of a user of its own: what other tests began with this cluster looks at new replicas alone.
    engine = make.engine(url_of(heirs, *heirs.everyone).replace("//", f"//{user}:p@"))
    queue = make.queue(name, engine)
    index = heirs.everyone.index(heirs.owner(engine.keys(name).slot))
    heir = heirs.everyone[(index + 3) % 6]
    for node in heirs.everyone:
        admin = node.client()
        admin.execute_command("ACL SETUSER", user, "on", ">p", "~*", "&*", "+@all")
        admin.execute_command("ACL SETUSER", "plain", "on", ">p", "~*", "&*", "+@all", "-script")
        for script in scripts.every():
            admin.script_load(script.text)
    queue.put("x")  # a replica that was sent nothing yet is in no map
    wait_until("all to be in the map", lambda: mapped(heirs) == {n.port for n in heirs.everyone})
    heir.client().script_flush()  # as one that joined just now
    stop = threading.Event()

    def consume() -> None:
        for message in queue.consume(stop=stop):
            message.ack()

    with running(consume, stop=stop):
        yield name, engine, heir


@contextmanager
def failing_over(cluster: Cluster, master: Server, heir: Server, how: str) -> Iterator[None]:
    if how != "manual":
        with in_trouble(master, how):
            yield
        return
    cluster.fail_over(heir)
    yield


# ── waiting ───────────────────────────────────────────────────────────────────────────────────


def commands(server: Server, name: str) -> int:
    found = server.client().info("commandstats").get(f"cmdstat_{name}", {})
    return int(found.get("calls", 0))


def test_many_short_consumers_leave_no_connection_and_no_polling(
    three: Cluster, make: Make
) -> None:
    engine, node = make.engine(url_of(three)), three.nodes[1]
    queue, admin = make.queue(name_on(three, 1), engine), three.nodes[1].client()

    def connections() -> int:
        return len(admin.client_list(_type="normal"))

    before = connections()
    for _ in range(120):
        assert list(queue.consume(timeout=0.01)) == []
    wait_until("the connections to close", lambda: connections() < before + 5)
    got: list[Any] = []
    stop = threading.Event()

    def consume() -> None:
        for message in queue.consume(stop=stop):
            with message:
                got.append((message.body, time.monotonic()))

    with running(consume, stop=stop):
        time.sleep(0.3)
        asked = commands(node, "evalsha")
        time.sleep(1.5)
        assert commands(node, "evalsha") - asked <= 5, "it waits, and looks once a second"
        queue.put("x")
        began = time.monotonic()
        wait_until("the message", lambda: got)
        assert got[0][1] - began < 0.5


def test_a_consumer_of_many_queues_claims_where_a_token_tells(three: Cluster, make: Make) -> None:
    """A message costs no claim of the other queues; one that is always busy sees them all."""
    engine, producer = make.engine(url_of(three)), make.engine(url_of(three))
    names = [name_on(three, n % 3) for n in range(20)]
    receiver = make.receiver([make.queue(name, engine) for name in names])
    queues = [make.queue(name, producer) for name in names]
    got: list[tuple[str, float]] = []
    stop = threading.Event()

    def calls() -> int:
        return sum(commands(node, "evalsha") for node in three.nodes)

    def consume() -> None:
        while not stop.is_set():
            for message in receiver.receive(1, 2, stop=stop):
                got.append((message.body, time.monotonic()))
                message.ack()

    with running(consume, stop=stop):
        for queue in queues[:3]:
            queue.put("warm")
        wait_until("all to be claimed from", lambda: len(got) == 3)
        before, began = calls(), time.monotonic()
        for queue in queues:
            count = len(got)
            queue.put("x")
            wait_until("the message", lambda count=count: len(got) > count)
        looks = (time.monotonic() - began + 1) / 0.8  # at each queue
        # A put, a claim, the ack, which asks for more.
        assert calls() - before <= (3 + looks) * len(queues)

        queues[0].put_many(["busy"] * 2000)
        wait_until("it to be busy", lambda: got[-1][0] == "busy")
        queues[7].put("other")
        at = time.monotonic()
        wait_until("the other one", lambda: any(body == "other" for body, _ in got), 2)
        wait_until("it to go on with the first", lambda: got[-1][0] == "busy")
        assert next(when for body, when in got if body == "other") - at < 0.5
    receiver.close()
    queues[0].purge()


def test_of_many_consumers_that_wait_one_looks(three: Cluster, make: Make) -> None:
    seldom(make, "looks", ("looks", "sync"))
    engine = make.engine(url_of(three), wait_cap=0.3)
    names = [name_on(three, index) for index in (0, 1, 2)]
    receivers = [make.receiver([make.queue(name, engine) for name in names]) for _ in range(6)]
    stop = threading.Event()

    def calls() -> int:
        return sum(commands(node, "evalsha") for node in three.nodes)

    with ExitStack() as stack:
        for one in receivers:
            stack.enter_context(
                running(lambda one=one: one.receive(1, 9, stop=stop), stop=stop)  # type: ignore[misc]
            )
        found = []
        for _ in range(4):  # where a busy machine lets a consumer be late, another one looks too
            time.sleep(0.5)
            before = calls()
            time.sleep(0.6)
            found.append(calls() - before)
            if found[-1] <= 18:  # 3 queues twice or three times; 6 consumers each: 42 and more
                break
        else:
            raise AssertionError(found)
    for one in receivers:
        one.close()


def test_a_wait_is_ended_at_the_node_where_it_is(three: Cluster, make: Make) -> None:
    """Elsewhere a client that has the same number waits for something else."""
    engine, counted = make.engine(url_of(three)), "client|unblock"
    queue = make.queue(name_on(three, 1), engine)
    before = [commands(node, counted) for node in three.nodes]
    assert list(queue.consume(timeout=0.1)) == []
    after = [commands(node, counted) for node in three.nodes]
    ended = [now - then for now, then in zip(after, before, strict=True)]
    assert ended[1]
    assert not ended[0] + ended[2]


# ── waiting for many queues ───────────────────────────────────────────────────────────────────


@contextmanager
def receiving(
    make: Make, cluster: Cluster, url: str, many: int = 50, **options: Any
) -> Iterator[tuple[list[Any], dict[str, float]]]:
    """A consumer of so many queues, that waits: queues to put into, and when a message came.

    A message is what it is called.
    """
    engine, producer = make.engine(url, **options), make.engine(url_of(cluster, *cluster.everyone))
    names = [name_on(cluster, n % 3) for n in range(many)]
    receiver = make.receiver([make.queue(name, engine) for name in names])
    queues = [make.queue(name, producer) for name in names]
    got: dict[str, float] = {}
    stop = threading.Event()

    def consume() -> None:
        while not stop.is_set():
            for message in receiver.receive(1, 2, stop=stop):
                got[message.body] = time.monotonic()
                message.ack()

    with running(consume, stop=stop):
        for queue in queues[:3]:
            queue.put(f"begin {queue.name}")
        wait_until("all to be claimed from", lambda: len(got) == 3)
        yield queues, got
    receiver.close()


def come(queues: list[Any], got: dict[str, float], what: str, seconds: float = 0.5) -> None:
    """A message of each queue reaches the consumer, before a look at all of them finds it."""
    took = []
    for queue in queues:
        body = f"{what} {queue.name}"
        queue.put(body)
        began = time.monotonic()
        wait_until("the message", lambda body=body: body in got)
        took.append(got[body] - began)
    assert sorted(took)[len(took) * 3 // 4] < seconds, took
    assert max(took) < 2, took


def watching(node: Server) -> list[Any]:
    """The connections to which a node reports changed keys."""
    return [one for one in node.client().client_list() if "t" in one["flags"]]


def connections(node: Server) -> set[str]:
    """All that clients of the cluster have to a node; those of the tests lead to a socket file."""
    admin = node.client()
    found = [one for kind in ("normal", "pubsub") for one in admin.client_list(_type=kind)]
    return {one["id"] for one in found if one["addr"].startswith("127.")}


def blocked(node: Server) -> int:
    return int(node.client().info("clients")["blocked_clients"])


def test_a_consumer_of_fifty_queues_has_one_connection_to_each_node(
    three: Cluster, make: Make
) -> None:
    """It waits there, and its claims, acks and looks travel there. Once in a while the register
    has one more.
    """

    def waits() -> list[int]:
        return [commands(node, "blpop") + commands(node, "client|unblock") for node in three.nodes]

    def its(node: Server) -> int:
        return sum(one["name"] == "its" for one in node.client().client_list())

    asked = waits()
    with receiving(make, three, url_of(three), client_name="its") as (queues, got):
        come(queues, got, "one")
        assert [len(watching(node)) for node in three.nodes] == [1, 1, 1]
        wait_until("no other", lambda: [its(node) for node in three.nodes] == [1, 1, 1], 8)
        assert waits() == asked
        come(queues[:6], got, "another")
        wait_until("no other", lambda: [its(node) for node in three.nodes] == [1, 1, 1], 8)


def idle(make: Make, nodes: list[Server], url: str, names: list[str]) -> tuple[float, float]:
    """Of a consumer that waits: looks a queue and second, and commands for each, all included."""
    engine = make.engine(url, wait_cap=CAP)
    receiver, stop = make.receiver([make.queue(name, engine) for name in names]), threading.Event()
    admins = [node.client() for node in nodes]  # a connection more would be counted
    meters = list(map(Meter, admins))

    def looks() -> int:
        """Each that finds nothing to do is published."""
        counts = [admin.info("commandstats") for admin in admins]
        of = ("cmdstat_publish", "cmdstat_spublish")
        return sum(int(count[how]["calls"]) for count in counts for how in of if how in count)

    with running(lambda: receiver.receive(1, 30, stop=stop), stop=stop):
        least = looks() + 3 * len(names)
        wait_until("looks", lambda: looks() > least)
        begin, before, began = [meter.read() for meter in meters], looks(), time.monotonic()
        least = before + 5 * len(names)
        wait_until("looks", lambda: looks() > least)
        spent = [meter.spent(one).commands for meter, one in zip(meters, begin, strict=True)]
        looked, seconds = looks() - before, time.monotonic() - began
    receiver.close()
    return looked / seconds / len(names), sum(spent) / looked


def test_fifty_idle_queues_are_looked_at_as_often_as_on_one_server(
    three: Cluster, server: Server, make: Make
) -> None:
    """And for two commands more each: a script has keys of one slot, and asks for the time."""
    seldom(make, "idle", ("idle", "asyncio"))
    names = [name_on(three, n % 3) for n in range(50)]
    for nodes, url, most in ((three.nodes, url_of(three), 5.2), ([server], server.url, 3.2)):
        often, commands_each = idle(make, nodes, url, names)
        assert often < 1.4 / CAP
        assert commands_each < most


def test_few_queues_a_node_have_a_connection_each(three: Cluster, make: Make) -> None:
    """A message then wakes one of many consumers: see docs/cluster.md."""
    seldom(make, "few", ("few", "asyncio"))
    with receiving(make, three, url_of(three), 12) as (_, _):
        wait_until("it to wait", lambda: [blocked(node) for node in three.nodes] == [4, 4, 4])
        assert not any(map(watching, three.nodes))


@pytest.mark.parametrize("how", ["cut", "flushed"])
def test_what_no_longer_is_reported_is_asked_about_again(
    three: Cluster, make: Make, how: str
) -> None:
    seldom(make, how, ("cut", "asyncio"), ("flushed", "sync"))
    with receiving(make, three, url_of(three), 18) as (queues, got):
        come(queues[:3], got, "before")
        for node in three.nodes:
            admin = node.client()
            if how == "cut":
                for one in watching(node):
                    admin.client_kill_filter(_id=one["id"])
            else:
                admin.flushall()
        come(queues, got, how)
        assert [len(watching(node)) for node in three.nodes] == [1, 1, 1]


@pytest.mark.parametrize("how", ["key by key", "at once"])
def test_of_many_queues_one_that_moved_is_waited_for_there(
    three: Cluster, make: Make, how: str
) -> None:
    """Nothing is in it, so no key changes where it was."""
    seldom(make, how, ("key by key", "asyncio"), ("at once", "sync"))
    with receiving(make, three, url_of(three), 18) as (queues, got):
        assert three.spare is not None
        slot = QueueKeys(queues[0].name, layout="cluster").slot
        home = three.owner(slot)
        for target in (three.spare, home):
            moving = Moving(three, slot, target)
            if how == "at once":
                moving.at_once()
            else:
                moving.begin()
                moving.keys(1)
                come(queues[1:6], got, f"half {target.port}")
                moving.end()
            # Over there it has a connection of its own: see `Nodes.opening`.
            come(queues[:1], got, f"moved {target.port}", 0.5 if target is three.spare else 2)
            come(queues[1:6], got, f"moved {target.port}")


def test_without_the_right_to_be_told_a_connection_a_queue_waits(
    three: Cluster, make: Make
) -> None:
    seldom(make, "rights", ("rights", "sync"))
    for node in three.everyone:
        rules = ("on", ">secret", "~*", "&*", "+@all", "-client|tracking")
        node.client().execute_command("ACL SETUSER", "deaf", "reset", *rules)
    url = url_of(three).replace("//", "//deaf:secret@", 1)
    try:
        with receiving(make, three, url, 15) as (queues, got):
            wait_until("it to wait", lambda: [blocked(node) for node in three.nodes] == [5, 5, 5])
            come(queues, got, "one")
    finally:
        for node in three.everyone:
            node.client().acl_deluser("deaf")


def test_many_short_consumers_of_many_queues_leave_nothing(three: Cluster, make: Make) -> None:
    engine = make.engine(url_of(three))
    queues = [make.queue(name_on(three, n % 3), engine) for n in range(15)]

    def consume() -> None:
        receiver = make.receiver(queues)
        assert receiver.receive(1, 0.01) == []
        receiver.close()

    consume()
    before = sum(len(connections(node)) for node in three.nodes)
    for _ in range(1000 if LONG else 30):
        consume()
    wait_until(
        "the connections to close",
        lambda: sum(len(connections(node)) for node in three.nodes) < before + 3,
    )
    assert not any(map(watching, three.nodes))


@pytest.mark.parametrize("how", ["manual", "dead", "frozen"])
def test_a_consumer_of_many_queues_follows_a_failover(heirs: Cluster, make: Make, how: str) -> None:
    some = ("manual", "asyncio"), ("dead", "sync"), ("dead", "asyncio"), ("frozen", "sync")
    seldom(make, how, *some)
    everyone = heirs.everyone
    with receiving(make, heirs, url_of(heirs, *everyone), 18) as (queues, got):
        come(queues[:6], got, "before")
        master = heirs.owner(QueueKeys(queues[0].name, layout="cluster").slot)
        heir = everyone[(everyone.index(master) + 3) % 6]
        heirs.await_fit(heir)
        with failing_over(heirs, master, heir, how):
            come(queues[1:6:3] + queues[2:6:3], got, "well")
            admin = heir.client(socket_timeout=1)
            wait_until("the election", lambda: role(heir, admin) == "master", 10)
            elected = time.monotonic()
            queues[0].put("elected")
            wait_until("the message", lambda: "elected" in got)
            come(queues, got, "after")
    assert got["elected"] - elected < 1
    wait_until("the old one to be a replica", lambda: role(master) == "slave")


# ── results ───────────────────────────────────────────────────────────────────────────────────


def test_a_result_is_said_where_it_is_waited_for_and_to_all_nodes_if_it_is_nowhere(
    three: Cluster, make: Make
) -> None:
    """By sharded pub/sub: a message on a plain channel travels to every node."""
    engine, node, spare = make.engine(url_of(three)), three.nodes[1], three.spare
    queue, admin = make.queue(name_on(three, 1), engine), three.nodes[1].client()
    assert spare is not None

    def waiting(sent: Any, answers: list[Any]) -> Any:
        return running(lambda: answers.append((sent.wait(8), time.monotonic())))

    def listens(at: Server, sent: Any) -> int:
        channel = engine.keys(queue.name).result(sent.id)
        return int(at.client().execute_command("PUBSUB", "SHARDNUMSUB", channel)[1])

    answers: list[tuple[Any, float]] = []
    sent = queue.put("x")
    before = [commands(node, name) for name in ("publish", "spublish")]
    with waiting(sent, answers), waiting(sent, answers):
        wait_until(
            "both to listen", lambda: listens(node, sent) >= (2 if make.kind == "sync" else 1)
        )
        queue.claim().complete("done")
    assert [answer for answer, _ in answers] == ["done"] * 2
    after = [commands(node, name) for name in ("publish", "spublish")]
    assert [now - then for now, then in zip(after, before, strict=True)] == [0, 1]

    # A waiter of an older release, at any node.
    sent = queue.put("x")
    older = three.nodes[0].client().pubsub(ignore_subscribe_messages=True)
    older.subscribe(channel := engine.keys(queue.name).result(sent.id))
    older.get_message(timeout=1)
    queue.claim().complete("done")
    wait_until("it to hear", lambda: older.get_message(timeout=0.1), 2)

    # A worker of an older release.
    sent, stored = queue.put("x"), admin.get(channel)
    channel = engine.keys(queue.name).result(sent.id)
    answers.clear()
    with waiting(sent, answers):
        wait_until("it to listen", lambda: listens(node, sent))
        queue.claim().ack()
        admin.set(channel, stored)
        told = time.monotonic()
        three.nodes[0].client().publish(channel, stored)
    assert answers[0][0] == "done"
    assert answers[0][1] - told < 1

    # The slot moves while it is waited for, and back.
    sent = queue.put("x")
    answers.clear()
    with waiting(sent, answers):
        wait_until("it to listen", lambda: listens(node, sent))
        Moving(three, engine.keys(queue.name).slot, spare).at_once()
        wait_until("it to listen there", lambda: listens(spare, sent), 2)
        queue.claim().complete("done")
        told = time.monotonic()
    assert answers[0][1] - told < 1
    Moving(three, engine.keys(queue.name).slot, node).at_once()


def test_many_waits_for_results_leave_no_connection_and_no_channel(
    three: Cluster, make: Make
) -> None:
    engine, clients = make.engine(url_of(three)), [node.client() for node in three.nodes]
    queues = [make.queue(name_on(three, index), engine) for index in range(3)]

    def wait_for(queue: Any) -> None:
        sent = queue.put("x")
        with running(lambda: answers.append(sent.wait(5))):
            queue.claim().complete("done")

    def left() -> tuple[int, int]:
        names = [client.execute_command("PUBSUB", "SHARDCHANNELS") for client in clients]
        names += [client.pubsub_channels() for client in clients]
        kinds = ("normal", "pubsub")
        open_now = [client.client_list(_type=kind) for client in clients for kind in kinds]
        return sum(map(len, names)), sum(map(len, open_now))

    answers: list[Any] = []
    for queue in queues:
        wait_for(queue)
    _, before = left()
    for queue in queues * (333 if LONG else 30):
        wait_for(queue)
    assert set(answers) == {"done"}
    wait_until("the connections to close", lambda: left() <= (0, before + 3))


def test_an_answer_that_is_in_time_is_not_looked_for(
    three: Cluster, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A put costs the same system calls as on one server: it is sent, and its answer is read."""
    looks: list[float] = []
    readable = Wire.readable

    def counted(wire: Wire, seconds: float) -> bool:
        looks.append(seconds)
        return readable(wire, seconds)

    queue = make.queue(name_on(three, 1), make.engine(url_of(three)))
    queue.put("x")
    monkeypatch.setattr(Wire, "readable", counted)
    for _ in range(20):
        queue.put("x")
    assert not any(looks), "0: after a rest"


# ── the truth in one sentence ─────────────────────────────────────────────────────────────────


def test_a_wrong_password_is_said_at_once(three: Cluster, make: Make) -> None:
    node = three.nodes[0]
    node.client().execute_command("ACL SETUSER", "someone", "on", ">right", "+@all")
    url = f"redis+cluster://someone:wrong@127.0.0.1:{node.port}"
    began = time.monotonic()
    with pytest.raises(PermissionDenied, match="user or password"):
        make.queue("q", make.engine(url)).put("x")
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(("layout", "home"), [("stock", 0), ("stock", 1), ("cluster", 0)])
def test_one_node_is_no_single_server_and_says_so(
    three: Cluster, make: Make, layout: str, home: int
) -> None:
    """It says MOVED if another node has the first key, or CROSSSLOT: "stock" keys lie apart.

    But for a plain put into a queue of that node: its few keys are those that the cluster has.
    """
    name = name_on(three, home)
    queue = make.queue(name, make.engine(three.nodes[1].tcp_url, layout=layout))
    verbs: dict[str, Callable[[], Any]] = {
        "put": lambda: queue.put("x"),
        "put_many": lambda: queue.put_many(["x"]),
        "claim": queue.claim,
        "consume": lambda: list(queue.consume(timeout=0.1)),
        "state": queue.state,
        "peek": queue.peek,
        "get": lambda: queue.get("1"),
        "cancel": lambda: queue.cancel("1"),
        "purge": queue.purge,
        "redrive": queue.redrive,
        "delete": queue.delete,
    }
    if (layout, home) == ("stock", 1):
        assert verbs.pop("put")().new
        assert [sent.new for sent in verbs.pop("put_many")()] == [True]
        assert len(make.queue(name, make.engine(url_of(three))).claim_many(9)) == 2
    for verb, call in verbs.items():
        with pytest.raises(ServerError, match=r"one node of a cluster: write redis\+cluster://"):
            pytest.fail(f"{verb} answered {call()!r}")


def test_databases_of_a_cluster_are_apart_where_it_has_them(kind: str, make: Make) -> None:
    if not kind.startswith("valkey"):
        pytest.skip("only Valkey has databases in a cluster")
    with Cluster(kind, options={"cluster-databases": "2"}) as cluster:
        url = url_of(cluster)
        zero, one = (make.queue("q", make.engine(each)) for each in (url, f"{url}/1"))
        sent = one.put("x")
        assert zero.claim() is None
        one.claim().complete("done")
        assert sent.wait(2) == "done"
        with pytest.raises(ServerError, match="no such database"):
            make.queue("q", make.engine(f"{url}/2")).put("x")


def test_a_node_without_that_database_says_so(three: Cluster, make: Make) -> None:
    """Of what it is for a cluster: tests/faults/test_virtual_hosts.py."""
    url = three.nodes[0].tcp_url.removesuffix("/0")
    with pytest.raises(ServerError, match="no such database"):
        make.queue("q", make.engine(f"{url}/1", layout="cluster")).put("x")


def test_a_single_server_is_no_cluster_and_says_so(server: Server, make: Make) -> None:
    url = server.tcp_url.replace("redis://", "redis+cluster://").removesuffix("/0")
    with pytest.raises(ServerError, match="no cluster: write redis://"):
        make.queue("q", make.engine(url)).put("x")
