"""The tables of the documentation that are made from code: `make docs`, or `--check` them.

A table stands between `<!-- table: name -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator

from atomq.cli import acl
from atomq.contrib.kombu import settings
from atomq.options import OptionRow, Options
from tests.docs.pages import PAGES, text_of
from tests.servers import ROOT

WIRE = "tests/contrib/test_wire.py"
LEASES = "tests/contrib/test_leases.py"
FAULTS = "tests/faults/test_connections.py"
SETTINGS = "tests/contrib/test_settings.py"
CONNECT = "tests/unit/test_connect.py"
DURABILITY = "tests/faults/test_durability.py"

# What a Celery user sets, by subject: name, what there is to know besides the schema, the test.
# "" takes the words of the schema.
_LAYOUT = f"{WIRE}::test_messages_by_priority"
_FOREIGN = f"{WIRE}::test_what_a_dead_stock_worker_held_is_taken_over_after_the_visibility_timeout"
_FANOUT = f"{WIRE}::test_broadcasts"
CELERY: dict[str, tuple[str, str]] = {
    "visibility_timeout": ("", _FOREIGN),
    "fanout_prefix": (
        "True: broadcasts stay in their database. Text: a template such as `/{db}.`.",
        _FANOUT,
    ),
    "fanout_patterns": (
        "True: a worker receives the events it subscribed to. False: it receives all.",
        _FANOUT,
    ),
    "global_keyprefix": ("", _LAYOUT),
    "sep": ("", _LAYOUT),
    "priority_steps": ("", _LAYOUT),
    "queue_order_strategy": (
        "Queues within a priority: `round_robin`, `priority` (as declared), `sorted`, a class.",
        "tests/contrib/test_order.py::test_queue_order",
    ),
    "virtual_host": ("", f"{SETTINGS}::test_urls"),
    "master_name": ("", f"{SETTINGS}::test_sentinel_urls"),
    "min_other_sentinels": (
        "",
        f"{CONNECT}::test_a_sentinel_that_sees_too_few_others_is_not_believed",
    ),
    "sentinel_kwargs": ("", f"{CONNECT}::test_sentinels_have_settings_of_their_own"),
    "body_encoding": (
        "How bodies are wrapped: `base64`; None: not at all, where they are text.",
        f"{WIRE}::test_text_need_not_be_wrapped",
    ),
    "deadletter_queue": (
        "Where a message goes that no queue is bound for. None: it is an error.",
        f"{WIRE}::test_what_leads_nowhere_goes_where_it_is_told",
    ),
    "socket_timeout": ("", f"{CONNECT}::test_a_silent_server_is_given_up_after_the_socket_timeout"),
    "socket_connect_timeout": ("", f"{WIRE}::test_a_failed_connection_raises_what_stock_raises"),
    "socket_keepalive": ("", f"{CONNECT}::test_keepalive_is_set_and_can_be_left_off"),
    "socket_keepalive_options": (
        "",
        f"{CONNECT}::test_a_keepalive_setting_this_system_lacks_is_named",
    ),
    "ssl": ("", f"{SETTINGS}::test_tls"),
    "credential_provider": ("", f"{SETTINGS}::test_who_connects_by_a_provider"),
    "client_name": ("", f"{CONNECT}::test_a_connection_without_a_name"),
    "max_connections": ("", f"{FAULTS}::test_an_engine_opens_no_more_connections_than_it_may"),
    "health_check_interval": (
        "",
        f"{FAULTS}::test_a_connection_that_idled_for_long_is_not_trusted",
    ),
    "sentinel_fanout_compat": (
        "Behind Sentinel: broadcasts also under the names of Kombu before 5.4.",
        f"{WIRE}::test_broadcasts_from_before_kombu_5_4_behind_a_sentinel",
    ),
    "unacked_key": ("Where stock workers keep what they hold.", _FOREIGN),
    "unacked_index_key": ("Where they keep since when.", _FOREIGN),
    "retry_on_timeout": (
        "True: `Producer.batch()` sends each message at once, as in stock. Nothing is doubled.",
        f"{WIRE}::test_no_batch_with_retry_on_timeout",
    ),
    "ack_emulation": (
        "Accepted. Messages are leased until they are acked, also with False.",
        f"{WIRE}::test_messages_are_leased_whatever_ack_emulation_says",
    ),
    "polling_interval": ("Accepted. Nothing is polled here.", ""),
}
PARTITIONS = "tests/contrib/test_partitions.py"
STEERING = "tests/contrib/test_steering.py"
OURS: dict[str, tuple[str, str]] = {
    "lease": ("", f"{LEASES}::test_tasks_three_times_as_long_as_the_lease_run_once"),
    "max_lease": (
        "",
        "tests/faults/test_leases.py::test_max_lease_counts_from_the_start_of_the_work",
    ),
    "dead_max": ("", "tests/lua/test_dead.py::test_dead_letters_beyond_the_limits_go"),
    "dead_ttl": ("", "tests/lua/test_dead.py::test_dead_letters_beyond_the_limits_go"),
    "max_deliveries": ("", "tests/contrib/test_poison.py::test_a_task_that_kills_its_child_ends"),
    "delay_in_server": (
        "Where an `eta` waits: [`auto`, `always` or `never`](#eta-and-countdown) in the server.",
        "tests/contrib/test_eta.py::test_delay_in_server",
    ),
    "partitions": (
        "By queue, how many [partitions](#one-queue-over-many-shards) it has: `{'orders': 12}`.",
        f"{PARTITIONS}::test_a_worker_does_all_that_it_does_on_a_queue",
    ),
    "tracked": (
        "True, or names of queues: [tracked](#where-is-my-task) is what is published to them.",
        f"{STEERING}::test_the_transport_option_and_the_message_say_what_is_tracked",
    ),
    "terminate_cancelled": (
        "Whether a running task ends that was cancelled: True (by SIGTERM), or a signal's name.",
        f"{STEERING}::test_tasks_are_found_and_cancelled_wherever_they_are",
    ),
    "dedup_window": (
        "",
        "tests/lua/test_publish.py::test_an_id_is_known_for_its_window_and_no_longer",
    ),
    "max_bytes": (
        "",
        "tests/lua/test_claim.py::test_bytes_stop_a_claim_but_never_before_the_first",
    ),
    "durability": (
        "What is [confirmed of a publish](#durability): `memory`, `replicas=N`, `fsync`.",
        f"{DURABILITY}::test_kombu_messages_say_it_each_or_by_the_transport",
    ),
    "durability_timeout": (
        "",
        f"{DURABILITY}::test_what_a_replica_has_not_confirmed_is_in_the_queue_and_says_so",
    ),
    "retry_attempts": (
        "",
        f"{FAULTS}::test_a_lost_reply_of_any_verb_is_harmless",
    ),
    "retry_budget": (
        "",
        f"{FAULTS}::test_a_server_that_does_not_answer_is_not_waited_for_without_end",
    ),
}
_DEFAULTS = {
    "fanout_prefix": True,
    "sentinel_fanout_compat": False,
    "retry_on_timeout": False,
    "ack_emulation": True,
    **{
        field.name: field.default
        for field in settings.Settings.__dataclass_fields__.values()
        if field.name in settings._OURS and field.name != "fanout_prefix"
    },
    **settings._DEFAULTS,
}


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def _table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    heads = list(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join(lines + ["| " + " | ".join(map(_cell, row)) + " |" for row in rows])


def _default(value: object) -> str:
    return f"`{list(value)!r}`" if isinstance(value, tuple) else f"`{value!r}`"


def options() -> str:
    """All options of the engine."""
    rows = [
        (f"`{row.name}`", row.type, _default(row.default), row.meaning)
        for row in Options.describe()
    ]
    return _table(("option", "what it may be", "default", "what it does"), rows)


def _celery(chosen: dict[str, tuple[str, str]]) -> Iterator[tuple[str, ...]]:
    known: dict[str, OptionRow] = {row.name: row for row in Options.describe()}
    for name, (words, test) in chosen.items():
        row = known.get(name)
        default = _DEFAULTS.get(name, row.default if row else None)
        meaning = words or (row.meaning if row else "")
        yield f"`{name}`", _default(default), meaning, f"`{test}`" if test else ""


def celery_options() -> str:
    """The options of Kombu's Redis transport."""
    return _table(("option", "default", "what it does", "tested by"), _celery(CELERY))


def atomq_options() -> str:
    """Those that only atomq has."""
    return _table(("option", "default", "what it does", "tested by"), _celery(OURS))


def ignored_options() -> str:
    """Options of Kombu's that mean nothing here."""
    return ", ".join(f"`{name}`" for name in sorted(settings._IGNORED - CELERY.keys()))


def inner_commands() -> str:
    """What the scripts run inside, as rights."""
    return " ".join(f"`+{name}`" for name in acl.inner_commands())


# What `make versus-stock` measured, the few lines that tell most: section, row, words.
_VERSUS = (
    ("sigkill", "tasks lost for ever", "tasks lost in {}"),
    ("long task", "starts", "starts of a task, 3 × the visibility timeout"),
    ("eta", "starts", "starts of a task, its eta 3 × that"),
    ("full memory", "messages destroyed", "messages destroyed at maxmemory"),
    ("poison", "lost in silence", "kinds of bad message lost in silence"),
    ("restore", "seconds until", "1,000 expired tasks are back, under load"),
    ("round trips", "prefork -c8", "round trips a task, eight processes"),
    ("no-op tasks/s", "prefork -c1", "tasks a second, one prefork process"),
)


def against_stock() -> str | None:
    """The story of docs/versus-stock.md in some lines, if it was made."""
    page = ROOT / "docs" / "versus-stock.md"
    if not page.exists():
        return None
    sections = dict(re.findall(r"^## (.+)\n((?:.*\n)*?)(?=## |\Z)", page.read_text(), re.MULTILINE))
    rows = []
    for section, row, words in _VERSUS:
        found = re.search(
            rf"^\| ({row}.*?) \| (.*?) \| (.*?) \|", _data(sections[section]), re.MULTILINE
        )
        assert found, (section, row)
        rows.append((words.format(found[1].rpartition(", ")[2]), found[2], found[3]))
    return _table(("", "stock", "atomq"), rows)


# What `make bench` counted that load does not move: section, its part, column, words.
_PEERS = (
    ("Publish, one by one", "", "round trips", "round trips to publish"),
    ("Consume and acknowledge", "1 consumer", "round trips", "… to consume and ack"),
    ("Consume and acknowledge", "1 consumer", "commands", "commands to consume and ack"),
    ("Tasks from end to end", "", "bytes on the wire", "bytes on the wire, from end to end"),
    ("Publish, one by one", "", "bytes in memory", "bytes in memory"),
    ("What waiting costs", "1 waiting", "commands", "commands a second, when it waits"),
)


def beside_peers() -> str | None:
    """The counts of docs/benchmarks.md in one table, if it was made."""
    page = ROOT / "docs" / "benchmarks.md"
    if not page.exists():
        return None
    text = page.read_text(encoding="utf-8")
    found: dict[str, list[str]] = {}
    for section, part, column, _ in _PEERS:
        body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        table = body[body.index(f"**{part}**") if part else 0 :].partition("\n|")[2]
        heads, _, *rows = table.partition("\n\n")[0].splitlines()
        at = [head.strip() for head in heads.split("|")].index(column) + 1
        for row in rows:
            cells = [cell.strip() for cell in row.split("|")]
            if not cells[1].startswith("floor") and len(cells) > at:
                found.setdefault(cells[1], []).append(cells[at])
    lines = [(name, *cells) for name, cells in sorted(found.items()) if len(cells) == len(_PEERS)]
    return _table(("", *(words for *_, words in _PEERS)), lines)


def _data(section: str) -> str:
    return section.partition("|---")[2]


TABLES: dict[str, Callable[[], str | None]] = {
    "against stock": against_stock,
    "beside peers": beside_peers,
    "options": options,
    "celery options": celery_options,
    "atomq options": atomq_options,
    "ignored options": ignored_options,
    "inner commands": inner_commands,
}


def made(text: str) -> str:
    """A page with its tables made anew."""
    return re.sub(
        r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)",
        lambda match: (
            f"{match[1]}{table}\n{match[3]}" if (table := TABLES[match[2]]()) else match[0]
        ),
        text,
        flags=re.DOTALL,
    )


def main(arguments: list[str]) -> int:
    """Write the pages anew; with --check, only say which are not up to date."""
    unnamed = settings._OURS.keys() - CELERY.keys() - OURS.keys()
    old = [page for page in PAGES if made(text_of(page)) != text_of(page)]
    if "--check" not in arguments:
        for page in old:
            (ROOT / page).write_text(made(text_of(page)), encoding="utf-8")
        old = []
    for page in old:
        print(f"{page} is not up to date: make docs")
    for name in unnamed:
        print(f"no page names the transport option {name}")
    return int(bool(old or unnamed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
