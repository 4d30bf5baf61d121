"""Lists of one node that are waited for over one connection, against a node that is played here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hiredis import Reader
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as server

from atomq import calls, waiting
from atomq.actions import BRIEF, NoAnswer
from atomq.calls import Call
from atomq.cluster import FEW, Nodes
from atomq.drive import drive
from atomq.durability import Durability
from atomq.flight import SMALL
from atomq.keys import QueueKeys, hash_slot
from atomq.looking import Looked
from atomq.waiting import Actions, Line, Waiting

NAMES = tuple("abcdef")
OPTIN = [b"CLIENT", b"TRACKING", b"ON", b"OPTIN"]


class Node:
    """Lists with their tokens, one connection, and what is reported to it."""

    def __init__(self) -> None:
        self.tokens = dict.fromkeys(NAMES, 0)
        self.refuses: dict[bytes, str] = {}
        """Errors, by command; or by command and list."""
        self.silent: set[bytes] = set()
        """What gets no answer: likewise."""
        self.said: list[str] = []
        self.connect()

    def connect(self) -> None:
        self.out = b""
        self._reader = Reader()
        self._reported: set[str] = set()
        self._caching = False

    def hear(self, data: bytes) -> None:
        self._reader.feed(data)
        while words := self._reader.gets():
            caching, self._caching = self._caching, False
            self._answer(words, caching=caching)

    def _answer(self, words: list[bytes], *, caching: bool) -> None:
        verb = b" ".join(words[:2]) if words[0] == b"CLIENT" else words[0]
        name = words[1].decode()
        self.said.append(f"{verb.decode()} {name}" if verb in (b"LPOP", b"LLEN") else verb.decode())
        refused = self.refuses.get(verb) or self.refuses.get(verb + b" " + words[1])
        if self.silent & {verb, verb + b" " + words[1]}:
            return
        if refused is not None:
            self.out += f"-{refused}\r\n".encode()
        elif verb == b"SSUBSCRIBE":
            self.out += b">3\r\n$10\r\nssubscribe\r\n$1\r\n%s\r\n:1\r\n" % words[1]
        elif verb in (b"EVALSHA", b"SCRIPT"):
            self.out += b"$%d\r\n%s\r\n" % (len(words[-1]), words[-1])
        elif verb == b"LPOP":
            self.out += b"$1\r\n1\r\n" if self.tokens[name] else b"_\r\n"
            if self.tokens[name]:
                self.change(name, -1)
        elif verb == b"LLEN":
            self.out += b":%d\r\n" % self.tokens[name]
            if caching:
                self._reported.add(name)
        else:
            assert words == OPTIN or verb == b"CLIENT CACHING"
            self._caching = verb == b"CLIENT CACHING"
            self.out += b"+OK\r\n"

    def change(self, name: str, by: int) -> None:
        """A token comes, or another consumer takes it."""
        self.tokens[name] += by
        if name in self._reported:
            self._reported.remove(name)
            self.push(b"*1\r\n$1\r\n%s\r\n" % name.encode())

    def flush(self) -> None:
        self.tokens = dict.fromkeys(NAMES, 0)
        self._reported.clear()
        self.push(b"_\r\n")

    def push(self, what: bytes, kind: bytes = b"invalidate") -> None:
        self.out += b">2\r\n$%d\r\n%s\r\n%s" % (len(kind), kind, what)


class Stage:
    """Drives the rules against a node. What comes in pieces comes `some` bytes at a time."""

    def __init__(self, some: int = 1 << 20) -> None:
        self.node = Node()
        self.some = some
        self.moved: set[str] = set()
        self.judged: list[Any] = []
        self.doubted: list[Any] = []
        self.heard: list[Any] = []  # for how many seconds
        self.engine: Any = SimpleNamespace(may_unblock=True, may_watch=True, era=0)
        self.engine.slots = SimpleNamespace(
            serves=lambda _, name: name not in self.moved,
            is_sound=lambda _: True,
            doubted=set(),
            owner=lambda _: ("h", 1),
            judged=self.judge,
            doubt=self.doubted.append,
        )
        self.waiting = Waiting(self.engine)
        self.opens: list[list[Sequence[str]]] = []
        self.closed = 0
        self.rested = 0.0
        self.dead = False
        self.slept = False  # nothing came

    def judge(self, _: Any, reply: Any) -> Any:
        if isinstance(reply, Exception):
            self.judged.append(reply)
        return reply

    def run(self, actions: Actions[Any]) -> Any:
        answer: Any = None
        trouble: Exception | None = None
        while True:
            try:
                action = actions.send(answer) if trouble is None else actions.throw(trouble)
            except StopIteration as stop:
                return stop.value
            answer, trouble = None, None
            try:
                answer = self.perform(action)
            except server.RedisError as error:
                trouble = error

    def perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Open(names):
                self.node.connect()
                self.dead, self.moved = False, set()
                wire = SimpleNamespace(hello={b"id": 7}, node=("h", 1))
                groups = [names] if self.engine.may_watch else [[name] for name in names]
                self.opens.append(groups)
                return [Line(wire, group) for group in groups]
            case waiting.Send(_, data):
                if self.engine.may_watch:
                    self.node.hear(data)
            case waiting.Hear(lines, seconds):
                self.heard.append(seconds)
                assert len(self.heard) < 100_000, "it listens for ever"
                if self.dead:
                    raise server.ConnectionError("gone")
                data, self.node.out = self.node.out[: self.some], self.node.out[self.some :]
                if not data:
                    self.slept = True
                    return None
                lines[0].talk.feed(data)
                return lines[0]
            case waiting.Close():
                self.closed += 1
            case waiting.Rest(seconds):
                self.rested += seconds
        return None

    def wait(self) -> Any:
        """Until a token came, or nothing does."""
        self.slept = False
        for _ in range(1000):
            answer = self.run(self.waiting.wait(NAMES, 1))
            if isinstance(answer, str) or self.slept:
                return answer
        raise AssertionError("it does not come to an end")

    def said(self) -> list[str]:
        said, self.node.said = self.node.said, []
        return said


def test_a_token_is_taken_and_only_what_changed_is_asked_about_again() -> None:
    stage = Stage()
    assert stage.wait() is None
    assert stage.said() == [
        "CLIENT TRACKING",
        "LPOP a",
        *(word for name in NAMES for word in ("CLIENT CACHING", f"LLEN {name}")),
    ]
    stage.node.change("c", 1)
    assert stage.wait() == "c"
    assert stage.rested == 0
    assert stage.wait() is None
    assert stage.said() == ["LPOP c", "CLIENT CACHING", "LLEN c"]
    assert stage.run(stage.waiting.withdraw()) == []
    assert stage.said() == []


def test_of_several_tokens_one_is_taken_and_the_others_stay() -> None:
    stage = Stage()
    stage.wait()
    for name in "bde":
        stage.node.change(name, 1)
    assert stage.wait() == "b"
    assert [stage.node.tokens[name] for name in "bde"] == [0, 1, 1]
    stage.node.change("d", -1)  # another consumer took it
    assert stage.wait() == "e"
    assert stage.wait() is None


def test_a_token_that_was_taken_when_the_wait_was_over_is_told_at_its_end() -> None:
    stage = Stage()
    stage.wait()
    stage.node.change("b", 1)
    assert stage.run(stage.waiting.wait(NAMES, 1)) == []  # it is reported
    stage.some = 0
    assert stage.run(stage.waiting.wait(NAMES, 1)) is None  # and asked for
    stage.some = 3
    assert stage.run(stage.waiting.withdraw()) == ["b"]
    assert stage.run(stage.waiting.withdraw()) == []


@pytest.mark.parametrize(
    ("heard", "untold"),
    [(b"", ["a"]), (b"+OK\r\n", ["a"]), (b"+OK\r\n_\r\n", []), (b"+OK\r\n_\r\n+OK\r\n", [])],
)
def test_a_node_that_does_not_answer_does_not_keep_a_wait_from_ending(
    heard: bytes, untold: list[str]
) -> None:
    """It says nothing; that it tracks; that there was no token; and something about the next."""
    stage = Stage(some=len(heard))
    stage.run(stage.waiting.wait(NAMES, 1))
    stage.some = 0
    assert stage.run(stage.waiting.withdraw()) == untold, "its token may have been taken"
    assert bool(stage.waiting.lines) == (not untold), "nothing else would be lost with the line"


def test_a_token_whose_taking_was_not_heard_of_is_not_forgotten_with_its_line() -> None:
    stage = Stage()
    stage.wait()
    stage.node.change("b", 1)
    assert stage.run(stage.waiting.wait(NAMES, 1)) == []
    stage.some = 0
    assert stage.run(stage.waiting.wait(NAMES, 1)) is None
    stage.moved, stage.some = {"f"}, 1000
    assert stage.run(stage.waiting.wait(NAMES, 1)) == "b"
    assert stage.wait() is None


def test_all_is_asked_about_when_all_keys_were_removed_and_when_a_slot_moved() -> None:
    stage = Stage()
    stage.wait()
    stage.said()
    stage.node.flush()
    stage.wait()
    assert len(stage.said()) == 1 + 2 * len(NAMES)
    stage.node.push(b"$1\r\nx\r\n", b"sunsubscribe")
    stage.wait()
    assert len(stage.said()) == 1 + 2 * len(NAMES)


def test_a_list_of_which_it_is_not_known_whether_it_has_a_token_is_claimed_from() -> None:
    """With a rest: the node may say the same again and again."""
    stage = Stage()
    stage.node.refuses[b"LLEN d"] = "ASK 1 127.0.0.1:7"
    assert stage.wait() == "d"
    assert stage.rested == 0.05
    assert [type(reply) for reply in stage.judged] == [server.AskError]
    stage.node.refuses.clear()
    assert stage.wait() is None
    assert stage.rested == 0.05


def test_a_list_that_another_node_serves_is_waited_for_there() -> None:
    stage = Stage()
    stage.wait()
    stage.moved = {"f"}
    stage.wait()
    assert len(stage.opens) == 2


@pytest.mark.parametrize("verb", [b"CLIENT TRACKING", b"CLIENT CACHING", b"LPOP", b"LLEN"])
def test_without_a_right_each_list_has_a_connection(verb: bytes) -> None:
    stage = Stage()
    stage.node.refuses[verb] = "NOPERM no"
    while stage.engine.may_watch:
        assert stage.run(stage.waiting.wait(NAMES, 1)) == []
    stage.waiting._untold.clear()  # which LPOP may have taken
    assert stage.run(stage.waiting.wait(NAMES, 1)) is None
    assert stage.opens == [[NAMES], [[name] for name in NAMES]]
    assert not any(line.watched for line in stage.waiting.lines)
    assert stage.rested == 0


def test_it_is_heard_that_another_consumer_looked() -> None:
    stage = Stage()
    channels = {name: name.upper() for name in NAMES}
    assert stage.run(stage.waiting.wait(NAMES, 1, channels=channels)) == []
    assert stage.said().count("SSUBSCRIBE") == len(NAMES)
    stage.node.out += b">3\r\n$8\r\nsmessage\r\n$1\r\nB\r\n$5\r\nother\r\n"
    assert stage.run(stage.waiting.wait(NAMES, 1)) == [Looked("B", "other")]


# ── calls over the same connection ────────────────────────────────────────────────────────────


def call(what: str = "r-1.0.1") -> Call[Any]:
    return calls.ack(QueueKeys("q", layout="cluster"), [what])


def test_a_call_to_the_node_travels_over_the_connection_and_so_does_its_script() -> None:
    stage = Stage()
    assert stage.run(stage.waiting.carry((call(),), ())) is None, "there is none yet"
    stage.wait()
    stage.said()
    assert stage.run(stage.waiting.carry((call("one"),), ())) == [b"one"]
    script, reply = stage.run(stage.waiting.carry((call("two"),), (call(),)))
    assert (script, reply) == (call().script.text.encode(), b"two")
    assert stage.said() == ["EVALSHA", "SCRIPT", "EVALSHA"]
    assert len(stage.opens) == 1


@pytest.mark.parametrize("why", ["node", "asking", "durable", "large", "era", "blocks"])
def test_what_is_not_to_travel_there_does_not(why: str) -> None:
    stage, one = Stage(), call("x" * (SMALL if why == "large" else 1))
    stage.engine.may_watch = why != "blocks"
    stage.wait()
    stage.said()
    if why == "node":
        stage.engine.slots.owner = lambda _: ("other", 1)
    elif why == "era":
        stage.engine.era = 1
    elif why == "asking":
        one = one.at(("h", 1))
    elif why == "durable":
        one.durability = Durability.of("replicas=1", 1)
    assert stage.run(stage.waiting.carry((one,), ())) is None
    assert stage.said() == []


def test_a_call_without_an_answer_ends_its_line_and_the_next_ones_travel_elsewhere() -> None:
    """The server may have closed it for this very answer: see `client-output-buffer-limit`."""
    stage = Stage()
    stage.wait()
    stage.some = 0
    stage.heard.clear()
    with pytest.raises(server.TimeoutError, match="h:1: Timeout reading"):
        stage.run(stage.waiting.carry((call(),), ()))
    assert stage.heard == [pytest.approx(BRIEF, abs=0.2)]
    assert (stage.closed, stage.doubted, stage.waiting.lines) == (1, [("h", 1)], [])
    stage.some = 1000
    stage.engine.slots.is_sound = lambda _: False  # another one would have been left
    stage.wait()
    assert len(stage.opens) == 2
    assert stage.run(stage.waiting.carry((call(),), ())) is None
    other = calls.ack(QueueKeys("other", layout="cluster"), ["r-1.0.1"])
    assert stage.run(stage.waiting.carry((other,), ())) == [b"r-1.0.1"]


def test_all_of_an_answer_comes_in_the_time_that_one_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece that comes gives it no more. What has come by then is taken all the same."""
    stage = Stage()
    stage.wait()
    stage.some = 1
    stage.heard.clear()
    monkeypatch.setattr(time, "monotonic", lambda: 50 + 0.4 * BRIEF * len(stage.heard))
    assert stage.run(stage.waiting.carry((call("a"),), ())) == [b"a"]
    left = [1, 0.6, 0.2, *[0] * (len(b"$1\r\na\r\n") - 3)]
    assert stage.heard == pytest.approx([BRIEF * each for each in left])


def test_a_call_behind_its_script_has_no_answer_though_the_script_was_loaded() -> None:
    stage = Stage()
    stage.wait()
    stage.node.silent.add(b"EVALSHA")
    with pytest.raises(server.TimeoutError, match="h:1: Timeout reading"):
        stage.run(stage.waiting.carry((call(),), (call(),)))
    assert stage.said()[-2:] == ["SCRIPT", "EVALSHA"]


def test_what_the_node_says_of_its_slots_is_learned_from_a_call_as_well() -> None:
    stage = Stage()
    stage.wait()
    stage.node.refuses[b"EVALSHA"] = "MOVED 1 127.0.0.1:7"
    replies = stage.run(stage.waiting.carry((call(),), ()))
    assert [type(reply) for reply in replies] == [server.MovedError]
    assert stage.judged == replies


def test_the_answer_to_a_call_that_was_interrupted_is_no_answer_to_the_next() -> None:
    stage = Stage()
    stage.wait()
    interrupted = stage.waiting.carry((call("one"),), ())
    stage.perform(next(interrupted))
    interrupted.close()
    assert stage.run(stage.waiting.carry((call("two"),), ())) == [b"two"]


def test_what_comes_beside_a_call_is_not_forgotten() -> None:
    stage = Stage()
    stage.wait()
    stage.node.out += b">3\r\n$8\r\nsmessage\r\n$1\r\nB\r\n$5\r\nother\r\n"
    stage.node.change("c", 1)
    assert stage.run(stage.waiting.carry((call("one"),), ())) == [b"one"]
    assert stage.run(stage.waiting.wait(NAMES, 1)) == [Looked("B", "other")]
    assert stage.wait() == "c"


def test_lists_are_counted_over_it_and_nothing_is_taken() -> None:
    stage = Stage()
    assert stage.run(stage.waiting.lengths(NAMES)) == {}
    stage.wait()
    stage.said()
    stage.node.change("c", 2)
    assert stage.run(stage.waiting.lengths({"a", "c", "x"})) == {"a": 0, "c": 2}
    assert stage.said() == ["LLEN a", "LLEN c"]
    stage.engine.era = 1  # another server may be the master by now
    assert stage.run(stage.waiting.lengths(NAMES)) == {}
    assert stage.said() == []
    stage.engine.era = 0
    stage.dead = True
    found = stage.run(stage.waiting.lengths(["a"]))
    assert isinstance(found["a"], NoAnswer)
    assert stage.closed == 1


class Two(Stage):
    """Two nodes, each with half of the lists."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = [Node(), Node()]
        self.breaks = False  # what is sent to the second one

    def perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Open(names):
                self.opens.append([names[:3], names[3:]])
                return [
                    Line(SimpleNamespace(hello={b"id": 7}, node=("h", port)), some)
                    for port, some in enumerate(self.opens[-1])
                ]
            case waiting.Send(line, data):
                if self.breaks and line.wire.node == ("h", 1):
                    raise server.ConnectionError("gone")
                self.nodes[line.wire.node[1]].hear(data)
            case waiting.Hear(lines, seconds):
                self.heard.append(seconds)
                for line in lines:
                    node = self.nodes[line.wire.node[1]]
                    if node.out:
                        line.talk.feed(node.out)
                        node.out = b""
                        return line
                self.slept = True
            case _:
                return super().perform(action)
        return None


@pytest.mark.parametrize("how", ["breaks", "silent"])
def test_a_node_without_an_answer_takes_none_of_the_others_away(how: str) -> None:
    stage = Two()
    stage.wait()
    stage.breaks = how == "breaks"
    if how == "silent":  # behind its first answer
        stage.nodes[1].silent |= {b"LLEN e", b"LLEN f"}
    stage.nodes[0].tokens["b"] = 2
    found = stage.run(stage.waiting.lengths(NAMES))
    assert [found.pop(name) for name in "abc"] == [0, 2, 0]
    assert how == "breaks" or found.pop("d") == 0
    assert all(isinstance(reply, NoAnswer) for reply in found.values())
    assert stage.doubted == [("h", 1)]
    assert stage.closed == 1
    assert [line.names for line in stage.waiting.lines] == [NAMES[:3]]
    stage.breaks, stage.engine.slots.is_sound = False, lambda _: False
    stage.wait()
    assert len(stage.opens) == 1, "its node is not well"
    stage.engine.slots.is_sound = lambda name: name == "f"
    stage.wait()
    assert len(stage.opens) == 2


moves = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(NAMES)),
        st.tuples(st.just("take"), st.sampled_from(NAMES)),
        st.sampled_from([("wait", ""), ("withdraw", ""), ("flush", ""), ("cut", "")]),
        st.sampled_from([("call", ""), ("count", "")]),
    ),
    max_size=40,
)


@given(moves, st.integers(1, 40))
def test_it_never_sleeps_beside_a_token(steps: list[tuple[str, str]], some: int) -> None:
    """Nor does it take one that it does not tell of."""
    stage = Stage(some)
    node = stage.node
    put = took = lost = 0
    for step, name in steps:
        if step == "put" and not node.tokens[name]:
            node.change(name, 1)
            put += 1
        elif step == "take" and node.tokens[name]:
            node.change(name, -1)
            lost += 1
        elif step == "flush":
            lost += sum(node.tokens.values())
            node.flush()
        elif step == "cut" and stage.waiting.lines:
            stage.dead, node.out = True, b""
            assert stage.run(stage.waiting.wait(NAMES, 1)) is None
            taken = put - took - lost - sum(node.tokens.values())
            untold, stage.waiting._untold = stage.waiting._untold, []
            assert len(untold) >= taken, "by an answer that does not come"
            took += taken
        elif step == "wait":
            found = stage.wait()
            took += found is not None
            if found is None:
                assert not any(node.tokens.values())
        elif step == "call" and stage.waiting.lines:
            assert stage.run(stage.waiting.carry((call("one"),), ())) == [b"one"]
        elif step == "count" and stage.waiting.lines:
            assert stage.run(stage.waiting.lengths(NAMES)) == node.tokens
        elif step == "withdraw":
            took += len(stage.run(stage.waiting.withdraw()))
    took += len(stage.run(stage.waiting.withdraw()))
    assert took == put - lost - sum(node.tokens.values())


class Map(Nodes[Any]):
    """`Nodes` of which the map is all that there is."""

    def __init__(self, owners: dict[str, Any], *, may_watch: bool = True) -> None:
        slots = {hash_slot(key): node for key, node in owners.items()}
        self.map: Any = SimpleNamespace(owner=slots.get, check=lambda _: None)
        self._engine: Any = SimpleNamespace(may_watch=may_watch)

    def opened(self, keys: Sequence[str]) -> list[tuple[str, list[str]]]:
        return drive(self.opening(keys), lambda some: f"to {some[0]}")


def test_more_than_a_few_lists_of_one_node_have_one_connection() -> None:
    many = [f"m{n}" for n in range(FEW + 1)]
    few = [f"f{n}" for n in range(FEW)]
    owners = {**dict.fromkeys(many, "one"), **dict.fromkeys(few, "two")}
    alone = [(f"to {key}", [key]) for key in (*many, *few, "nowhere")]
    assert Map(owners).opened([*many, *few, "nowhere"]) == [("to m0", many), *alone[len(many) :]]
    assert Map(owners, may_watch=False).opened([*many, *few, "nowhere"]) == alone
