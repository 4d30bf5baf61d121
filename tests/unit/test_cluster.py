"""The slot map and what is sent where, without a server: a cluster that is played by hand."""

from __future__ import annotations

import asyncio
import queue
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as server
from redis.connection import DefaultParser
from redis.crc import key_slot

from atomq import AsyncEngine, Engine, calls
from atomq.actions import Elsewhere, NoAnswer, Pause, Send
from atomq.calls import Call
from atomq.cluster import EVERY, FEW, NEAR, Share, SlotMap, key_of, named, no_answers, unserved
from atomq.errors import AtomqError, ServerError, ServerUnavailable
from atomq.keys import Place, QueueKeys, hash_slot
from atomq.retrying import Retry, calling
from atomq.shards import Shards
from atomq.shards_aio import AsyncShards
from atomq.translating import Unsent, translated
from tests.servers import wait_until

A, B, C = ("a", 1), ("b", 2), ("c", 3)
NODES = (A, B, C)
KEYS = QueueKeys("q", layout="cluster")
SLOT = KEYS.slot


def said(text: str) -> Any:
    """An error as redis-py makes it of what a server says."""
    return DefaultParser.parse_error(text)


def view(owners: dict[Place, tuple[int, int]], replicas: dict[Place, Place] | None = None) -> Any:
    """What a node answers to CLUSTER SLOTS."""
    follow = replicas or {}
    return [
        [first, last, [host.encode(), port, b"id"]]
        + [[r[0].encode(), r[1], b"id"] for r, of in follow.items() if of == (host, port)]
        for (host, port), (first, last) in owners.items()
    ]


WHOLE = view({A: (0, 5000), B: (5001, 10000), C: (10001, 16383)})


def ack() -> Call[Any]:
    return calls.ack(KEYS, ["r-1.0.1"])


# ── the map ───────────────────────────────────────────────────────────────────────────────────


@given(key=st.text())
def test_a_slot_is_what_redis_py_says(key: str) -> None:
    data = key.encode("utf-8", "surrogateescape") if key.isprintable() else key.encode("utf-8")
    assert hash_slot(key) == key_slot(data)


def test_it_learns_from_any_node_and_knows_replicas_too() -> None:
    slots = SlotMap([A])
    assert slots.owner(0) is None
    slots.learn(A, view({A: (0, 9), B: (10, 16383)}, {C: B}))
    assert (slots.owner(9), slots.owner(10), slots.primaries) == (A, B, (A, B))
    assert set(slots.to_ask()) == {A, B, C}


def test_a_node_without_a_name_is_the_one_that_was_asked() -> None:
    slots = SlotMap([A])
    slots.learn(A, [[0, 9, [b"", 1, b"id"]], [10, 19, [None, 7, b"id"]], [20, 29, [b"?", 8]]])
    assert (slots.owner(0), slots.owner(10), slots.owner(20)) == (A, ("a", 7), None)
    assert slots.judged(A, said("MOVED 5 :9")).place is None
    assert slots.owner(5) == ("a", 9)


def test_moved_corrects_one_slot_and_ask_corrects_none() -> None:
    slots = SlotMap([A])
    slots.learn(A, WHOLE)
    moved = slots.judged(A, said("MOVED 5 c:3"))
    assert isinstance(moved, Elsewhere)
    assert (slots.owner(5), slots.owner(4), slots.owner(6)) == (C, A, A)
    asked = slots.judged(A, said("ASK 4 b:2"))
    assert (asked.place, slots.owner(4)) == (B, A)


@pytest.mark.parametrize(
    "text",
    [
        "Lua script attempted to access a non local key in a cluster node",  # Redis 6.2
        "Script attempted to access a non local key in a cluster node",  # Redis 7 and 8
        "Attempted to access a non local key in a cluster node",  # Valkey
        "undeclared keys were accessed during rehashing of the slot",  # Redis 8
    ],
)
def test_a_script_that_ended_in_its_middle_gave_no_answer_and_its_node_is_not_in_doubt(
    text: str,
) -> None:
    """See rule 3 in lua/README.md."""
    slots = SlotMap()
    reply = slots.judged(A, said(f"ERR {text} script: 1, on @user_script:7."))
    assert isinstance(reply, NoAnswer)
    assert not slots.doubted


def test_what_one_node_does_not_know_another_may() -> None:
    """While a cluster is formed each node knows its own slots."""
    slots = SlotMap(NODES)
    slots.learn(A, view({A: (0, 5000)}))
    slots.learn(B, view({B: (5001, 10000)}), more=True)
    assert (slots.owner(0), slots.owner(5001), slots.owner(10001)) == (A, B, None)
    slots.learn(A, view({C: (0, 16383)}))
    assert (slots.owner(0), slots.primaries) == (C, (C,))


def test_a_node_in_doubt_is_asked_last_and_its_answer_ends_the_doubt() -> None:
    slots = SlotMap([A])
    slots.learn(A, WHOLE)
    slots.judged(A, said("CLUSTERDOWN The cluster is down"))
    slots.doubt(B)
    for _ in range(9):
        assert slots.to_ask()[0] == C
        assert slots.owner(None) == C
    slots.judged(A, 1)
    assert slots.doubted == {B}


def test_it_asks_at_a_bounded_rate_and_is_more_patient_after_silence() -> None:
    slots = SlotMap([A], longest=1.5)
    assert slots.is_due(0.0)
    slots.asked(0.0, answered=False)
    assert not slots.is_due(EVERY / 2)
    assert slots.is_due(EVERY)
    first = slots.within
    for _ in range(9):
        slots.asked(0.0, answered=False)
    assert slots.within == 1.5
    slots.asked(0.0, answered=True)
    assert slots.within < first


class Silent:
    """The pool of a node: the first one that is asked gives no answer."""

    def __init__(self) -> None:
        self.asked: list[float | None] = []

    async def over(self, load: Any, *, looked_at: bool, within: float | None) -> list[Any]:
        assert looked_at, "a command is not sent again"
        self.asked.append(within)
        if len(self.asked) == 1:
            raise server.TimeoutError("silent")
        return [b"1"] * len(load.data)


def test_what_any_node_does_alike_is_given_to_another_one_by_tasks_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards, pool = AsyncShards(AsyncEngine("redis+cluster://127.0.0.1:1")), Silent()
    monkeypatch.setattr(shards, "pool", lambda _: pool)
    shards.map.learn(A, WHOLE)
    assert asyncio.run(shards.command(("PUBLISH", "c", "m"))) == b"1"
    assert pool.asked == [NEAR, NEAR]
    assert len(shards.map.doubted) == 1
    pool.asked.clear()
    with pytest.raises(server.TimeoutError, match="silent"):
        asyncio.run(shards.command(("GET", "k")))
    assert pool.asked == [None]


def test_a_node_in_doubt_is_knocked_at_beside_what_is_brief() -> None:
    """A consumer of several queues waits for none of its knocks."""
    shards = Shards(Engine("redis+cluster://127.0.0.1:1"))
    knocks: list[Place] = []
    shards.knock = knocks.append  # type: ignore[method-assign]
    shards.map.learn(A, WHOLE)
    place = shards.map.owner(ack().queue.slot)
    assert place is not None
    assert shards.hopeless(SLOT) is None
    shards.map.doubt(place)
    for _ in range(9):
        assert "no answer" in str(shards.hopeless(SLOT))
    assert knocks == [place], "at a bounded rate"
    shards.map.judged(place, 1)
    assert shards.hopeless(SLOT) is None


def test_while_a_node_is_knocked_at_in_vain_the_map_is_asked_for_again() -> None:
    """To know that a node stands still takes over half a second; others are elected meanwhile."""
    shards, gate = Shards(Engine("redis+cluster://127.0.0.1:1")), threading.Event()
    looks, played = queue.SimpleQueue[None](), cast(Any, shards)
    played._look, played._slots = lambda: looks.put(None), lambda *_: gate.wait(5)
    for _ in range(2):
        shards.knock(A)
        assert looks.get(timeout=5) is None
        wait_until("it to be looked", lambda: not shards._knocking._by_place[None]._under_way)
    gate.set()


def test_while_a_task_knocks_at_a_node_in_vain_the_map_is_asked_for_again() -> None:
    async def knocks() -> int:
        shards, looks = AsyncShards(AsyncEngine("redis+cluster://127.0.0.1:1")), list[int]()

        async def look(_slot: int | None = None) -> None:
            looks.append(1)

        played: Any = shards
        played._look, played._slots = look, lambda *_: asyncio.sleep(5)
        for _ in range(2):
            shards.knock(A)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await shards.close()
        return len(looks)

    assert asyncio.run(knocks()) == 2


class Carrier:
    """A consumer's connections, over which a call may travel."""

    def __init__(self, reply: Any) -> None:
        self.reply = reply
        self.carried = 0

    def carry(self, calls: Any, _loads: Any) -> Any:
        if isinstance(self.reply, Exception):
            raise self.reply
        self.carried += len(calls)
        return self.reply

    def lengths(self, names: Any) -> Any:
        return {name: 7 for name in names if name == self.reply}


class Idle:
    """The pool of a node, that opens a connection unless it `idles`."""

    def __init__(self) -> None:
        self.idles = False
        self.opened = 0
        self.standing = SimpleNamespace(verified=True)

    def one(self, _call: Any, _within: float | None = None) -> Any:
        self.opened += 1
        return b"pool"

    def over(self, load: Any, **_: Any) -> Any:
        self.opened += 1
        return [b"pool"] * len(load.data)


def carriers(*carriers: Carrier) -> tuple[Any, Idle]:
    shards, pool = Shards(Engine("redis+cluster://127.0.0.1:1")), Idle()
    shards.map.learn(A, WHOLE)
    played: Any = shards
    played._pools.update(dict.fromkeys((A, B, C), pool))
    played._engine.carriers = set(carriers)
    return shards, pool


def test_a_call_travels_over_a_consumers_connection_where_it_would_open_one() -> None:
    carrier = Carrier([b"carried"])
    shards, pool = carriers(carrier)
    assert shards.one(ack()) == b"carried"
    assert shards.send([ack()]) == [b"carried"]
    assert (carrier.carried, pool.opened) == (2, 0)
    assert shards.send([ack(), ack()]) == [b"pool"] * 2
    pool.idles = True
    assert (shards.one(ack()), shards.send([ack()])) == (b"pool", [b"pool"])
    assert carrier.carried == 2


def test_a_call_opens_a_connection_where_no_consumer_carries_it_or_there_are_many() -> None:
    shards, _ = carriers(Carrier(None))
    assert (shards.one(ack()), shards.send([ack()])) == (b"pool", [b"pool"])
    many = [Carrier([b"carried"]) for _ in range(FEW)]
    assert carriers(*many)[0].one(ack()) == b"carried"
    assert carriers(*many, Carrier([b"carried"]))[0].one(ack()) == b"pool"


def test_of_a_node_that_does_not_answer_a_consumer_nothing_is_known() -> None:
    for how in ("one", "send"):
        shards, pool = carriers(Carrier(server.TimeoutError("silent")))
        with pytest.raises(server.TimeoutError, match="silent"):
            getattr(shards, how)(ack() if how == "one" else [ack()])
        assert not pool.standing.verified


def test_lists_are_counted_over_a_consumers_connection_and_the_others_elsewhere() -> None:
    shards, pool = carriers(Carrier("b"))
    assert shards.lengths(["a", "b"]) == [b"pool", 7]
    assert pool.opened == 1


def test_a_refusal_says_more_than_silence() -> None:
    slots, silent = SlotMap(NODES), server.ConnectionError("refused")
    wrong = server.AuthenticationError("WRONGPASS")
    assert slots.failed(B, wrong, slots.failed(A, silent, None)) is wrong
    assert slots.failed(C, silent, wrong) is wrong


@pytest.mark.parametrize(
    ("args", "key"),
    [
        (("GET", "k"), "k"),
        (("GET", b"k"), "k"),
        (("EVALSHA", "sha", 1, "k", "v"), "k"),
        (("EVALSHA", "sha", 0), None),
        (("PING",), None),
        (("TIME",), None),
        (("client unblock", 7), None),
        (("SCRIPT LOAD", "return 1"), None),
    ],
)
def test_where_a_command_goes(args: tuple[Any, ...], key: str | None) -> None:
    assert key_of(args) == key


def test_what_did_not_answer_is_named_once() -> None:
    lost = named(server.TimeoutError("Timeout reading from socket"), A)
    assert str(lost) == "a:1: Timeout reading from socket"
    assert named(lost, A) is lost
    unsent = named(Unsent(server.TimeoutError("late")), A)
    assert isinstance(unsent, Unsent)
    assert str(unsent.cause) == "a:1: late"


def test_one_node_of_a_cluster_says_so() -> None:
    error = translated(said("MOVED 7721 127.0.0.1:23401"))
    assert isinstance(error, ServerError)
    assert str(error) == (
        "this server is one node of a cluster: write redis+cluster://host:port, "
        "in Celery atomq-cluster://host:port"
    )
    error = translated(said("ERR This instance has cluster support disabled"))
    assert "no cluster: write redis://" in str(error)


# ── a cluster that is played ──────────────────────────────────────────────────────────────────


class Played:
    """Nodes that know who serves the slot, whom it moves to, and which scripts they have."""

    def __init__(self) -> None:
        self.owner, self.moves_to = A, None  # type: tuple[Place, Place | None]
        self.down: set[Place] = set()
        self.silent: set[Place] = set()
        self.scripts: dict[Place, set[str]] = {node: set() for node in NODES}
        self.done: list[Place] = []
        self.flights = 0

    def over(self, place: Place, data: list[bytes]) -> list[Any]:
        """What a node answers to packed commands. Raises if it does not."""
        if place in self.silent:
            raise server.TimeoutError("Timeout reading from socket")
        asking, replies = False, []
        for each in data:
            words = each.split(b"\r\n")[2::2]
            if words[0] == b"ASKING":
                asking = True
                replies.append("OK")
            elif words[0] == b"SCRIPT":
                self.scripts[place].add("loaded")
                replies.append("sha")
            else:
                replies.append(self._call(place, asking=asking))
                asking = False
        return replies

    def _call(self, place: Place, *, asking: bool) -> Any:
        if place in self.down:
            return said("CLUSTERDOWN The cluster is down")
        if place != self.owner and not (asking and place == self.moves_to):
            return said("MOVED {} {}:{}".format(SLOT, *self.owner))
        if place == self.owner and self.moves_to is not None:
            return said("ASK {} {}:{}".format(SLOT, *self.moves_to))
        if "loaded" not in self.scripts[place]:
            return said("NOSCRIPT No matching script.")
        self.done.append(place)
        return []


class Story:
    """Plays one call to its end; of the events one happens before each flight."""

    def __init__(self, played: Played, *given: Call[Any], retry: Retry | None = None) -> None:
        self.played, self.slots, self.now = played, SlotMap(NODES), 0.0
        self._calls, self._retry = given, retry or Retry(3, 1e9)
        self.repeated = False

    def run(self, events: list[Any]) -> Any:
        waiting = list(events)
        steps = calling(self._calls, self._retry)
        step: Any = next(steps)
        try:
            while True:
                if isinstance(step, Pause):
                    self.now += max(step.seconds, EVERY)
                    step = steps.send(None)
                    continue
                assert isinstance(step, Send)
                self.played.flights += 1
                assert self.played.flights < 100, "it goes round in circles"
                if waiting:
                    waiting.pop(0)(self.played)
                else:
                    self.played.silent.clear()
                    self.played.down.clear()
                try:
                    replies = self._send(step)
                except server.RedisError as error:
                    step = steps.throw(error)
                else:
                    self.repeated = any(call.repeated for call in step.calls)
                    step = steps.send(replies)
        except StopIteration as stop:
            return stop.value

    def _send(self, step: Send) -> list[Any]:
        replies: list[Any] = [None] * (len(step.loads) + len(step.calls))
        flights: dict[Place, Share] = {}
        for at, call in enumerate((*step.loads, *step.calls)):
            place = call.place or self._owner(call.queue.slot)
            if place is None:
                replies[at] = NoAnswer(unserved(call.queue.slot))
                continue
            flights.setdefault(place, Share(place)).say(call, at, load=at < len(step.loads))
        for place, flight in flights.items():
            try:
                heard = self.played.over(place, flight.data)
            except server.TimeoutError as error:
                self.slots.doubt(place)
                flight.failed(named(error, place), replies)
            else:
                flight.answered(heard, self.slots, replies)
        return no_answers(replies)

    def _owner(self, slot: int) -> Place | None:
        place = self.slots.owner(slot)
        if (place is None or place in self.slots.doubted) and self.slots.is_due(self.now):
            for asked in self.slots.to_ask():
                if asked not in self.played.silent:
                    self.slots.learn(asked, view({self.played.owner: (0, 16383)}))
                    self.slots.asked(self.now, answered=True)
                    break
        return self.slots.owner(slot)


def owned_by(place: Place) -> Any:
    def event(played: Played) -> None:
        played.owner, played.moves_to = place, None

    return event


def moving_to(place: Place) -> Any:
    def event(played: Played) -> None:
        played.moves_to = None if place == played.owner else place

    return event


def silent(place: Place) -> Any:
    return lambda played: played.silent.add(place)


def speaks(place: Place) -> Any:
    return lambda played: played.silent.discard(place)


def down(place: Place) -> Any:
    return lambda played: played.down.add(place)


def flushed(place: Place) -> Any:
    return lambda played: played.scripts[place].clear()


events = st.sampled_from(NODES).flatmap(
    lambda place: st.sampled_from([owned_by, moving_to, silent, speaks, down, flushed]).map(
        lambda event: event(place)
    )
)


@given(events=st.lists(events, max_size=8))
def test_whatever_happens_to_its_slot_a_call_is_carried_out_once(events: list[Any]) -> None:
    played = Played()
    Story(played, ack(), retry=Retry(20, 1e9)).run(events)
    assert len(played.done) == 1


def test_ask_is_followed_with_asking_and_the_script_loaded_where_it_leads() -> None:
    played = Played()
    played.moves_to = B
    story = Story(played, ack())
    story.run([])
    assert played.done == [B]
    assert story.slots.owner(SLOT) == A, "the slot is not there yet"
    assert played.scripts == {A: set(), B: {"loaded"}, C: set()}
    assert played.flights == 3  # to A, to B without and with the script
    assert not story.repeated


def test_a_user_who_may_not_load_the_script_there_is_told_so() -> None:
    played = Played()
    played.moves_to = B
    load = played.over

    def refusing(place: Place, data: list[bytes]) -> list[Any]:
        refused = said("NOPERM User u has no permissions to run the 'script|load' command")
        heard = iter(load(place, [sent for sent in data if b"LOAD" not in sent]))
        return [refused if b"LOAD" in sent else next(heard) for sent in data]

    played.over = refusing  # type: ignore[method-assign]
    with pytest.raises(AtomqError, match="atomq scripts load"):
        Story(played, ack()).run([])


def test_nodes_that_send_a_call_to_each_other_are_waited_for() -> None:
    class Circle(Played):
        def _call(self, place: Place, *, asking: bool) -> Any:
            return said("MOVED {} {}:{}".format(SLOT, *(B if place == A else A)))

    with pytest.raises(ServerUnavailable, match="do not agree"):
        Story(Circle(), ack(), retry=Retry(3, 0.0)).run([])


# ── several nodes at once ─────────────────────────────────────────────────────────────────────


def two() -> tuple[Call[Any], Call[Any]]:
    return ack(), calls.pause(QueueKeys("other", layout="cluster"))


def test_in_a_batch_what_a_node_did_not_answer_is_sent_again_alone() -> None:
    first, second = two()
    steps = calling((first, second), Retry(), single=False)
    next(steps)
    pause = steps.send([[], NoAnswer(server.TimeoutError("b:2: late"))])
    assert isinstance(pause, Pause)
    assert pause.call is not None
    assert pause.call.queue is second.queue
    again = steps.send(None)
    assert isinstance(again, Send)
    assert [call.repeated for call in again.calls] == [True]


def test_in_a_batch_the_trouble_of_one_node_stands_where_its_results_would() -> None:
    steps = calling(two(), Retry(attempts=0), single=False)
    next(steps)
    with pytest.raises(StopIteration) as stop:
        steps.send([[], NoAnswer(Unsent(server.ConnectionError("b:2: refused")))])
    done, failed = stop.value.value
    assert done == [calls.Verdict.DONE]
    assert isinstance(failed, ServerUnavailable)
    assert "b:2" in str(failed)
    steps = calling(two(), Retry(attempts=0), single=False)
    next(steps)
    with pytest.raises(ServerUnavailable):
        steps.throw(server.ConnectionError("all of them"))


def test_each_node_that_lacks_a_script_is_given_it() -> None:
    one, other = ack(), calls.ack(QueueKeys("other", layout="cluster"), ["r-1.0.1"])
    steps = calling((one, other), Retry(), single=False)
    next(steps)
    slots = SlotMap()
    unknown = [slots.judged(place, said("NOSCRIPT No matching script.")) for place in (A, B)]
    send = steps.send(unknown)
    assert isinstance(send, Send)
    assert [call.queue.name for call in send.loads] == ["q", "other"]
