"""The page `docs/benchmarks.md` with its pictures, made of the figures of one run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.plot import Line, draw, median, short

Results = dict[str, Any]

COST = {
    "commands": "commands",
    "round_trips": "round trips",
    "bytes": "bytes on the wire",
    "server_us": "server CPU µs",
    "client_us": "client CPU µs",
}
RATE = {"rate": "msgs/s"}
MEMORY = {"memory": "bytes in memory"}


@dataclass(frozen=True)
class Section:
    """One table and its plot: `parts` of the results, with their `columns`."""

    name: str
    """Of the picture."""
    title: str
    text: str
    parts: dict[str, str]
    """Part → what it is called where there are several."""
    columns: dict[str, str]
    """Figure → head of its column; the first is drawn, and orders the lines."""
    axis: str
    more_is_better: bool = False


SECTIONS = (
    Section(
        "publish",
        "Publish, one by one",
        "One process publishes messages of 100 bytes, each answered before the next.",
        {"publish 100": ""},
        RATE | COST | MEMORY,
        "messages a second",
        more_is_better=True,
    ),
    Section(
        "batch",
        "Publish, 100 a call",
        "The same with the call that publishes several, where there is one.",
        {"batch 100": ""},
        RATE | COST | MEMORY,
        "messages a second",
        more_is_better=True,
    ),
    Section(
        "sizes",
        "Publish, larger messages",
        "As the first table, with messages of other sizes.",
        {"publish 1000": "1 KB", "publish 100000": "100 KB"},
        {"client_us": "client CPU µs", **RATE, "server_us": "server CPU µs"}
        | {"bytes": "bytes on the wire"}
        | MEMORY,
        "client CPU, µs a message",
    ),
    Section(
        "consume",
        "Consume and acknowledge",
        "A queue is filled while the consumers stand still (SIGSTOP); from the first handler to "
        "the last. Four consumers are four processes, and share the cores with the server.",
        {"consume 1": "1 consumer", "consume 4": "4 consumers"},
        RATE | COST,
        "messages a second",
        more_is_better=True,
    ),
    Section(
        "tasks",
        "Tasks from end to end",
        "One process publishes, one consumer runs tasks that do nothing: from the first publish to "
        "the last handler. CPU of both processes.",
        {"tasks": ""},
        RATE | COST,
        "tasks a second",
        more_is_better=True,
    ),
    Section(
        "wake",
        "Waking an idle consumer",
        "From before publish to the first line of a handler, one message at a time, with 1, 16 and "
        "64 consumers that wait. Commands and round trips a message are without what waiting costs "
        "anyway.",
        {"wake 1": "1 waiting", "wake 16": "16 waiting", "wake 64": "64 waiting"},
        {"p50": "p50 ms", "p95": "p95 ms"} | {n: COST[n] for n in ("commands", "round_trips")},
        "median, ms",
    ),
    Section(
        "idle",
        "What waiting costs",
        "A second, of all consumers together, when nothing comes. The server's own clock is in its "
        "CPU: about 1,000 µs.",
        {"idle 1": "1 waiting", "idle 16": "16 waiting", "idle 64": "64 waiting"},
        COST,
        "server commands a second",
    ),
    Section(
        "deep",
        "A deep backlog",
        "The queue holds very many messages that are ready, or very many due in a day while "
        "others go through it. Compare with “Consume and acknowledge”. The backlog is made of "
        "copies of one message that the peer stored.",
        {"deep ready": "ready", "deep delayed": "delayed"},
        {"server_us": "server CPU µs to consume", "publish_us": "server CPU µs to publish"}
        | {"commands": "commands to consume", "messages": "messages"}
        | MEMORY,
        "server CPU to consume one, µs",
    ),
)


def write(results: Results, docs: Path) -> None:
    """Write the page, its pictures and the figures below `docs`."""
    pictures = docs / "benchmarks"
    pictures.mkdir(exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for section in _present(results):
        (pictures / f"{section.name}.svg").write_text(picture(section, results), encoding="utf-8")
    text = json.dumps(results, ensure_ascii=False, separators=(",", ":")).replace('},"', '},\n"')
    (pictures / "results.json").write_text(text + "\n", encoding="utf-8")
    (docs / "benchmarks.md").write_text(page(results), encoding="utf-8")


def _present(results: Results) -> list[Section]:
    return [one for one in SECTIONS if any(part in results["found"] for part in one.parts)]


# ── the page ─────────────────────────────────────────────────────────────────────────────────


INTRODUCTION = """\
Made by `make bench`: atomq and other queues on Redis, on one server, each in an environment of its
own, all taking turns at each workload. How each is set up is said at the end. Read the columns that
load does not move first: commands (those inside scripts too), round trips, bytes. Then CPU, then
rates. Lines are sorted; **bold** is atomq. What atomq has to reach is in
[benchmarks-core.md](benchmarks-core.md)."""


def page(results: Results) -> str:
    """The page as Markdown."""
    about = results["about"]
    quick = (
        "**This is the quick run** (`make bench-quick`): one round, small counts, a backlog of "
        "some ten thousands. Its rates and times are a sketch."
        if about["quick"]
        else f"{about['rounds']} rounds; a figure is the median, a rate has its least and its most "
        "beside it."
    )
    if about["load"] > about["cores"] + 1:
        quick += (
            " Other programs kept the machine busy: believe commands, round trips and bytes only."
        )
    made = (
        f"{about['date']}, server {about['server']}, Python {about['python']}, cores "
        f"{about['cores']}, load {about['load']}. The figures: "
        "[results.json](benchmarks/results.json)."
    )
    lines = [
        "# Beside the field",
        "",
        *_wrapped(INTRODUCTION),
        "",
        *_wrapped(quick),
        "",
        made,
    ]
    for section in _present(results):
        lines += ["", f"## {section.title}", "", *_wrapped(section.text), ""]
        lines += [f"![{section.title}](benchmarks/{section.name}.svg)"]
        for part, called in section.parts.items():
            if part in results["found"]:
                lines += ["", *([f"**{called}**", ""] if called else [])]
                lines += table(section, part, results)
    lines += ["", "## How each is set up", "", "| | versions | set up |", "|---|---|---|"]
    for name, peer in results["peers"].items():
        versions = ", ".join(f"{one} {number}" for one, number in peer["versions"].items())
        absent = f"**absent**: {peer['absent']}. " if peer["absent"] else ""
        lines.append(f"| {_bold(name, peer)} | {versions} | {absent}{peer['setup']} |")
    return "\n".join(lines) + "\n"


def table(section: Section, part: str, results: Results) -> list[str]:
    """The table of one part: a line for each peer, also for those without figures."""
    heads = ["", *section.columns.values()]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * len(section.columns) + "|"]
    for name in _order(section, part, results):
        runs, said = _cell(part, name, results)
        label = _bold(name, results["peers"][name])
        if runs:
            cells = [_figure(figure, runs) for figure in section.columns]
        else:
            cells = [f"— {said}".strip(), *[""] * (len(section.columns) - 1)]
        lines.append(f"| {' | '.join([label, *cells])} |")
    return lines


def _figure(figure: str, runs: Sequence[dict[str, float]]) -> str:
    values = [run[figure] for run in runs if figure in run]
    if not values:
        return ""
    text = short(median(values))
    if figure == "rate" and len(values) > 1:
        return f"{text} ({short(min(values))}–{short(max(values))})"
    return text


def _bold(name: str, peer: dict[str, Any]) -> str:
    return f"**{name}**" if peer["ours"] else name


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 100, break_on_hyphens=False)


# ── pictures ─────────────────────────────────────────────────────────────────────────────────


def picture(section: Section, results: Results) -> str:
    """The plot of a section: its first column, a series for each part."""
    figure = next(iter(section.columns))
    parts = [part for part in section.parts if part in results["found"]]
    lines = [
        Line(
            name,
            results["peers"][name]["ours"],
            tuple(
                tuple(run[figure] for run in _cell(part, name, results)[0] if figure in run)
                for part in parts
            ),
            _cell(parts[0], name, results)[1],
        )
        for name in _order(section, parts[0], results)
    ]
    return draw(section.title, section.axis, lines, [section.parts[part] for part in parts])


# ── what was found ───────────────────────────────────────────────────────────────────────────

WORKLOADS = {"batch": "publish", "tasks": "consume 1", "wake": "wait", "idle": "wait"}


def _cell(part: str, name: str, results: Results) -> tuple[list[dict[str, float]], str]:
    """The runs of a peer, and what is said where there are none."""
    cell = results["found"].get(part, {}).get(name, {})
    if cell.get("runs"):
        return cell["runs"], ""
    peer = results["peers"][name]
    head, _, number = part.partition(" ")
    workload = WORKLOADS.get(head, head)
    if workload == "wait":
        workload = f"wait {number}"
    elif head in ("consume", "deep"):
        workload = part
    other = results["found"].get(workload, {}).get(name, {})
    return [], cell.get("said") or other.get("said") or peer["absent"] or "not measured"


def _order(section: Section, part: str, results: Results) -> list[str]:
    """The peers, best first; those without a figure last."""
    figure = next(iter(section.columns))

    def key(name: str) -> tuple[bool, float]:
        runs, _ = _cell(part, name, results)
        values = [run[figure] for run in runs if figure in run]
        value = median(values) if values else 0.0
        return not values, -value if section.more_is_better else value

    return sorted(results["peers"], key=key)


def summary(results: Results) -> Table:
    """What the terminal shows at the end."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    heads = ("", "publish/s", "batch/s", "consume/s", "tasks/s", "wake ms", "idle c/s", "B/msg")
    for head in heads:
        shown.add_column(head, justify="right" if head else "left", no_wrap=True)
    columns = (
        ("publish 100", "rate"),
        ("batch 100", "rate"),
        ("consume 1", "rate"),
        ("tasks", "rate"),
        ("wake 1", "p50"),
        ("idle 1", "commands"),
        ("publish 100", "memory"),
    )
    for name, peer in results["peers"].items():
        cells = [_figure(figure, _cell(part, name, results)[0]) for part, figure in columns]
        style = "bold" if peer["ours"] else ""
        shown.add_row(name, *[cell.split(" ")[0] or "—" for cell in cells], style=style)
    return shown
