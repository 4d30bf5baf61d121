"""The rules of waiting, over orders of answers, breaks and interruptions, without a server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hiredis import Reader
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as server

from atomq import waiting
from atomq.conversation import packed
from atomq.errors import ServerUnavailable
from atomq.looking import Looked
from atomq.waiting import Actions, Line, Waiting

KEY = "wake"


class Far:
    """The server's side of one connection: it blocks, takes tokens, and carries out claims."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.said: list[list[bytes]] = []  # and not carried out: it blocks
        self.blocked = False
        self.tokens = 0  # given to it while no claim stood behind
        self.claims: list[str] = []  # carried out
        self.out = b""
        self.era = 0
        self.waited = ""  # until the server's own timer would end it
        self.refuses: str | None = None  # what it says to BLPOP
        self.listens = False
        self.may_listen = True
        self.refuses_claims = b""

    def hear(self, data: bytes) -> None:
        self.reader.feed(data)
        while command := self.reader.gets():
            self.said.append(command)
        self.go_on()

    def go_on(self) -> None:
        while self.said and not self.blocked:
            name, *words = self.said.pop(0)
            if name == b"SUBSCRIBE":
                assert self.waited == "", "before anything is waited for"
                self.listens = self.may_listen
                yes, no = b">3\r\n$9\r\nsubscribe\r\n$6\r\nlooked\r\n:1\r\n", b"-NOPERM no\r\n"
                self.out += yes if self.may_listen else no
            elif name == b"EVALSHA":
                self.claims.append(words[0].decode())
                result = b"*1\r\n$%d\r\n%s\r\n" % (len(words[0]), words[0])
                self.out += self.refuses_claims or result
            elif self.refuses:
                self.out += f"-{self.refuses}\r\n".encode()
            else:
                assert name == b"BLPOP"
                assert words[0] == KEY.encode()
                self.blocked, self.waited = True, words[-1].decode()

    def tell(self) -> None:
        """Another consumer has looked."""
        self.out += b">3\r\n$7\r\nmessage\r\n$6\r\nlooked\r\n$5\r\nother\r\n"

    def end_wait(self, *, token: bool) -> None:
        if self.blocked:
            self.blocked = False
            self.tokens += token and not self.said
            self.out += b"*2\r\n$4\r\nwake\r\n$1\r\n1\r\n" if token else b"_\r\n"
            self.go_on()


class Stage:
    """Drives the rules against a server that does what `moves` say."""

    def __init__(self, moves: Iterator[str]) -> None:
        self.moves = moves
        self.engine: Any = SimpleNamespace(may_unblock=None, era=0, slots=None)
        self.waiting = Waiting(self.engine)
        self.far = Far()
        self.opened: list[Far] = []
        self.closed = False
        self.rested = 0.0
        self.hello: dict[bytes, int] = {b"id": 7}
        self.unblocking: Exception | None = None
        self.unblocked = 0
        self.may_listen = True
        self.refuses: str | None = None  # what it says to BLPOP over each new connection
        self.refuses_claims = b""
        self.heard: list[float | None] = []  # for how many seconds

    def run(self, actions: Actions[Any]) -> Any:
        answer, trouble = None, None
        while True:
            try:
                action = actions.send(answer) if trouble is None else actions.throw(trouble)
            except StopIteration as stop:
                return stop.value
            answer, trouble = None, None
            try:
                answer = self.perform(action)
            except BaseException as error:  # noqa: BLE001 - raised again there
                trouble = error

    def perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Open():
                self.far = Far()
                self.far.era, self.far.refuses = self.engine.era, self.refuses
                self.far.may_listen, self.far.refuses_claims = self.may_listen, self.refuses_claims
                self.opened.append(self.far)
                return [Line(SimpleNamespace(hello=self.hello, node=None), action.names)]
            case waiting.Send(_, data):
                assert not self.far.blocked, "one wait at a time"
                assert self.far.era == self.engine.era
                if (move := next(self.moves, "")) == "cut":
                    raise server.ConnectionError("cut")
                self.far.hear(data)
                if move == "cut later":
                    raise server.ConnectionError("cut")
            case waiting.Hear(lines, seconds):
                self.heard.append(seconds)
                return self.hear(lines[0], seconds)
            case waiting.Rest(seconds):
                self.rested += seconds
            case waiting.Unblock():
                return self.unblock(next(self.moves, ""))
            case waiting.Close():
                self.closed = True
        return None

    def unblock(self, move: str) -> list[int]:
        self.unblocked += 1
        if self.unblocking is not None:
            raise self.unblocking
        if move == "cut":
            raise server.ConnectionError("cut")
        if move == "refuse":
            raise server.NoPermissionError("no")
        if move == "not read yet":
            return [0]
        self.far.end_wait(token=move == "token")
        return [1]

    def hear(self, line: Line, seconds: float | None) -> Line | None:
        move = next(self.moves, "")
        if move == "interrupt":
            raise KeyboardInterrupt
        if move.startswith("cut"):
            self.far.end_wait(token=move == "cut later")  # the token, and the claim, are its last
            raise server.ConnectionError("cut")
        if move == "told":
            self.far.tell()
        if move in ("token", "end"):
            self.far.end_wait(token=move == "token")
        if not self.far.out:
            if seconds is None:
                raise server.TimeoutError("silent")
            return None
        many = 1 if move == "part" else len(self.far.out)
        some, self.far.out = self.far.out[:many], self.far.out[many:]
        line.talk.feed(some)
        return line


def claim(name: str) -> Any:
    words = ("EVALSHA", name)
    return SimpleNamespace(
        command=lambda: words, packed=lambda: packed(words), parse=lambda reply, _: reply
    )


moves = st.sampled_from(
    ["", "", "told", "token", "end", "part", "cut", "cut later", "interrupt", "refuse", "part"]
)
actions = st.sampled_from(["ahead", "ahead", "go on", "plain", "withdraw", "era"])


class Consumer:
    """What a consumer makes of the answers: see `flows.Consumer`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.under_way: Any = None  # the claim that was sent ahead, as far as it knows
        self.known: list[str] = []  # claims whose result came, or that it asks for again
        self.tokens = 0

    def run(self, actions: Actions[Any], *, waits: bool = False) -> None:
        try:
            answer = self.stage.run(actions)
        except KeyboardInterrupt:
            return
        except ServerUnavailable:
            assert self.under_way is not None, "only of a claim"
            self.known.append(self.under_way.command()[1])
            assert self.stage.waiting.lines == []
        else:
            if waits and (not answer or isinstance(answer[0], Looked)):
                return  # the wait goes on, with the claim behind it
            if answer in (KEY, [KEY]):
                self.tokens += 1
            elif answer:
                self.known.append(answer[0].decode())
        self.under_way = None

    def do(self, action: str, name: str) -> None:
        if action == "era":
            self.stage.engine.era += 1
        elif action == "withdraw":
            self.run(self.stage.waiting.withdraw())
        elif self.under_way is not None:
            self.wait(self.under_way)
        elif action == "plain":
            self.wait(None)
        elif action == "ahead":
            self.under_way = claim(name)
            self.wait(self.under_way)

    def wait(self, ahead: Any) -> None:
        self.run(self.stage.waiting.wait((KEY,), 0.5, ahead, channels={KEY: "looked"}), waits=True)


@given(st.lists(moves, max_size=30), st.lists(actions, min_size=1, max_size=6))
def test_no_claim_and_no_token_is_forgotten(said: list[str], done: list[str]) -> None:
    stage = Stage(iter(said))
    consumer = Consumer(stage)
    for number, action in enumerate(done):
        consumer.do(action, f"c{number}")
    stage.moves = iter(())
    lines = list(stage.waiting.lines)
    consumer.do("withdraw", "")
    if stage.far.era == stage.engine.era:
        assert stage.waiting.lines == lines, "one that can be withdrawn needs no other connection"
    carried_out = [name for far in stage.opened for name in far.claims]
    assert set(carried_out) <= set(consumer.known)
    assert len(set(consumer.known)) == len(consumer.known), "each is known once"
    for line in stage.waiting.lines:
        assert not line.waits
        assert line.talk.under_way == 0


@given(
    st.lists(st.sampled_from(["", "told", "token", "end", "part", "interrupt"]), max_size=30),
    st.lists(st.sampled_from(["ahead", "go on", "plain", "withdraw"]), min_size=1, max_size=6),
)
def test_while_nothing_breaks_one_connection_is_enough(said: list[str], done: list[str]) -> None:
    stage = Stage(iter(said))
    consumer = Consumer(stage)
    for number, action in enumerate(done):
        consumer.do(action, f"c{number}")
    stage.moves = iter(())
    consumer.do("withdraw", "")
    assert len(stage.opened) <= 1
    assert not stage.closed
    assert consumer.tokens == sum(far.tokens for far in stage.opened)
    carried_out = [name for far in stage.opened for name in far.claims]
    assert consumer.known == carried_out


# ── what the server refuses ───────────────────────────────────────────────────────────────────


def refusing(text: str) -> Stage:
    stage = Stage(iter(()))
    assert stage.run(stage.waiting.wait((KEY,), 0.5)) is None
    assert stage.run(stage.waiting.withdraw()) == []
    stage.far.refuses = text
    stage.rested = 0.0
    return stage


def test_a_user_who_may_not_wait_claims_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    stage = refusing("NOPERM this user has no permissions to run the 'blpop' command")
    assert stage.run(stage.waiting.wait((KEY,), 0.5, claim("c"))) == [b"c"]
    assert stage.rested == 0.5
    assert stage.run(stage.waiting.wait((KEY,), 0.4)) is None
    assert stage.rested == 0.9
    assert len(caplog.records) == 2


def test_what_a_replica_refuses_is_asked_of_another_connection() -> None:
    stage = refusing("UNBLOCKED force unblock, instance state changed (master -> replica?)")
    assert stage.run(stage.waiting.wait((KEY,), 0.5, claim("c"))) == [b"c"]
    assert stage.waiting.lines == []
    assert stage.rested == 0.5, "a server that refuses only to wait is claimed from once in a while"
    assert stage.run(stage.waiting.wait((KEY,), 0.5, claim("d"))) is None
    assert stage.run(stage.waiting.withdraw()) == [b"d"]
    assert len(stage.opened) == 2


def test_a_claim_behind_a_wait_is_asked_for_anew_where_the_server_refuses_both() -> None:
    """Else it would be waited again at once, and refused at once, as fast as the server answers."""
    stage = refusing("NOREPLICAS Not enough good replicas to write.")
    stage.far.refuses_claims = b"-NOREPLICAS Not enough good replicas to write.\r\n"
    with pytest.raises(ServerUnavailable, match="NOREPLICAS"):
        stage.run(stage.waiting.wait((KEY,), 0.5, claim("c")))
    assert stage.waiting.lines == []
    assert stage.rested == 0.05


def test_a_wait_that_is_refused_again_and_again_is_sent_once_in_a_while() -> None:
    """As by Redis 6.2 for want of replicas, where the claims in between are carried out."""
    stage = refusing("NOREPLICAS Not enough good replicas to write.")
    stage.refuses = stage.far.refuses
    for rested in (0.05, 0.55, 1.05):
        assert stage.run(stage.waiting.wait((KEY,), 9)) is None
        assert stage.rested == pytest.approx(rested)
    stage.refuses = None
    assert stage.run(stage.waiting.wait((KEY,), 0.5)) is None
    assert stage.run(stage.waiting.withdraw()) == []
    stage.far.refuses, stage.rested = "UNBLOCKED", 0.0
    assert stage.run(stage.waiting.wait((KEY,), 9)) is None
    assert stage.rested == 0.05, "the first time it may be over at once"


@pytest.mark.parametrize("error", [server.NoPermissionError("no"), server.ResponseError("what?")])
def test_without_the_right_to_end_a_wait_no_claim_stands_behind_it(error: Exception) -> None:
    stage = Stage(iter(()))
    stage.unblocking = error
    assert stage.run(stage.waiting.wait((KEY,), 0.5, claim("c"))) is None
    assert stage.engine.may_unblock is False
    assert stage.far.blocked
    assert stage.far.said == []


def test_a_server_that_does_not_say_which_connection_this_is_gets_no_claim_ahead() -> None:
    stage = Stage(iter(()))
    stage.hello = {}
    assert stage.run(stage.waiting.wait((KEY,), 0.5, claim("c"))) is None
    assert stage.far.said == []
    assert stage.run(stage.waiting.withdraw()) == []
    assert stage.closed


def test_in_one_process_with_its_server_a_wait_is_never_left_out() -> None:
    stage = Stage(iter(["", "end"]))
    inline = Waiting(stage.engine, inline=True)
    assert stage.run(inline.wait((KEY,), 0.5, claim("c"))) is None
    assert stage.far.waited == "0.500"
    assert not stage.far.blocked


def test_the_server_ends_a_wait_of_a_client_that_is_there_no_more() -> None:
    stage = Stage(iter(["", "", "", "", "end"]))
    ahead = claim("c")
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead, lasts=8)) is None
    assert stage.far.waited == "8.100"
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead, lasts=8)) is None, "it goes on"
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead, lasts=8)) == [b"c"]
    assert stage.unblocked == 1, "only to find out whether it may"


def test_a_wait_whose_end_is_not_heard_is_over_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stage, ahead = Stage(iter(())), claim("c")
    wait = partial(stage.waiting.wait, (KEY,), 0.5, ahead, lasts=8)
    assert stage.run(wait()) is None
    now[0] += 9.0  # its end, 0.1 s late, may be on its way for a second
    assert stage.run(wait()) is None
    now[0] += 0.2
    with pytest.raises(ServerUnavailable, match="silent"):
        stage.run(wait())
    assert stage.closed


def test_what_several_nodes_tell_is_heard_at_once() -> None:
    """One consumer looks into many queues at a time, and each has a line."""
    slots = SimpleNamespace(serves=lambda *_: True, doubted=())
    waits = Waiting(SimpleNamespace(may_unblock=None, era=0, slots=slots))  # type: ignore[arg-type]
    lines = [Line(SimpleNamespace(hello={}, node=("a node", n)), [f"wake {n}"]) for n in (1, 2)]
    actions = waits.wait(("wake 1", "wake 2"), 0.5, channels={"wake 1": "one", "wake 2": "two"})
    told, said = lines.copy(), b""

    def perform(action: waiting.Action) -> Any:
        nonlocal said
        if isinstance(action, waiting.Send):
            said += action.data
        elif isinstance(action, waiting.Hear) and told:
            line = told.pop(0)
            name = {"wake 1": b"one", "wake 2": b"two"}[line.names[0]]
            line.talk.feed(b">3\r\n$8\r\nsmessage\r\n$3\r\n%s\r\n$5\r\nother\r\n" % name)
            return line
        return lines if isinstance(action, waiting.Open) else None

    def outcome() -> Any:
        action = next(actions)
        try:
            while True:
                action = actions.send(perform(action))
        except StopIteration as stop:
            return stop.value

    assert outcome() == [Looked("one", "other"), Looked("two", "other")]
    assert said.index(b"SSUBSCRIBE\r\n$3\r\none") < said.index(b"SSUBSCRIBE\r\n$3\r\ntwo")


def test_waits_at_several_nodes_are_ended_at_once() -> None:
    slots = SimpleNamespace(serves=lambda *_: True, doubted=())
    waits = Waiting(SimpleNamespace(may_unblock=None, era=0, slots=slots))  # type: ignore[arg-type]
    numbers = (7, 8, 9)
    for number in numbers:
        wire = SimpleNamespace(hello={b"id": number}, node=("a node", number % 2))
        waits.lines.append(Line(wire, [KEY], waits=True))
    actions = waits.withdraw()
    action = next(actions)
    while isinstance(action, waiting.Hear):
        action = actions.send(None)
    assert action == waiting.Unblock([(("a node", number % 2), number) for number in numbers])


@pytest.mark.parametrize("ahead", [None, claim("c")])
def test_what_is_heard_meanwhile_is_the_answer_and_the_wait_goes_on(ahead: Any) -> None:
    stage = Stage(iter(()))
    wait = partial(stage.waiting.wait, (KEY,), 0.5, ahead, channels={KEY: "looked"})
    assert stage.run(wait()) == [], "the subscription"
    stage.moves = iter(["told"])
    assert stage.run(wait()) == [Looked("looked", "other")]
    assert stage.far.blocked
    stage.moves = iter(["token"])
    assert stage.run(wait()) == ([b"c"] if ahead else KEY)


def test_a_wait_goes_on_over_no_connection_of_before() -> None:
    stage = Stage(iter(()))
    ahead = claim("c")
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead)) is None
    stage.engine.era += 1
    with pytest.raises(ServerUnavailable):
        stage.run(stage.waiting.wait((KEY,), 0.5, ahead))
    assert stage.closed


# ── what is sent, and what is left out ────────────────────────────────────────────────────────


def test_a_wait_that_has_ended_already_is_not_ended_by_force() -> None:
    stage = Stage(iter(()))
    assert stage.run(stage.waiting.wait((KEY,), 0.5)) is None
    stage.far.end_wait(token=True)
    assert stage.run(stage.waiting.withdraw()) == [KEY]
    assert stage.unblocked == 0
    assert stage.heard[-1] == 0, "it only looks, for nothing may be there"


def test_a_wait_lasts_as_long_as_it_is_said() -> None:
    stage = Stage(iter(()))
    stage.run(stage.waiting.wait((KEY,), 0.5))
    assert stage.far.waited == "0.000", "the next one goes on with it"
    stage = Stage(iter(()))
    stage.run(stage.waiting.wait((KEY,), 0.5, claim("c")))
    assert stage.far.waited == "0.600", "a little longer than it is waited for here"
    stage = Stage(iter(["end"]))
    stage.run(Waiting(stage.engine, inline=True).wait((KEY,), 0.0))
    assert stage.far.waited == "0.010", "0 would be for ever, and nothing else runs meanwhile"


@pytest.mark.parametrize("how", [{"inline": True}, {"listens": False}])
def test_what_can_hear_of_nothing_else_does_not_listen(how: dict[str, bool]) -> None:
    stage = Stage(iter(["end"]))
    stage.run(Waiting(stage.engine, **how).wait((KEY,), 0.1, channels={KEY: "looked"}))
    assert not stage.far.listens


def test_what_is_pushed_and_is_no_message_is_passed_over() -> None:
    stage = Stage(iter(()))
    assert stage.run(stage.waiting.wait((KEY,), 0.5)) is None
    stage.far.out += b">2\r\n$10\r\ninvalidate\r\n_\r\n"
    assert stage.run(stage.waiting.wait((KEY,), 0.5)) == []


@pytest.mark.parametrize("refused", [True, False])
def test_without_the_right_to_listen_it_waits_all_the_same(
    refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    stage = Stage(iter(()))
    stage.may_listen = not refused
    wait = partial(stage.waiting.wait, (KEY,), 0.5, channels={KEY: "looked"})
    assert stage.run(wait()) == []
    assert [record.getMessage() for record in caplog.records] == (
        ["not heard is which consumer looked: no"] if refused else []
    )
    stage.far.end_wait(token=True)
    assert stage.run(wait()) == KEY


@pytest.mark.parametrize("token", [True, False])
def test_a_claim_that_was_refused_behind_a_wait_leaves_its_token(token: bool) -> None:
    """The claim that follows meets the same trouble, and says so."""
    stage = Stage(iter(()))
    stage.refuses_claims = b"-OOM command not allowed\r\n"
    assert stage.run(stage.waiting.wait((KEY,), 0.5, claim("c"))) is None
    stage.far.end_wait(token=token)
    assert stage.run(stage.waiting.withdraw()) == ([KEY] if token else [])
    assert stage.waiting.lines, "the connection is as good as before"


def test_what_a_claim_sent_ahead_was_answered_was_asked_for_once() -> None:
    """Its result is that of a first attempt: what a repeated call means is no matter here."""
    stage = Stage(iter(()))
    ahead = claim("c")
    ahead.parse = lambda _, repeated: f"repeated: {repeated}"
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead)) is None
    stage.far.end_wait(token=True)
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead)) == "repeated: False"


def test_a_wait_that_is_not_read_yet_is_ended_again_for_as_long_as_an_answer_takes() -> None:
    """CLIENT UNBLOCK, over another connection, may be read before the BLPOP that was sent first."""
    stage = Stage(iter(()))
    assert stage.run(stage.waiting.wait((KEY,), 0.5)) is None
    stage.moves, stage.heard[:] = iter(["", *["not read yet", ""] * 2, "token"]), []
    assert stage.run(stage.waiting.withdraw()) == [KEY]
    assert stage.heard == [0, 0.01, 0.02, None]
    assert stage.run(stage.waiting.wait((KEY,), 0.5)) is None
    stage.moves, stage.heard[:] = iter(["", *["not read yet", ""] * 9]), []
    assert stage.run(stage.waiting.withdraw()) == []
    assert stage.heard == [0, *[0.01 * 2**n for n in range(7)], None]
    assert stage.waiting.lines == [], "it stays unread: the connection is dead"


# ── after trouble ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seconds", [0.5, 0.02])
def test_a_connection_that_breaks_is_not_made_anew_at_once(seconds: float) -> None:
    stage = Stage(iter(["cut"]))
    assert stage.run(stage.waiting.wait((KEY,), seconds)) is None
    assert stage.rested == min(seconds, 0.05)


@pytest.mark.parametrize("when", ["it is sent", "it waits", "it goes on", "it is withdrawn"])
def test_after_a_claim_that_got_no_answer_it_rests_a_moment_or_leaves(when: str) -> None:
    stage = Stage(iter(()))
    stage.engine.may_unblock = True
    ahead = claim("c")
    wait = partial(stage.waiting.wait, (KEY,), 0.5, ahead)
    stage.moves = iter({"it is sent": ["cut"], "it waits": ["", "cut"]}.get(when, []))
    if when in ("it goes on", "it is withdrawn"):
        assert stage.run(wait()) is None
        stage.moves = iter(["cut"])
    with pytest.raises(ServerUnavailable):
        stage.run(stage.waiting.withdraw() if when == "it is withdrawn" else wait())
    assert stage.rested == (0 if when == "it is withdrawn" else 0.05)
    assert stage.waiting.lines == []


def test_without_the_right_to_end_a_wait_any_more_no_claim_stands_behind_the_next() -> None:
    stage = Stage(iter(()))
    ahead = claim("c")
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead)) is None
    stage.unblocking = server.NoPermissionError("no")
    with pytest.raises(ServerUnavailable):
        stage.run(stage.waiting.withdraw())
    assert stage.run(stage.waiting.wait((KEY,), 0.5, ahead)) is None
    assert stage.far.blocked
    assert stage.far.said == []


# ── on several nodes ──────────────────────────────────────────────────────────────────────────


class Nodes(Stage):
    """A cluster: each list has a line of its own, to the node that serves it."""

    def __init__(self, **serving: str) -> None:
        super().__init__(iter(()))
        self.serving = serving
        self.away: set[str] = set()  # nodes that no connection leads to
        self.engine.slots = SimpleNamespace(
            serves=lambda node, name: self.serving[name] == node,
            is_sound=lambda name: self.serving[name] not in self.away,
            doubted=(),
        )
        self.engine.may_unblock = True
        self.opens: list[Sequence[str]] = []

    def perform(self, action: waiting.Action) -> Any:
        match action:
            case waiting.Open(names):
                self.opens.append(names)
                return [
                    Line(SimpleNamespace(hello=self.hello, node=node, far=Far()), [name])
                    for name in names
                    if (node := self.serving[name]) not in self.away
                ]
            case waiting.Send(line, data):
                line.wire.far.said.append(data)
            case waiting.Hear(_, seconds):
                self.heard.append(seconds)
            case _:
                return super().perform(action)
        return None


def test_a_wait_looks_at_the_map_of_a_cluster_meanwhile() -> None:
    stage = Nodes(a="one")
    for seconds, looks in [(0.9, [0.4, 0.4, 0.1]), (0.4, [0.4]), (0.1, [0.1])]:
        stage.heard.clear()
        assert stage.run(stage.waiting.wait(("a",), seconds, claim(f"c{seconds}"))) is None
        assert stage.heard == pytest.approx(looks)
        stage.run(stage.waiting.close())
        stage.waiting._ahead = None


def test_a_queue_that_another_node_serves_now_is_waited_for_there() -> None:
    stage = Nodes(a="one", b="one")
    for _ in range(2):
        assert stage.run(stage.waiting.wait(("a", "b"), 0.1)) is None
    assert len(stage.opens) == 1
    stage.serving["b"] = "two"
    assert stage.run(stage.waiting.wait(("a", "b"), 0.1)) is None
    assert [line.wire.node for line in stage.waiting.lines] == ["one", "two"]
    stage.serving["a"] = "two"
    assert stage.run(stage.waiting.withdraw()) == []
    assert stage.waiting.lines == [], "what the other node knows nothing of is not ended there"


@pytest.mark.parametrize(("names", "looks"), [(("a",), [0.1]), (("a", "b"), [0.1, 0])])
def test_what_was_heard_on_one_line_keeps_no_token_of_another_waiting(
    names: tuple[str, ...], looks: list[float]
) -> None:
    """And where there is no other line, there is nothing to look for."""

    class Told(Nodes):
        def perform(self, action: waiting.Action) -> Any:
            answer = super().perform(action)
            if isinstance(action, waiting.Hear) and len(self.heard) == 1:
                (line, *_) = action.lines
                return line if line.talk.feed(b">2\r\n$1\r\nx\r\n$1\r\ny\r\n") else None
            return answer

    stage = Told(a="one", b="two")
    assert stage.run(stage.waiting.wait(names, 0.1)) == []
    assert stage.heard == looks


def test_a_claim_stands_behind_the_wait_of_one_line_only() -> None:
    stage = Nodes(a="one", b="two")
    assert stage.run(stage.waiting.wait(("a", "b"), 0.1, claim("c"))) is None
    for line in stage.waiting.lines:
        assert b"".join(line.wire.far.said) == packed(("BLPOP", *line.names, "0.000"))


def test_a_queue_whose_node_was_away_is_waited_for_once_it_is_there() -> None:
    stage = Nodes(a="one", b="two")
    stage.away = {"two"}
    for _ in range(2):
        assert stage.run(stage.waiting.wait(("a", "b"), 0.1)) is None
    assert [line.names for line in stage.waiting.lines] == [["a"]]
    assert len(stage.opens) == 1, "not as long as it is away"
    stage.away = set()
    assert stage.run(stage.waiting.wait(("a", "b"), 0.1)) is None
    assert [line.names for line in stage.waiting.lines] == [["a"], ["b"]]
    assert stage.run(stage.waiting.wait(("a", "b"), 0.1)) is None
    assert len(stage.opens) == 2
