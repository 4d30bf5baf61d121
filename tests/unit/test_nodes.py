"""What each node of a cluster is known to serve, is sent and has answered. Needs no server."""

from __future__ import annotations

import random
import ssl
import time
from types import SimpleNamespace
from typing import Any

import pytest
from redis import exceptions as server

from atomq import calls, cluster
from atomq.actions import NoAnswer, Pause
from atomq.calls import Outgoing
from atomq.cluster import (
    EVERY,
    KNOCK,
    WITHIN,
    Nodes,
    Share,
    SlotMap,
    check_all,
    key_of,
    named,
    no_answers,
    unserved,
)
from atomq.conversation import packed
from atomq.drive import drive
from atomq.durability import Confirmed, Durability
from atomq.errors import ServerUnavailable
from atomq.flight import SMALL
from atomq.ids import CallId
from atomq.keys import Place, QueueKeys, hash_slot
from atomq.outage import Outage, Standing
from atomq.outage_report import OutageReport
from atomq.retrying import Unsent

A, B, C = ("a", 1), ("b", 2), ("c", 3)
KEYS = QueueKeys("q", layout="cluster")
GONE = server.ConnectionError("gone")


def whole(owner: Place) -> Any:
    return [[0, 16383, [owner[0].encode(), owner[1], b"id"]]]


def slots_of(owner: Place, longest: float | None = None) -> SlotMap:
    slots = SlotMap([owner], longest)
    slots.learn(owner, whole(owner))
    return slots


# ── the map ───────────────────────────────────────────────────────────────────────────────────


def test_which_node_serves_a_key() -> None:
    slots = slots_of(A)
    assert (slots.serves(A, "k"), slots.serves(B, "k")) == (True, False)
    assert slots.serves(None, "k"), "a connection that leads to no node leads to the only one"


def test_a_key_is_sound_while_its_node_is_known_and_not_in_doubt() -> None:
    slots = SlotMap([A])
    assert not slots.is_sound("k")
    slots.check("k")
    slots.learn(A, whole(A))
    assert slots.is_sound("k")
    slots.check("k")
    slots.doubt(A)
    assert not slots.is_sound("k")
    with pytest.raises(server.ConnectionError, match="a:1 gave no answer"):
        slots.check("k")


def test_a_whole_map_replaces_the_one_before_and_more_adds_to_it() -> None:
    slots = slots_of(A)
    slots.learn(B, whole(B), more=True)
    assert (slots.nodes, slots.primaries) == ((A, B), (A, B))
    slots.learn(C, whole(C))
    assert (slots.nodes, slots.primaries) == ((C,), (C,))


def test_a_silent_cluster_is_given_twice_as_long_each_time_and_no_more_than_may_be() -> None:
    slots = SlotMap([A])
    for seconds in (2 * WITHIN, 4 * WITHIN, 8 * WITHIN, 16 * WITHIN, 5.0, 5.0):
        slots.asked(0.0, answered=False)
        assert slots.within == pytest.approx(seconds)


def test_a_command_of_one_word_leads_anywhere() -> None:
    assert key_of(("DBSIZE",)) is None
    assert key_of(("EVALSHA", "sha", 1)) is None


# ── the nodes ─────────────────────────────────────────────────────────────────────────────────


class Knocking(Nodes[Any]):
    """Nodes whose pools are no more than what is known of them; knocks are counted."""

    def __init__(self, slots: SlotMap | None = None, **seconds: float | None) -> None:
        self.made: list[Place] = []
        self.knocks: list[Place] = []
        given = {"socket_timeout": 1.0, "socket_connect_timeout": 2.0, **seconds}
        engine: Any = SimpleNamespace(
            slots=slots,
            outage=Outage("the cluster"),
            options=SimpleNamespace(**given),
            address=SimpleNamespace(nodes=[A]),
        )
        super().__init__(engine, self._pool)

    def _pool(self, place: Place) -> Any:
        self.made.append(place)
        return SimpleNamespace(standing=Standing(Outage(f"{place}", place)), place=place)

    def knock(self, place: Place) -> None:
        self.knocks.append(place)


@pytest.mark.parametrize(
    ("timeouts", "longest"), [((1.0, 2.0), 2.0), ((None, 0.7), 0.7), ((None, None), 5.0)]
)
def test_a_node_has_as_long_as_a_connection_may_take(
    timeouts: tuple[float | None, float | None], longest: float
) -> None:
    nodes = Knocking(socket_timeout=timeouts[0], socket_connect_timeout=timeouts[1])
    for _ in range(9):
        nodes.map.asked(0.0, answered=False)
    assert nodes.map.within == longest


def test_a_pool_is_made_once_a_node_and_forgotten_with_it() -> None:
    nodes = Knocking()
    one, other = nodes.pool(A), nodes.pool(B)
    assert nodes.pool(A) is one
    assert nodes.made == [A, B]
    assert nodes.gone() == [], "nothing is known yet"
    nodes.map.learn(A, whole(A))
    assert nodes.gone() == [other]
    assert nodes.gone() == []
    assert nodes.pools() == [one]


def test_what_is_known_of_a_call_is_known_of_its_node() -> None:
    nodes, call = Knocking(), calls.ack(KEYS, ["r1"])
    unknown = nodes.standing_of(call)
    assert nodes.everywhere() == [unknown]
    nodes.map.learn(A, whole(A))
    assert nodes.standing_of(call) is nodes.pool(A).standing
    assert nodes.standing_of(call.at(B)) is nodes.pool(B).standing, "where ASK sent it"
    for standing in nodes.everywhere():
        standing.verified = True
        standing.verifying = object()  # type: ignore[assignment]
    nodes.begin()
    assert [(s.verified, s.verifying) for s in nodes.everywhere()] == [(False, None)] * 3


def test_the_trouble_of_a_command_is_that_of_its_node() -> None:
    """What another node does, or any, says nothing about it."""
    nodes = Knocking()
    key = ("GET", "k")
    cluster = nodes.outage_of(key)
    nodes.map.learn(A, whole(A))
    assert nodes.outage_of(key) is nodes.pool(A).standing.outage is not cluster
    assert nodes.outage_of(("PUBLISH", "c", "m")) is nodes.outage_of(("PING",)) is cluster


def halves(one: Place, other: Place) -> Any:
    """The first serves the slot of `KEYS`, the second all slots before it."""
    nodes = [[place[0].encode(), place[1], b"id"] for place in (one, other)]
    return [[KEYS.slot, 16383, nodes[0]], [0, KEYS.slot - 1, nodes[1]]]


def missing(place: Place, text: str = "no answer") -> Exception:
    """What a node that is asked answers, if it does not: from here on it is in doubt."""
    return named(server.TimeoutError(text), place)


@pytest.mark.parametrize("text", ["no answer", "a:1: no answer"])
def test_the_node_that_was_asked_is_missed_though_another_one_serves_the_slot_by_now(
    caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """It serves other slots still. That the other one answers does not mean that it is back."""
    nodes, call = Knocking(), calls.ack(KEYS, ["r1"])
    nodes.map.learn(A, halves(A, B))
    report = OutageReport(nodes, nodes.standing_of(call))
    nodes.map.doubt(A)
    nodes.map.learn(B, halves(B, A))
    report.pauses(Pause(1.0, 1.0, missing(A, text), call))
    assert caplog.messages == [f"waiting for {A}: a:1: no answer"]
    report.pauses(Pause(1.0, 1.0, server.ClusterDownError("down"), call))
    assert caplog.messages[1:] == [f"waiting for {B}: down"]
    report.ended([])
    assert caplog.messages[2:] == [f"{B} is back after 1.0 s"]
    nodes.map.judged(A, b"OK")
    report.ended([])
    assert caplog.messages[3:] == [f"{A} is back after 1.0 s"]


def test_a_node_whose_slots_others_serve_is_missed_by_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Though some calls wait for its answer still, each for as long as it may take."""
    nodes, call = Knocking(), calls.ack(KEYS, ["r1"])
    nodes.map.learn(A, whole(A))
    one, other = (OutageReport(nodes, nodes.standing_of(call)) for _ in range(2))
    nodes.map.doubt(A)
    nodes.map.learn(B, whole(B))
    one.pauses(Pause(1.0, 1.0, missing(A), call))
    error = ServerUnavailable("given up")
    error.__cause__ = missing(A)
    other.gave_up(error)
    one.ended([])
    assert caplog.messages == []
    nodes.standing_at(A).outage.away(missing(A), 2.0)
    (pool,) = nodes.gone()
    assert pool.place == A, "nothing is kept of it"
    one.ended([])
    text = f"{A} serves no slots any more: it was waited for for 2.0 s"
    assert caplog.messages == [f"waiting for {A}: a:1: no answer", text]


def test_a_slot_that_moves_is_waited_for_while_its_node_is_well(
    caplog: pytest.LogCaptureFixture,
) -> None:
    nodes, call = Knocking(), calls.ack(KEYS, ["r1"])
    nodes.map.learn(A, whole(A))
    report = OutageReport(nodes, nodes.standing_of(call))
    report.pauses(Pause(1.0, 2.0, server.TryAgainError("half of it"), call))
    assert caplog.messages == [f"waiting for slot {KEYS.slot}: half of it"]
    report.ended([1])
    assert caplog.messages[1:] == [f"slot {KEYS.slot} is back after 2.0 s"]


def test_that_the_slots_of_a_node_in_trouble_have_another_one_is_said_when_it_is_heard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes, call = Knocking(), calls.ack(KEYS, ["r1"])
    monkeypatch.setattr(cluster, "outage_of_node", lambda place: nodes.pool(place).standing.outage)
    nodes.map.learn(A, halves(A, B))
    report = OutageReport(nodes, nodes.standing_of(call))
    nodes.map.doubt(A)
    report.pauses(Pause(1.0, 1.0, missing(A), call))
    for said in (halves(A, B), whole(B)):
        assert caplog.messages == [f"waiting for {A}: a:1: no answer"]
        drive(nodes.asking(KEYS.slot), lambda _, said=said: said)
    text = f"{A} serves no slots any more: it was waited for for 1.0 s"
    assert caplog.messages[1:] == [text]


@pytest.mark.parametrize("how", ["one", "batch"])
def test_what_gives_up_at_once_misses_the_node_that_was_asked(
    caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """And no other one, that the first call of a batch is for, say."""
    nodes = Knocking()
    nodes.map.learn(A, halves(A, B))
    standing = nodes.standing_at(A)
    error = ServerUnavailable("given up")
    error.__cause__ = missing(B)
    for pool in (nodes.pool(A), nodes.pool(B)):
        pool.standing.verified = True
    nodes.pool(B).standing.outage.away(missing(B), 2.0)
    report = OutageReport(nodes, standing)
    if how == "one":
        report.gave_up(error)
    else:
        report.ended([1, error, 2])
    assert (standing.verified, nodes.standing_at(B).verified) == (True, False)
    assert caplog.messages == [f"waiting for {B}: b:2: no answer"]


def test_a_node_in_doubt_is_knocked_at_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    nodes = Knocking(slots_of(A))
    nodes.map.doubt(A)
    for now[0], knocks in ((100.0, 1), (100.1, 1), (100.0 + KNOCK, 2), (100.3, 2), (100.9, 3)):
        assert nodes.hopeless(KEYS.slot) is not None
        assert len(nodes.knocks) == knocks


def test_lists_are_counted_at_the_nodes_that_are_there() -> None:
    nodes = Knocking()
    assert nodes.lengths_of(["k"]) == []
    nodes.map.learn(A, [[0, 9, [b"a", 1]], [10, 16383, [b"b", 2]]])
    keys = [f"k{n}" for n in range(4)]
    assert {nodes.map.owner(hash_slot(key)) for key in keys} == {B}
    (share,) = nodes.lengths_of(keys)
    assert share.place == B
    assert share.data == [packed(("LLEN", key)) for key in keys]
    replies: list[Any] = [None] * 4
    share.answered([3, 1, 4, 1], nodes.map, replies)
    assert replies == [3, 1, 4, 1]
    nodes.map.doubt(B)
    assert nodes.lengths_of(keys) == []


def test_waits_are_ended_by_one_share_a_node() -> None:
    one, other = Nodes.unblocking([(A, 7), (B, 8), (A, 9)])
    assert (one.place, other.place) == (A, B)
    assert one.data == [packed(("CLIENT", "UNBLOCK", n, "ERROR")) for n in (7, 9)]
    assert one.large, "it travels alone"
    replies: list[Any] = [None] * 3
    one.answered([1, 0], slots_of(A), replies)
    other.answered([1], slots_of(A), replies)
    assert replies == [1, 1, 0]


# ── what one node is sent ─────────────────────────────────────────────────────────────────────


def test_the_reply_to_asking_is_no_reply_of_another() -> None:
    slots, replies = slots_of(A), ["x", "y", "before"]
    share = Share(A)
    share.say_packed(b"one", 1, asking=True)
    share.say_packed(b"two", 0)
    assert share.data == [packed(("ASKING",)), b"one", b"two"]
    share.answered(["OK", 1, 0], slots, replies)
    assert replies == [0, 1, "before"]
    share.failed(server.TimeoutError("late"), replies)
    assert isinstance(replies[0], NoAnswer)
    assert isinstance(replies[1], NoAnswer)
    assert replies[2] == "before"


@pytest.mark.parametrize("asks", [True, False])
def test_what_confirms_goes_behind_what_asks_for_it_and_is_no_reply(asks: bool) -> None:
    durability = Durability.of("replicas=2", 1.5) if asks else None
    call = calls.publish(KEYS, [Outgoing("{}", "i")], call_id=CallId("p", 1), durability=durability)
    share = Share(A)
    share.say(call, 0, load=False)
    assert share.large == asks, "none is to wait behind it, as it waits itself"
    share.say(call, 1, load=True)
    confirms = [packed(command) for command in durability.commands()] if durability else []
    assert share.data[2:] == confirms
    replies: list[Any] = [None, None]
    share.answered([7, b"sha", *(2 for _ in confirms)], slots_of(A), replies)
    assert replies == [Confirmed(7, [2]) if asks else 7, b"sha"]


def test_a_share_is_large_by_what_it_says_or_by_its_bytes() -> None:
    assert Share(A, large=True).large
    share = Share(A)
    share.say_packed(b"x" * SMALL, 0)
    assert not share.large
    share.say_packed(b"x", 1)
    assert share.large


def test_a_share_is_large_with_a_call_whose_answer_may_be() -> None:
    call, share = calls.ack(KEYS, ["r-1.0.1"]), Share(A)
    call.large = True
    share.say(call, 0, load=False)
    assert share.large


# ── what came instead of a reply ──────────────────────────────────────────────────────────────


def test_what_came_instead_of_a_reply_is_raised() -> None:
    check_all([1, None, b""])
    with pytest.raises(server.TimeoutError, match="late"):
        check_all([1, NoAnswer(server.TimeoutError("late"))])
    with pytest.raises(server.ResponseError, match="what"):
        check_all([server.ResponseError("what?"), 1])


def test_if_no_node_answered_the_last_error_is_raised() -> None:
    first, last = NoAnswer(server.TimeoutError("first")), NoAnswer(server.TimeoutError("last"))
    assert no_answers([first, 1]) == [first, 1]
    with pytest.raises(server.TimeoutError, match="last"):
        no_answers([first, last])


@pytest.mark.parametrize(("slot", "words"), [(None, "serves a slot"), (0, "serves slot 0")])
def test_a_slot_that_no_node_serves_is_named(slot: int | None, words: str) -> None:
    error = unserved(slot)
    assert isinstance(error, Unsent)
    assert str(error.cause).endswith(words)


def test_nodes_are_asked_as_soon_as_they_may_be() -> None:
    slots = SlotMap([A])
    slots.asked(100.0, answered=True)
    assert slots.is_due(100.0 + EVERY)
    assert not slots.is_due(100.0 + 0.9 * EVERY)
    assert slots.is_due(100.5), "twice a second at least"


def test_without_a_slot_any_node_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    slots = SlotMap()
    assert slots.owner(None) is None
    slots.learn(A, [[0, 9, [b"a", 1]], [10, 16383, [b"b", 2]]])
    monkeypatch.setattr(random, "choice", sorted)
    assert slots.owner(None) == [A, B]
    slots.doubt(A)
    assert slots.owner(None) == [B]
    slots.doubt(B)
    assert slots.owner(None) == [A, B]


# ── the map is asked for, and lists are waited for ────────────────────────────────────────────


def part(owner: Place, first: int, last: int) -> Any:
    return [[first, last, [owner[0].encode(), owner[1], b"id"]]]


def ask(slots: SlotMap, slot: int | None, says: dict[Place, Any]) -> list[Place]:
    """Which nodes are asked, that say this to CLUSTER SLOTS."""
    asked: list[Place] = []

    def say(place: Place) -> Any:
        asked.append(place)
        if isinstance(said := says[place], Exception):
            raise said
        return said

    drive(Knocking(slots).asking(slot), say)
    return asked


def test_nodes_are_asked_until_one_knows_the_owner() -> None:
    slots = SlotMap([A, B, C], None)
    asked = ask(slots, 9, {A: GONE, B: part(B, 0, 5), C: part(C, 6, 16383)})
    assert (asked[-1], slots.owner(9)) == (C, C)
    slots = SlotMap([A, B], None)
    slots.to_ask = lambda: [A, B]  # type: ignore[method-assign]
    assert ask(slots, 9, {A: part(A, 0, 9), B: GONE}) == [A], "it is enough"
    slots = SlotMap([A, B, C], None)
    slots.to_ask = lambda: [A, B, C]  # type: ignore[method-assign]
    assert ask(slots, 9, {A: part(A, 0, 5), B: GONE, C: part(C, 6, 9)}) == [A, B, C]
    assert (slots.owner(0), slots.owner(9)) == (A, C), "what the second says adds to it"
    slots.to_ask = lambda: [B, A]  # type: ignore[method-assign]
    assert ask(slots, 9, {B: GONE, A: part(A, 0, 9)}) == [B, A]
    assert slots.owner(9) == A, "what the first says that answers replaces what was known"


def test_what_kept_all_nodes_away_is_said_until_one_answers() -> None:
    """Of a call that is tried while the nodes are not asked again."""
    slots = SlotMap([A], None)
    nodes = Knocking(slots)
    says: dict[str, Any] = {"now": GONE}

    def say(_: Place) -> Any:
        if isinstance(said := says["now"], Exception):
            raise said
        return said

    def why() -> str:
        error = nodes.unserved(9)
        assert isinstance(error, Unsent)
        return str(error)

    assert why() == "no node of the cluster serves slot 9"
    with pytest.raises(Unsent):
        drive(nodes.asking(9), say)
    error = nodes.unserved(9)
    assert isinstance(error, Unsent)
    assert (str(error.cause), error.cause.__traceback__) == (str(GONE), None)
    says["now"] = part(A, 0, 5)
    drive(nodes.asking(9), say)
    assert why() == "no node of the cluster serves slot 9"
    says["now"] = GONE
    drive(nodes.asking(9), say)
    assert why() == "no node of the cluster serves slot 9", "there is a map"
    refuses = server.ConnectionError("untrusted")
    refuses.__cause__ = ssl.SSLCertVerificationError()
    nodes, says["now"] = Knocking(SlotMap([A], None)), refuses
    with pytest.raises(server.ConnectionError, match="untrusted"):
        drive(nodes.asking(9), say)
    error = nodes.unserved(9)
    assert not isinstance(error, Unsent), "trying again does not help"
    assert (str(error), error.__cause__) == ("untrusted", refuses.__cause__)


def test_it_is_raised_that_none_answers_where_there_is_no_map() -> None:
    slots = SlotMap([A, B], None)
    with pytest.raises(Unsent, match="gone"):
        ask(slots, 9, {A: GONE, B: GONE})
    assert slots.within == 2 * WITHIN
    ask(slots, 9, {A: GONE, B: part(B, 0, 5)})
    assert slots.within == WITHIN
    ask(slots, 9, {A: GONE, B: GONE})
    assert slots.owner(0) == B, "the map of before will do"
    slots = SlotMap([A], None)
    slots.to_ask = list  # type: ignore[method-assign]
    assert ask(slots, 9, {}) == []
    ask(SlotMap([A], None), 9, {A: []})


def opened(keys: list[str], gone: set[str], doubted: set[str] | None = None) -> Any:
    """Of which lists there is a connection, and which were tried; each is of a node of its own."""
    nodes = Knocking()
    tried: list[str] = []

    def check(key: str) -> None:
        if key in (doubted or ()):
            raise server.ConnectionError(f"{key} is in doubt")

    def connect(some: list[str]) -> str:
        (key,) = some
        tried.append(key)
        if key in gone:
            raise server.ConnectionError(f"{key} is gone")
        return f"to {key}"

    nodes._engine = SimpleNamespace(may_watch=False)  # type: ignore[assignment]
    nodes.map.check = check  # type: ignore[method-assign,assignment]
    found = drive(nodes.opening(keys), connect)
    assert found == [(f"to {key}", [key]) for _, (key,) in found]
    return [key for _, (key,) in found], tried


def test_a_list_whose_node_cannot_be_reached_is_not_waited_for() -> None:
    assert opened(["a", "b"], set()) == (["a", "b"], ["a", "b"])
    assert opened(["a", "b"], {"a"}) == (["b"], ["a", "b"])
    assert opened(["a", "b"], set(), {"a"}) == (["b"], ["b"]), "it would take time"
    assert opened(["a"], set(), {"a"}) == (["a"], ["a"]), "there is no other"
    with pytest.raises(server.ConnectionError, match="b is gone"):
        opened(["a", "b"], {"a", "b"})
    assert opened([], set()) == ([], [])
