"""Which node of a cluster serves which slot, without I/O: the slot map.

The map is a guess that answers correct. MOVED corrects one slot. A slot without an owner, and one
whose owner is in doubt (it gave no answer, or says that the cluster is down), make it ask again:
any node that lives, those in doubt last, and no more often than `EVERY` seconds. What is sent to
other slots asks nothing and waits for nothing. `shards.py` and `shards_aio.py` drive it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from redis import exceptions as server

from atomq.actions import Elsewhere, NoAnswer, NotLoaded
from atomq.conversation import packed, unblocking
from atomq.flight import SMALL, Behind
from atomq.keys import SLOTS, Place, hash_slot
from atomq.outage import Outage, Standing, outage_of_node
from atomq.translating import SERVER_ERRORS, Unsent, connecting

if TYPE_CHECKING:
    from atomq.calls import Call
    from atomq.engine_base import EngineBase

EVERY = 0.25  # seconds, at least, between two times that the nodes are asked
WITHIN = 0.3  # seconds for a node to answer the first time, its handshake too; then twice as many

FEW = 4  # lists of one node, at most, for which a consumer waits over a connection each
KNOCK = 0.25  # seconds, at least, between two looks at a node in doubt, beside what is sent
ASKING = packed(("ASKING",))
# Commands of which the first word that follows is no key.
KEYLESS = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "ECHO", "FLUSHALL", "HELLO", "INFO", "KEYS"}
    | {"LATENCY", "PING", "PUBLISH", "SCAN", "SCRIPT", "SELECT", "SLOWLOG", "WAIT", "WAITAOF"}
)

ANYWHERE = frozenset({"PING", "PUBLISH", "TIME"})  # what any node does alike
NEAR = 0.4  # seconds in which one has to do that; then another one is asked

# By the nodes of a URL: those that the last answer named. An engine that is made when the nodes of
# its URL have left begins with what others of its process know; so does one of a forked child.
_heard_of: dict[tuple[Place, ...], tuple[Place, ...]] = {}

# A script has emptied a key of a slot that moves, and came back to it: it ended in its middle.
_HALFWAY = (
    "access a non local key in a cluster node",
    "accessed during rehashing of the slot",  # Redis 8, where other keys of the command are there
)

_REFUSALS = (server.AuthenticationError, server.ResponseError)


class SlotMap:
    """The owner of each slot, as far as it is known. Begins knowing none.

    `seeds` are nodes to be asked at first, `longest` how many seconds one may take to answer.
    Several threads may use it: each step replaces a value as a whole.
    """

    def __init__(self, seeds: Sequence[Place] = (), longest: float | None = None) -> None:
        self.primaries: tuple[Place, ...] = ()
        """The nodes that serve slots."""
        self.nodes: tuple[Place, ...] = ()
        """All nodes, replicas too."""
        self.doubted: set[Place] = set()
        """Nodes that gave no answer, or say that the cluster is down."""
        self.within = WITHIN
        """Seconds for one node to answer."""
        self._seeds = tuple((host, port) for host, port in seeds)
        self._longest = 5.0 if longest is None else longest
        self._owners: list[Place | None] = [None] * SLOTS
        self._asked_at = float("-inf")  # monotonic

    def serves(self, node: Place | None, key: str) -> bool:
        """Whether that node serves a key, as far as is known."""
        return node is None or self._owners[hash_slot(key)] == node

    def owner(self, slot: int | None) -> Place | None:
        """The node that serves a slot; None: no node is known to.

        Without a slot any node that serves some will do: one by chance, and none in doubt if there
        are others.
        """
        if slot is not None:
            return self._owners[slot]
        sound = [place for place in self.primaries if place not in self.doubted]
        return random.choice(sound or self.primaries) if self.primaries else None

    def check(self, key: str) -> None:
        """Raise redis-py's `ConnectionError` if the node that serves a key is in doubt."""
        place = self._owners[hash_slot(key)]
        if place is not None and place in self.doubted:
            raise server.ConnectionError("{}:{} gave no answer a moment ago".format(*place))

    def is_sound(self, key: str) -> bool:
        """Whether a node is known to serve a key, and is not in doubt."""
        place = self._owners[hash_slot(key)]
        return place is not None and place not in self.doubted

    @property
    def is_any_sound(self) -> bool:
        """Whether a node that serves slots is not in doubt."""
        return any(place not in self.doubted for place in self.primaries)

    # ── what answers tell ─────────────────────────────────────────────────────────────────────

    def judged(self, place: Place, reply: Any) -> Any:
        """What the reply of a node means to `retrying.py`. The map learns from it."""
        if not isinstance(reply, Exception):
            self.doubted.discard(place)
        elif isinstance(reply, server.MovedError):
            self._owners[reply.slot_id] = _place(reply, place)
            return Elsewhere(str(reply))
        elif isinstance(reply, server.AskError):
            return Elsewhere(str(reply), _place(reply, place))
        elif isinstance(reply, server.NoScriptError):
            return NotLoaded(place)
        elif isinstance(reply, server.ClusterDownError | server.MasterDownError):
            self.doubt(place)
        elif any(text in str(reply) for text in _HALFWAY):
            return NoAnswer(server.ConnectionError(str(reply)))
        return reply

    def doubt(self, place: Place) -> None:
        """This node gave no answer, or cannot serve: another one may serve what it did."""
        self.doubted.add(place)

    # ── asking the nodes ──────────────────────────────────────────────────────────────────────

    def is_due(self, now: float) -> bool:
        """Whether the nodes may be asked again."""
        return now - self._asked_at >= EVERY

    def to_ask(self) -> list[Place]:
        """The nodes, in the order in which to ask them."""
        known = list(self.nodes)
        random.shuffle(known)
        every = dict.fromkeys((*known, *self._seeds, *_heard_of.get(self._seeds, ())))
        return sorted(every, key=self.doubted.__contains__)

    def learn(self, place: Place, reply: Any, *, more: bool = False) -> None:
        """Take over what a node answered to CLUSTER SLOTS: the whole map, or what it knows `more`.

        A node that has just joined, or that the others have forgotten, does not know all slots.
        """
        owners: list[Place | None] = self._owners.copy() if more else [None] * SLOTS
        primaries = dict.fromkeys(self.primaries if more else ())
        nodes = dict.fromkeys(self.nodes if more else ())
        for first, last, *served in reply:
            places = [_listed(one, place) for one in served]
            nodes.update(dict.fromkeys(found for found in places if found is not None))
            owner = places[0] if places else None
            if owner is not None:
                primaries[owner] = None
                for slot in range(int(first), int(last) + 1):
                    owners[slot] = owners[slot] or owner
        self.primaries, self.nodes, self._owners = tuple(primaries), tuple(nodes), owners
        _heard_of[self._seeds] = self.nodes

    def failed(self, place: Place, error: Exception, before: Exception | None) -> Exception:
        """A node did not tell. What to raise if no other does: that it refuses us says most."""
        self.doubt(place)
        return before if isinstance(before, _REFUSALS) else error

    def asked(self, now: float, *, answered: bool) -> None:
        """The nodes were asked; whether one answered. If none did, it may take longer next time."""
        self._asked_at = now
        self.within = WITHIN if answered else min(2 * self.within, self._longest)


def _place(moved: Any, said_by: Place) -> Place:
    # An empty host is that of the node which says so.
    host, port = moved.node_addr
    return (str(host) or said_by[0], int(port))


def _listed(node: Sequence[Any], said_by: Place) -> Place | None:
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return None if host == "?" else (host or said_by[0], int(node[1]))


def key_of(args: Sequence[Any]) -> str | None:
    """The key that decides where a command goes; None: any node may carry it out."""
    words = [*str(args[0]).upper().split(), *args[1:]]
    if words[0] in KEYLESS:
        return None
    at = 3 if words[0].startswith(("EVAL", "FCALL")) else 1
    if len(words) <= at:
        return None
    key = words[at]
    return key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else str(key)


# ── what both drivers share ───────────────────────────────────────────────────────────────────


class _HasStanding(Protocol):
    standing: Standing


P = TypeVar("P", bound=_HasStanding)
C = TypeVar("C")


class _Pools(dict[Place, P]):
    """The pools of nodes; one that is asked for, and is not there, is made."""

    def __init__(self, make: Callable[[Place], P]) -> None:
        self._make = make

    def __missing__(self, place: Place) -> P:
        return self.setdefault(place, self._make(place))


class Nodes(Generic[P]):
    """The map of an engine's cluster, and a pool of connections for each node that was needed."""

    def __init__(self, engine: EngineBase, make: Callable[[Place], P]) -> None:
        seconds = (engine.options.socket_timeout, engine.options.socket_connect_timeout)
        longest = max((s for s in seconds if s), default=None)
        self.map = engine.slots or SlotMap(engine.address.nodes, longest)
        self._engine = engine
        self._pools = _Pools(make)
        self._unknown = Standing(engine.outage)
        self._knocked: dict[Place, float] = {}
        self._unreached: Exception | None = None
        engine.slots = self.map

    def pool(self, place: Place) -> P:
        """The pool of a node."""
        return self._pools[place]

    def pools(self) -> list[P]:
        """All that there are."""
        return list(self._pools.values())

    def gone(self) -> list[P]:
        """The pools of nodes that belong to the cluster no more. They are forgotten here."""
        here = {*self.map.nodes, *self.map.primaries}
        left = [place for place in list(self._pools) if here and place not in here]
        return [pool for place in left if (pool := self._pools.pop(place, None)) is not None]

    def asking(self, slot: int | None) -> Generator[Place, Any, None]:
        """Ask the nodes for the map, until one knows the owner of the slot. See `drive`.

        Yields a node, and is sent what it says to CLUSTER SLOTS. Raises what the last one said if
        none answered, and there is no map.
        """
        answered, trouble, before = False, None, self.map.primaries
        for place in self.map.to_ask():
            try:
                reply = yield place
            except SERVER_ERRORS as error:
                trouble = self.map.failed(place, error, trouble)
                continue
            self.map.learn(place, reply, more=answered)
            answered = True
            if self.map.owner(slot) is not None:
                break
        self.map.asked(time.monotonic(), answered=answered)
        for place in {*before}.difference(self.map.primaries):
            outage_of_node(place).left()
        self._unreached = None
        if trouble is not None and not (answered or self.map.primaries):
            self._unreached = _again(trouble)
            raise self.unserved(slot) from self._unreached

    def unserved(self, slot: int | None) -> Exception:
        """What to raise where no node is known to serve a slot.

        If none could be reached, why: the nodes are asked less often than calls are tried.
        """
        if self._unreached is None or self.map.primaries:
            return unserved(slot)
        return connecting(_again(self._unreached))

    def opening(self, keys: Sequence[str]) -> Generator[list[str], C, list[tuple[C, list[str]]]]:
        """One connection a list: BLPOP takes keys of one slot. See `drive`.

        More than `FEW` of one node have one connection together: see `watched.py`. Yields the lists
        of one connection, and is sent that. Those that cannot be had are left out: of several,
        those to a node in doubt are not tried. Raises if none can be had.
        """
        found: list[tuple[C, list[str]]] = []
        trouble: Exception | None = None
        for some in self._together(keys) if self._engine.may_watch else [[key] for key in keys]:
            try:
                if len(keys) > 1:
                    self.map.check(some[0])
                connection = yield some
                found.append((connection, some))
            except SERVER_ERRORS as error:
                trouble = error
        if trouble is not None and not found:
            raise trouble
        return found

    def _together(self, keys: Sequence[str]) -> list[list[str]]:
        by_node: dict[Place | None, list[str]] = {}
        for key in keys:
            by_node.setdefault(self.map.owner(hash_slot(key)), []).append(key)
        found: list[list[str]] = []
        for place, some in by_node.items():
            found += [some] if place is not None and len(some) > FEW else [[key] for key in some]
        return found

    def standing_of(self, call: Call[Any]) -> Standing:
        """What is known of the node that serves a call; while none is known, of the cluster."""
        place = call.place or self.map.owner(call.queue.slot)
        return self._unknown if place is None else self._pools[place].standing

    def standing_at(self, place: Place) -> Standing:
        """What is known of a node."""
        return self._pools[place].standing

    def outage_of(self, args: Sequence[Any]) -> Outage:
        """The outage of the node that serves a command; of the cluster, where any node will do."""
        key = key_of(args)
        place = None if key is None else self.map.owner(hash_slot(key))
        return (self._unknown if place is None else self.pool(place).standing).outage

    def in_doubt(self, outage: Outage) -> bool:
        """Whether the node with this outage gave no answer the last time."""
        return outage.place in self.map.doubted

    def has_left(self, outage: Outage) -> bool:
        """Whether other nodes are known to serve what the node with this outage did."""
        place, primaries = outage.place, self.map.primaries
        return place is not None and bool(primaries) and place not in primaries

    def hopeless(self, slot: int | None) -> Exception | None:
        """Why a brief call is not worth a try now: the node of its slot is in doubt.

        It costs its caller no time then. Whether the node answers again is found out meanwhile,
        beside what others do: see `knock`.
        """
        if not self.map.doubted:
            return None
        place, now = self.map.owner(slot), time.monotonic()
        if place is None or place not in self.map.doubted:
            return None
        if now - self._knocked.get(place, float("-inf")) >= KNOCK:
            self._knocked[place] = now
            self.knock(place)
        return server.ConnectionError("{}:{} gave no answer a moment ago".format(*place))

    @staticmethod
    def unblocking(lines: Sequence[tuple[Place | None, int]]) -> list[Share]:
        """What ends the waits of these connections: the node and the number of each."""
        shares: dict[Place, Share] = {}
        for at, (place, client_id) in enumerate(lines):
            assert place is not None
            data = packed(unblocking(client_id))
            shares.setdefault(place, Share(place, large=True)).say_packed(data, at)
        return list(shares.values())

    def lengths_of(self, keys: Sequence[str]) -> list[Share]:
        """What asks for the length of each list, of nodes that are not in doubt."""
        shares: dict[Place, Share] = {}
        for at, key in enumerate(keys):
            place = self.map.owner(hash_slot(key))
            if place is not None and place not in self.map.doubted:
                shares.setdefault(place, Share(place)).say_packed(packed(("LLEN", key)), at)
        return list(shares.values())

    def knock(self, place: Place) -> None:
        """Begin to find out whether this node answers again, or another one serves its slots.

        Until it answers it stays in doubt.
        """
        raise NotImplementedError

    def everywhere(self) -> list[Standing]:
        """What is known of each node."""
        return [self._unknown, *(pool.standing for pool in self.pools())]

    def begin(self) -> None:
        """Begin anew, in a child process."""
        for standing in self.everywhere():
            standing.verified, standing.verifying = False, None


class Share:
    """What is sent to one node in one go, and which reply each command is to give."""

    def __init__(self, place: Place, *, large: bool = False) -> None:
        self.place = place
        self._large = large
        self._data: list[bytes] = []
        self._at: list[int] = []  # -1: a reply that no caller wants
        self._behind = Behind()
        self._durable: dict[int, Call[Any]] = {}

    @property
    def data(self) -> list[bytes]:
        """The commands, packed; behind them what confirms those that ask for it."""
        return self._data + self._behind.data() if self._durable else self._data

    @property
    def patience(self) -> float:
        """Seconds for which the node may take its time, beyond those that others have."""
        return self._behind.patience

    @property
    def large(self) -> bool:
        """Whether no call of another task is to wait behind it, as what is confirmed waits too."""
        return self._large or bool(self.patience) or sum(map(len, self._data)) > SMALL

    def say(self, call: Call[Any], at: int, *, load: bool) -> None:
        """A call, or SCRIPT LOAD of its script, which has the reply number `at`."""
        if load:
            self.say_packed(packed(("SCRIPT", "LOAD", call.script.text)), at)
        else:
            self._large = self._large or call.large
            self.say_packed(call.packed(), at, asking=call.place is not None)
            if call.durability is not None:
                self._behind.add(call)
                self._durable[at] = call

    def say_packed(self, data: bytes, at: int, *, asking: bool = False) -> None:
        """One command more. With `asking` it is carried out though the slot is another node's."""
        if asking:
            self._data.append(ASKING)
            self._at.append(-1)
        self._data.append(data)
        self._at.append(at)

    def answered(self, heard: Sequence[Any], slots: SlotMap, replies: list[Any]) -> None:
        """Put what was heard among the replies."""
        count = len(self._at)
        for at, reply in zip(self._at, heard[:count], strict=True):
            if at >= 0:
                replies[at] = slots.judged(self.place, reply)
            if at in self._durable:
                call = self._durable[at]
                replies[at] = self._behind.confirmed(call, replies[at], heard[count:])

    def failed(self, error: Exception, replies: list[Any]) -> None:
        """The node gave no answer."""
        for at in self._at:
            if at >= 0:
                replies[at] = NoAnswer(error)


def check_all(replies: Sequence[Any]) -> None:
    """Raise what came instead of a reply."""
    for reply in replies:
        if isinstance(reply, NoAnswer):
            raise reply.error
        if isinstance(reply, Exception):
            raise reply


def no_answers(replies: list[Any]) -> list[Any]:
    """The replies. Raises what came instead of them if there is not one."""
    if all(isinstance(reply, NoAnswer) for reply in replies):
        raise replies[-1].error
    return replies


def unserved(slot: int | None) -> Unsent:
    """No node serves it: the cluster is being formed, or fails over."""
    which = "a slot" if slot is None else f"slot {slot}"
    return Unsent(server.ClusterDownError(f"no node of the cluster serves {which}"))


def _again(error: Exception) -> Exception:
    """The same error, without the frames that it was raised in: they would keep what they hold."""
    found = copy(error)
    found.__cause__ = error.__cause__ or error.__context__
    return found


def named(error: Exception, place: Place) -> Exception:
    """The same error; it names the node, in its text and as `place`."""
    cause = error.cause if isinstance(error, Unsent) else error
    where = "{}:{}".format(*place)
    if not isinstance(cause, server.ConnectionError | server.TimeoutError):
        return error
    if where in str(cause):
        cause.place = place  # type: ignore[union-attr]
        return error
    found = type(cause)(f"{where}: {cause}")
    found.__cause__, found.place = cause.__cause__, place  # type: ignore[union-attr]
    return Unsent(found) if isinstance(error, Unsent) else found
