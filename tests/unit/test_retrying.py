"""One call and its answer, driven by hand: what is sent next after each thing that can go wrong."""

from __future__ import annotations

import ssl
from itertools import pairwise
from typing import Any

import pytest
from redis import exceptions as server

from atomq import calls, errors
from atomq.actions import WAYS, Ask, Elsewhere, NoAnswer, NotLoaded, Pause, Replaced, Send
from atomq.calls import Call, Outgoing
from atomq.conversation import packed
from atomq.durability import Confirmed, Durability
from atomq.flight import Flight
from atomq.ids import CallId
from atomq.keys import QueueKeys, RegisterKeys
from atomq.retrying import HEALS, Retry, asking, calling, leads_astray
from atomq.translating import Unsent, connecting, translated, unsent

KEYS = QueueKeys("q")


def ack() -> Call[Any]:
    return calls.ack(KEYS, ["r-1.0.1"])


def pause() -> Call[Any]:
    return calls.pause(KEYS)


class Driver:
    """Plays the server: answers each step, notes them."""

    def __init__(self, *given: Call[Any], retry: Retry | None = None, single: bool = True) -> None:
        self._steps = calling(given, retry or Retry(), single=single)
        self.step: Any = next(self._steps)
        self.result: list[Any] | None = None

    def answer(self, value: Any = None) -> Any:
        """Answer the step; the next one."""
        try:
            raises = isinstance(value, BaseException)
            self.step = self._steps.throw(value) if raises else self._steps.send(value)
        except StopIteration as stop:
            self.step, self.result = None, stop.value
        return self.step

    def sent(self) -> list[Call[Any]]:
        assert isinstance(self.step, Send)
        return list(self.step.calls)

    def loaded(self) -> list[str]:
        """The scripts that are loaded in the same flight."""
        assert isinstance(self.step, Send)
        return [call.script.name for call in self.step.loads]


def answer_always(driver: Driver, error: Exception) -> None:
    while isinstance(driver.step, Send | Pause):
        sent = isinstance(driver.step, Send)
        driver.answer([*("sha" for _ in driver.loaded()), error] if sent else None)


NOSCRIPT = server.NoScriptError("No matching script.")


def sure() -> Call[Any]:
    durability = Durability.of("replicas=2", 1.5)
    return calls.publish(KEYS, [Outgoing("{}", "i")], call_id=CallId("p", 1), durability=durability)


def test_what_is_confirmed_is_the_result() -> None:
    driver = Driver(sure())
    driver.answer([Confirmed(1, [2])])
    assert driver.result == [calls.Published(1)]


def test_what_is_not_confirmed_is_an_error_and_not_sent_again() -> None:
    with pytest.raises(errors.NotDurable, match=r"1 of 2 replicas .* 1\.5 s \(publish of 'q'\)"):
        Driver(sure()).answer([Confirmed(1, [1])])
    with pytest.raises(errors.AtomqError, match="no permissions"):
        Driver(sure()).answer([Confirmed(1, [server.NoPermissionError("no permissions")])])
    both = Driver(sure(), ack(), single=False)
    both.answer([Confirmed(1, [1]), []])
    assert both.result is not None
    assert isinstance(both.result[0], errors.NotDurable)
    assert both.result[1] == [calls.Verdict.DONE]


@pytest.mark.parametrize(
    "said",
    [
        server.ResponseError("UNBLOCKED force unblock from blocking operation"),
        server.ResponseError("WAIT cannot be used with replica instances."),
    ],
)
def test_a_wait_that_a_demotion_ended_is_sent_again_as_a_repeated_call(said: Exception) -> None:
    driver = Driver(sure())
    assert isinstance(driver.answer([Confirmed(1, [said])]), Pause)
    driver.answer()
    (again,) = driver.sent()
    assert again.repeated
    assert again.durability == sure().durability
    assert again.args == sure().args  # under its number
    driver.answer([Confirmed("1 1 ", [2])])
    assert driver.result == [calls.Published(1, repeated=True)]


def test_a_wait_that_is_given_up_for_another_master_is_no_lost_answer() -> None:
    driver = Driver(sure(), retry=Retry(attempts=1))
    for _ in range(5):
        assert isinstance(driver.answer(Replaced("another server has become the master")), Pause)
        driver.answer()
        assert driver.sent()[0].repeated
    driver.answer([Confirmed(1, [2])])
    assert driver.result == [calls.Published(1)]


def test_one_wait_is_for_all_of_a_flight_that_ask_for_it() -> None:
    waits = [packed(("WAIT", 2, 1500))]
    plain = Flight([ack()])
    assert (plain.data, plain.patience) == ([packed(ack().command())], 0)
    assert plain.replies(["r"]) == ["r"]
    flight = Flight([sure(), ack(), sure()], [sure()])
    assert flight.data[4:] == waits
    assert flight.patience == 1.5
    failed = server.ResponseError("OOM")
    assert flight.replies(["sha", failed, "r", 1, 2]) == ["sha", failed, "r", Confirmed(1, [2])]


def test_what_writes_nothing_when_it_is_repeated_is_not_waited_for() -> None:
    with pytest.raises(errors.InvalidArgument, match="needs a call_id"):
        calls.publish(KEYS, [Outgoing("{}", "i")], durability=Durability.of("fsync", 1))


def test_an_answer_is_the_result() -> None:
    driver = Driver(ack())
    driver.answer([[]])
    assert driver.result == [[calls.Verdict.DONE]]


def test_an_unknown_script_is_loaded_and_the_call_sent_again_as_it_was() -> None:
    driver = Driver(ack())
    assert driver.loaded() == []
    driver.answer([NOSCRIPT])
    assert driver.loaded() == ["ack"], "in one flight, lest it is forgotten in between"
    [again] = driver.sent()
    assert not again.repeated, "it surely was not carried out"
    driver.answer(["sha", [1]])
    assert driver.result == [[calls.Verdict.LOST]]


UNKNOWN = NotLoaded(("a", 1))  # as a node of a cluster says it
NOPERM = server.NoPermissionError("NOPERM no script|load")


def test_in_a_cluster_who_may_not_load_waits_for_a_moment_for_others_to_do_it() -> None:
    driver = Driver(ack())
    driver.answer([UNKNOWN])
    for _ in range(2):
        assert driver.loaded() == ["ack"]
        step = driver.answer([NOPERM, UNKNOWN])
        assert isinstance(step, Pause)
        assert isinstance(step.trouble, errors.ScriptsNotLoaded)
        driver.answer()
    driver.answer([NOPERM, [1]])
    assert driver.result == [[calls.Verdict.LOST]], "it was loaded in between"


@pytest.mark.parametrize(("retry", "times"), [(Retry(), 5), (Retry(attempts=0), 0)])
def test_in_a_cluster_too_it_is_said_what_is_to_be_done(retry: Retry, times: int) -> None:
    driver = Driver(ack(), retry=retry)
    driver.answer([UNKNOWN])
    for _ in range(times):
        assert isinstance(driver.answer([NOPERM, UNKNOWN]), Pause)
        driver.answer()
    with pytest.raises(errors.ScriptsNotLoaded, match=r"script ack .*atomq scripts load"):
        driver.answer([NOPERM, UNKNOWN])


def test_in_a_batch_each_unknown_script_is_loaded_once_and_only_those_calls_go_again() -> None:
    driver = Driver(ack(), pause(), ack(), calls.inspect(KEYS), single=False)
    driver.answer([NOSCRIPT, 1, NOSCRIPT, NOSCRIPT])
    assert driver.loaded() == ["ack", "inspect"]
    assert [call.script.name for call in driver.sent()] == ["ack", "ack", "inspect"]
    driver.answer(["sha", "sha", [], NOSCRIPT, server.ResponseError("WRONGTYPE q is not")])
    assert driver.loaded() == ["ack"]
    driver.answer(["sha", [1]])
    assert driver.result is not None
    assert driver.result[:3] == [[calls.Verdict.DONE], True, [calls.Verdict.LOST]]
    assert isinstance(driver.result[3], errors.WrongType)


def test_a_script_that_nobody_may_load_is_named_with_the_command_that_loads_it() -> None:
    driver = Driver(ack())
    driver.answer([NOSCRIPT])
    with pytest.raises(errors.ScriptsNotLoaded, match=r"script ack .*atomq scripts load"):
        driver.answer([server.NoPermissionError("no"), NOSCRIPT])


def test_scripts_that_were_there_are_waited_for_as_long_as_a_server_that_is_away() -> None:
    driver = Driver(ack(), retry=Retry(loaded=True))
    driver.answer([NOSCRIPT])
    for _ in range(3 * HEALS):
        step = driver.answer([NOPERM, NOSCRIPT])
        assert isinstance(step, Pause)
        assert isinstance(step.trouble, errors.ScriptsNotLoaded)
        driver.answer()
        assert driver.loaded() == ["ack"]
    driver.answer([NOPERM, [1]])
    assert driver.result == [[calls.Verdict.LOST]], "it was loaded in between"


def test_scripts_that_do_not_come_back_are_an_outage_that_says_what_is_to_be_done() -> None:
    driver = Driver(ack(), retry=Retry(loaded=True, attempts=0))
    driver.answer([NOSCRIPT])
    with pytest.raises(
        errors.ServerUnavailable, match=r"script ack .*atomq scripts load"
    ) as raised:
        driver.answer([NOPERM, NOSCRIPT])
    assert raised.value.unsent
    assert isinstance(raised.value.__cause__, errors.ScriptsNotLoaded)


def test_what_is_known_of_scripts_stays_known_where_more_or_less_patience_is_left() -> None:
    retry = Retry(attempts=7, budget=2.0, longest=0.5, loaded=True)
    assert retry.longer(1.0) == Retry(attempts=7, budget=3.0, longest=0.5, loaded=True)
    assert retry.after(1.5) == Retry(attempts=7, budget=0.5, longest=0.5, loaded=True)


def test_a_connection_lost_while_loading_is_as_one_lost_by_the_call() -> None:
    driver = Driver(ack(), retry=Retry(1, 10))
    driver.answer([NOSCRIPT])
    assert isinstance(driver.answer(server.ConnectionError("gone")), Pause)
    driver.answer()
    assert driver.loaded() == ["ack"]
    assert driver.sent()[0].repeated


def test_what_passes_while_loading_passes_with_the_call() -> None:
    driver = Driver(ack())
    driver.answer([NOSCRIPT])
    busy = server.ResponseError("BUSY Redis is busy running a script")
    assert isinstance(driver.answer([busy, busy]), Pause)
    driver.answer()
    driver.answer([[]])
    assert driver.result == [[calls.Verdict.DONE]]


def test_a_server_that_cannot_load_a_script_is_an_error_of_ours() -> None:
    driver = Driver(ack())
    driver.answer([NOSCRIPT])
    with pytest.raises(errors.ServerTooOld):
        driver.answer([server.ResponseError("unknown command 'SCRIPT'"), NOSCRIPT])


def test_who_flushes_without_end_is_told() -> None:
    driver = Driver(ack())
    driver.answer([NOSCRIPT])
    for _ in range(HEALS - 1):
        driver.answer(["sha", NOSCRIPT])
    with pytest.raises(errors.ScriptsNotLoaded, match="as fast as they are loaded"):
        driver.answer(["sha", NOSCRIPT])


def test_a_lost_connection_is_tried_again_and_the_verdicts_say_unknown() -> None:
    driver = Driver(ack())
    for _ in range(3):
        wait = driver.answer(server.ConnectionError("gone"))
        assert isinstance(wait, Pause)
        assert 0.01 <= wait.seconds <= 1
        driver.answer()
        [again] = driver.sent()
        assert again.repeated
    driver.answer([[1]])
    assert driver.result == [[calls.Verdict.UNKNOWN]]


LOST = [
    server.ConnectionError("gone"),
    server.TimeoutError("slow"),
    OSError("gone"),
]
TURNED_AWAY = [
    Unsent(server.ConnectionError("refused")),
    Unsent(server.TimeoutError("no answer to SYN")),
    server.BusyLoadingError("loading"),
    [server.ReadOnlyError("a replica")],
    [server.MasterDownError("down")],
    [server.ClusterDownError("down")],
    [server.TryAgainError("again")],
    [server.ResponseError("UNBLOCKED instance state changed")],
    [server.ResponseError("BUSY Redis is busy running a script")],
    [server.ResponseError("MISCONF Redis is configured to save RDB snapshots")],
    [server.ResponseError("NOREPLICAS Not enough good replicas to write.")],
]


@pytest.mark.parametrize("trouble", LOST, ids=lambda trouble: repr(trouble)[:40])
def test_what_got_no_answer_is_sent_again_as_often_as_the_attempts_say(trouble: Any) -> None:
    driver = Driver(ack(), retry=Retry(attempts=2, budget=10))
    for _ in range(2):
        assert isinstance(driver.answer(trouble), Pause)
        driver.answer()
        assert driver.sent()[0].repeated
    with pytest.raises(errors.ServerUnavailable, match="3 attempts"):
        driver.answer(trouble)


@pytest.mark.parametrize("trouble", TURNED_AWAY, ids=lambda trouble: repr(trouble)[:40])
def test_what_was_not_carried_out_is_sent_again_until_the_budget_is_spent(
    trouble: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("atomq.retrying.time.monotonic", lambda: now[0])
    driver = Driver(ack(), retry=Retry(attempts=2, budget=5))
    tries = 0
    while now[0] < 105:
        pause = driver.answer(trouble)
        assert isinstance(pause, Pause)
        tries, now[0] = tries + 1, now[0] + pause.seconds
        driver.answer()
        assert not driver.sent()[0].repeated, "it surely was not carried out"
    assert tries > 5
    assert now[0] == pytest.approx(105), "the last try is made at the end of the budget"
    with pytest.raises(errors.ServerUnavailable, match=r"attempts in 5\.0 s"):
        driver.answer(trouble)


@pytest.mark.parametrize("trouble", [*LOST, *TURNED_AWAY], ids=lambda trouble: repr(trouble)[:40])
def test_without_attempts_nothing_is_tried_again(trouble: Any) -> None:
    with pytest.raises(errors.ServerUnavailable, match="1 attempt in"):
        Driver(ack(), retry=Retry(attempts=0, budget=10)).answer(trouble)


def test_a_wrong_certificate_is_not_waited_for() -> None:
    error = server.ConnectionError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    assert connecting(error) is error
    refused = connecting(server.ConnectionError("refused"))
    assert isinstance(refused, Unsent)


def test_the_register_is_no_queue_in_words() -> None:
    for call, doing in (
        (calls.roster(RegisterKeys()), "reading"),
        (calls.register(RegisterKeys(), ["q"]), "writing"),
    ):
        driver = Driver(call, retry=Retry(attempts=0))
        with pytest.raises(errors.ServerUnavailable, match=rf"\({doing} the register, 1 attempt"):
            driver.answer(server.ConnectionError("gone"))


def test_the_budget_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("atomq.retrying.time.monotonic", lambda: now[0])
    driver = Driver(ack(), retry=Retry(attempts=9, budget=5))
    driver.answer(server.ConnectionError("gone"))
    driver.answer()
    now[0] += 6
    with pytest.raises(errors.ServerUnavailable, match=r"2 attempts in 6.0 s"):
        driver.answer(server.ConnectionError("gone"))


def test_what_is_left_of_a_budget_and_what_a_slow_answer_adds_to_it() -> None:
    assert Retry() == Retry(3, 10.0, 1.0), "as the options promise"
    assert Retry(2, 10.0).after(4.0) == Retry(2, 6.0)
    assert Retry(2, 10.0).after(11.0) == Retry(2, 0.0)
    assert Retry(2, 10.0).longer(4.0) == Retry(2, 14.0)


def test_pauses_grow_and_differ() -> None:
    retry = Retry()
    for attempt, most in ((1, 0.1), (2, 0.2), (3, 0.4), (9, 1.0)):
        pauses = {retry.pause(attempt) for _ in range(200)}
        assert len(pauses) > 100
        assert 0.01 <= min(pauses) <= most / 2 <= max(pauses) <= most


def test_in_a_batch_an_error_stands_in_the_place_of_its_result() -> None:
    driver = Driver(ack(), ack(), single=False)
    driver.answer([server.ResponseError("BADARG receipt: bad"), []])
    assert driver.result is not None
    assert isinstance(driver.result[0], errors.InvalidArgument)
    assert driver.result[1] == [calls.Verdict.DONE]


def test_in_a_batch_an_answer_that_was_lost_is_counted_and_the_first_call_left_is_named() -> None:
    driver = Driver(ack(), pause(), retry=Retry(attempts=1), single=False)
    lost = NoAnswer(server.TimeoutError("late"))
    step = driver.answer([lost, NoAnswer(Unsent(OSError("gone")))])
    assert step.call.script.name == "ack"
    driver.answer()
    with pytest.raises(errors.ServerUnavailable, match="2 attempts") as caught:
        driver.answer([lost, NoAnswer(Unsent(OSError("gone")))])
    assert not caught.value.unsent


def test_in_a_batch_a_node_that_refuses_us_is_not_asked_again() -> None:
    driver = Driver(ack(), ack(), single=False)
    driver.answer([NoAnswer(server.AuthenticationError("WRONGPASS")), []])
    assert driver.result is not None
    assert isinstance(driver.result[0], errors.AtomqError)


def test_a_node_that_gave_no_answer_while_loading_is_asked_again() -> None:
    driver = Driver(ack(), ack(), single=False)
    driver.answer([NOSCRIPT, []])
    gone = NoAnswer(server.ConnectionError("gone"))
    assert isinstance(driver.answer([gone, gone]), Pause)
    driver.answer()
    driver.answer([[]])
    assert driver.result == [[calls.Verdict.DONE]] * 2


def test_of_a_slot_that_moves_its_owner_says_the_next_time_where_to_ask() -> None:
    driver = Driver(ack().at(("b", 2)))
    assert isinstance(driver.answer([server.TryAgainError("TRYAGAIN")]), Pause)
    driver.answer()
    assert driver.sent()[0].place is None


def test_a_call_goes_from_node_to_node_at_once_and_after_some_times_waits() -> None:
    driver = Driver(ack())
    for _ in range(WAYS):
        assert isinstance(driver.answer([Elsewhere("MOVED 1 b:2")]), Send)
    assert isinstance(driver.answer([Elsewhere("MOVED 1 b:2")]), Pause)


# ── one command ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("error", [Unsent(OSError("no")), server.BusyLoadingError("loading")])
def test_a_command_that_was_surely_not_done_is_tried_again(error: Exception, reads: bool) -> None:
    steps = asking(("GET", "k", "x"), Retry(), reads=reads)
    for _ in range(5):
        assert next(steps) == Ask(("GET", "k", "x"))
        assert isinstance(steps.throw(error), Pause)
    next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.send(b"v")
    assert ended.value.value == [b"v"]
    steps = asking(("GET", "k", "x"), Retry(attempts=0), reads=reads)
    next(steps)
    with pytest.raises(errors.ServerUnavailable, match=r"\(GET, 1 attempt") as caught:
        steps.throw(error)
    assert caught.value.unsent


def test_a_command_whose_answer_was_lost_is_tried_again_if_it_only_reads() -> None:
    gone = server.ConnectionError("gone")
    steps = asking(("INCR", "k"), Retry())
    next(steps)
    with pytest.raises(errors.ServerUnavailable, match="gone"):
        steps.throw(gone)
    steps = asking(("GET", "k"), Retry(attempts=1), reads=True)
    next(steps)
    assert isinstance(steps.throw(gone), Pause)
    next(steps)
    with pytest.raises(errors.ServerUnavailable, match="2 attempts"):
        steps.throw(gone)
    steps = asking(("GET", "k"), Retry(), reads=True)
    next(steps)
    with pytest.raises(errors.ServerError):
        steps.throw(server.ResponseError("ERR syntax error"))


@pytest.mark.parametrize(
    ("reply", "leads"),
    [
        (server.ReadOnlyError("a replica"), True),
        (server.ConnectionError("closed"), True),
        (server.ResponseError("UNBLOCKED force unblock"), True),
        (server.ResponseError("ERR no"), False),
    ],
)
def test_what_says_that_a_connection_leads_to_a_replica(reply: Exception, leads: bool) -> None:
    assert leads_astray(reply) == leads


def test_in_a_batch_what_passes_is_sent_again_alone() -> None:
    driver = Driver(ack(), pause(), single=False)
    driver.answer([server.ReadOnlyError("a replica"), 0])
    driver.answer()
    assert [call.script.name for call in driver.sent()] == ["ack"]
    driver.answer([[]])
    assert driver.result == [[calls.Verdict.DONE], False]


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (server.OutOfMemoryError("command not allowed"), errors.ServerFull),
        (server.ResponseError("OOM command not allowed when used memory"), errors.ServerFull),
        (
            server.ResponseError("Error running script: @user_script:3: OOM command not allowed"),
            errors.ServerFull,
        ),
        (server.NoPermissionError("no"), errors.PermissionDenied),
        (
            server.ResponseError("ERR ACL failure in script: this user has no permissions"),
            errors.PermissionDenied,
        ),
        (
            server.ResponseError(
                "Error running script (call to f_1): @user_script:1: @user_script: 1: "
                "The user executing the script can't run this command or subcommand"
            ),
            errors.PermissionDenied,
        ),
        (server.AuthenticationError("WRONGPASS"), errors.PermissionDenied),
        (server.ConnectionError("gone"), errors.ServerUnavailable),
        (server.TimeoutError("slow"), errors.ServerUnavailable),
        (OSError("gone"), errors.ServerUnavailable),
        (server.ReadOnlyError("a replica"), errors.ServerUnavailable),
        (server.ClusterDownError("down"), errors.ServerUnavailable),
        (server.ResponseError("BADARG limit: 7 is not"), errors.InvalidArgument),
        (server.ResponseError("WRONGTYPE q is not of the type"), errors.WrongType),
        (server.ResponseError("INUSE the queue has unacked messages, 1"), errors.QueueInUse),
        (server.ResponseError("unknown command 'ZMSCORE'"), errors.ServerTooOld),
        (
            server.ResponseError("Unknown Redis command called from script script: f_1"),
            errors.ServerTooOld,
        ),
        (server.NoScriptError("No matching script."), errors.ScriptsNotLoaded),
        (
            server.ResponseError("user_script:2: attempt to index a nil value"),
            errors.ScriptFault,
        ),
        (server.ResponseError("something else"), errors.ServerError),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, Exception) else "",
)
def test_each_error_is_one_of_ours(error: Exception, ours: type) -> None:
    for call in (ack(), None):
        found = translated(error, call)
        assert type(found) is ours
        refused = isinstance(error, server.AuthenticationError)
        assert call is None or refused or "ack" in str(found), "it says which call it was"
    if not isinstance(error, server.ConnectionError | server.TimeoutError | OSError):
        with pytest.raises(ours):
            answer_always(Driver(ack(), retry=Retry(attempts=0, budget=0)), error)


def test_a_key_of_another_type_is_told_with_what_to_do() -> None:
    words = "another program uses it, rename it there or delete it"
    inside = server.ResponseError("WRONGTYPE q is not of the type LLEN reads")
    outside = server.ResponseError("WRONGTYPE Operation against a key holding the wrong kind …")
    ours = f"the key q is not of the type LLEN reads: {words} (ack of 'q')"
    assert str(translated(inside, ack())) == ours
    assert str(translated(outside)) == f"a key holds a value of another type: {words}"


def test_a_fault_of_a_script_names_its_file_and_line() -> None:
    large = translated(server.ResponseError("Protocol error: invalid bulk length"), ack())
    assert isinstance(large, errors.InvalidMessage)
    found = translated(server.ResponseError("user_script:2: attempt to index"), ack())
    assert "lua/" in str(found)


def caused(depth: int, last: Exception) -> Exception:
    """A connection error, and that so deep behind it."""
    errors: list[Exception] = [*(server.ConnectionError(str(i)) for i in range(depth)), last]
    for i, (error, cause) in enumerate(pairwise(errors)):
        if i % 2:
            error.__cause__ = cause
        else:
            error.__context__ = cause
    return errors[0]


def test_a_certificate_is_looked_for_among_nine_causes() -> None:
    for depth in (1, 2, 8, 9):
        error = caused(depth, ssl.SSLCertVerificationError("expired"))
        assert connecting(error) is error, "trying again does not help"
    for depth in (10, 40):
        error = caused(depth, ssl.SSLCertVerificationError("expired"))
        assert isinstance(connecting(error), Unsent)


def test_what_was_not_sent_says_so() -> None:
    away = unsent(Unsent(server.ConnectionError("refused")), ack())
    assert isinstance(away, errors.ServerUnavailable)
    assert away.unsent
    other = unsent(server.ResponseError("WRONGTYPE q is not of the type LLEN reads"), ack())
    assert isinstance(other, errors.WrongType)
    assert not hasattr(other, "unsent")


def test_a_partition_that_is_none_is_named() -> None:
    refusal = server.ResponseError("NOPART q")
    found = translated(refusal, ack())
    assert isinstance(found, errors.UnknownPartition)
    assert found.partition == "q"
    assert type(translated(refusal)) is errors.ServerError


def test_a_queue_in_use_is_told_with_what_to_do() -> None:
    words = "stop its consumers, or delete(force=True) and their acks will find nothing"
    held = translated(server.ResponseError("INUSE 3 messages are unacked"), ack())
    assert str(held) == f"3 messages are unacked: {words} (ack of 'q')"
    for said in ("INUSE it has consumers", "BADARG it is unacked"):
        assert words not in str(translated(server.ResponseError(said), ack()))


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("HELLO must be called with the client already authenticated", "it wants one"),
        ("Authentication required.", "it wants one"),
        ("WRONGPASS invalid username-password pair", "WRONGPASS invalid"),
    ],
)
def test_a_missing_password_is_told_from_a_wrong_one(said: str, ours: str) -> None:
    found = translated(server.AuthenticationError(said))
    assert str(found).startswith(f"the server refused user or password: {ours}")


def test_a_refused_password_is_not_tried_again() -> None:
    driver = Driver(ack())
    with pytest.raises(errors.PermissionDenied, match="user or password"):
        driver.answer(server.AuthenticationError("WRONGPASS"))


def test_an_error_of_redis_py_that_is_new_to_us_is_still_ours() -> None:
    driver = Driver(ack())
    with pytest.raises(errors.ServerError):
        driver.answer(server.InvalidResponse("Protocol error"))
