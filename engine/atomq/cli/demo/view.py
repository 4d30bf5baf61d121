"""What people watch: a live picture on a terminal, lines where there is none."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from atomq.cli.demo.outcome import Outcome
from atomq.cli.output import clean, number

_LINE_EVERY = 2.0  # seconds between two lines where nobody can watch a picture
_WIDEST = 100  # a picture wider than this tires the eye
_PARTS = {"ready": "cyan", "unacked": "yellow", "delayed": "magenta", "dead": "red"}
_STATES = {
    "starting": "dim",
    "working": "green",
    "long job": "yellow",
    "killed": "red",
    "died": "red",
}
_ASCII = str.maketrans({"━": "=", "●": "o", "✗": "x", "✔": "+", "·": "-", "…": "."})


@dataclass(frozen=True)
class QueueRow:
    """A queue in the picture."""

    name: str
    ready: int
    unacked: int
    delayed: int
    dead: int


@dataclass(frozen=True)
class WorkerRow:
    """A worker in the picture. `state` is starting, working, long job, killed or died."""

    number: int
    pid: int
    state: str
    done: int


class Pace:
    """How many a second it has been, over the last two seconds."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()

    def at(self, done: int) -> float:
        """So many are done now."""
        now = time.monotonic()
        self._recent.append((now, done))
        while now - self._recent[0][0] > 2:
            self._recent.popleft()
        since, then = self._recent[0]
        return (done - then) / (now - since) if now > since else 0.0


@dataclass
class Picture:
    """One moment of an act."""

    title: str = ""
    subtitle: str = ""
    queues: Sequence[QueueRow] = ()
    workers: Sequence[WorkerRow] = ()
    done: int = 0
    total: int = 0
    per_second: float = 0
    events: deque[tuple[float, str, str]] = field(default_factory=lambda: deque(maxlen=50))


class Show:
    """Shows an act. Use it in a `with` block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._line_at = 0.0
        self._live: Live | None = None
        self.picture = Picture()

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def seconds(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._began

    def title(self, title: str, subtitle: str) -> None:
        """What the act is about."""
        self.picture.title, self.picture.subtitle = title, subtitle
        if self._live is None:
            self._print(f"{title}\n{subtitle}")
        self.refresh()

    def event(self, text: str, style: str = "") -> None:
        """Something happened."""
        self.picture.events.append((self.seconds, clean(text), style))
        if self._live is None:
            self._print(f"{self.seconds:6.1f} s  {clean(text)}")
        self.refresh()

    def refresh(self) -> None:
        """Show the picture as it is now."""
        if self._live is not None:
            self._live.update(
                Portable(draw(self.picture, self.seconds, self._room())), refresh=True
            )
        elif self.seconds >= self._line_at and self.picture.queues:
            self._line_at = self.seconds + _LINE_EVERY
            self._print(f"{self.seconds:6.1f} s  {_line(self.picture)}")

    def _print(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)

    def _room(self) -> tuple[int, int]:
        # One line less than there is: a picture that fills the screen would scroll it.
        return min(self._console.width, _WIDEST), self._console.height - 1


class Portable:
    """The same in ASCII where the terminal knows nothing else."""

    def __init__(self, what: RenderableType) -> None:
        self._what = what

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._what, options):
            if options.ascii_only:
                yield segment._replace(text=segment.text.translate(_ASCII))
            else:
                yield segment


# ── the picture ───────────────────────────────────────────────────────────────────────────────


def draw(picture: Picture, seconds: float, room: tuple[int, int]) -> RenderableType:
    """The picture, at most `room` wide and high."""
    width, height = room
    blocks: list[list[RenderableType]] = [
        [_heading(picture, seconds, width), Text(picture.subtitle, style="dim", no_wrap=True)],
        _queues(picture, width),
        _progress(picture, width),
        _workers(picture, width),
    ]
    lines = sum(len(block) + 1 for block in blocks)
    blocks.append(_events(picture, max(1, height - lines)))
    spaced: list[RenderableType] = []
    for block in blocks:
        if block:
            spaced += [*block, Text("")]
    return Group(*spaced[:-1])


def _heading(picture: Picture, seconds: float, width: int) -> Text:
    clock = f"{seconds:.0f} s"
    title = Text(picture.title, style="bold", no_wrap=True)
    title.truncate(width - len(clock) - 2, overflow="ellipsis", pad=True)
    return title.append("  ").append(clock, style="dim")


def _queues(picture: Picture, width: int) -> list[RenderableType]:
    if not picture.queues:
        return []
    names = max(10, *(cell_len(queue.name) + 2 for queue in picture.queues))
    head = Text("queue".ljust(names), style="dim", no_wrap=True)
    for part, colour in _PARTS.items():
        head.append(f"{part:>9}", style=colour)
    lines: list[RenderableType] = [head]
    full = max(picture.total, 1)
    for queue in picture.queues:
        counts = [getattr(queue, part) for part in _PARTS]
        line = Text(queue.name.ljust(names), no_wrap=True)
        for count, colour in zip(counts, _PARTS.values(), strict=True):
            line.append(f"{number(count):>9}", style=colour if count else "dim")
        line.append("  ")
        line.append_text(
            _bar(list(zip(counts, _PARTS.values(), strict=True)), full, width - len(line))
        )
        lines.append(line)
    return lines


def _bar(parts: Sequence[tuple[int, str]], full: int, width: int) -> Text:
    """Parts side by side. What is there takes at least one cell, however little it is."""
    bar = Text(no_wrap=True)
    for count, colour in parts:
        cells = max(1, round(count * width / full)) if count else 0
        bar.append("━" * min(cells, max(0, width - len(bar))), style=colour)
    return bar


def _progress(picture: Picture, width: int) -> list[RenderableType]:
    if not picture.total:
        return []
    share = f"{picture.done * 100 // picture.total:>4} %"
    text = f"  {number(picture.done)} of {number(picture.total)}{share}{picture.per_second:>7.0f}/s"
    line = Text("done".ljust(10), no_wrap=True)
    room = max(0, width - len(line) - len(text))
    cells = room * picture.done // picture.total
    line.append("━" * cells, style="green").append("━" * (room - cells), style="bright_black")
    return [line.append(text)]


def _workers(picture: Picture, width: int) -> list[RenderableType]:
    # An even share of the work fills most of a bar; who does more moves all bars.
    share = picture.total * 1.3 / max(1, len(picture.workers))
    full = max(1, round(share), *(worker.done for worker in picture.workers), 1)
    lines: list[RenderableType] = []
    for worker in picture.workers:
        gone = worker.state in ("killed", "died")
        style = _STATES[worker.state]
        line = Text("✗" if gone else "●", style=style, no_wrap=True)
        line.append(f" worker {worker.number}  ", style="dim" if gone else "default")
        line.append(f"pid {worker.pid:<8}", style="dim")
        line.append(f"{worker.state:<8}", style=style)
        line.append(f"{number(worker.done):>7} done  ", style="dim" if gone else "default")
        colour = "red" if gone else "green"
        line.append_text(_bar([(worker.done, colour)], full, max(0, width - len(line))))
        lines.append(line)
    return lines


def _events(picture: Picture, most: int) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for seconds, text, style in list(picture.events)[-most:]:
        line = Text(f"{seconds:6.1f} s  ", style="dim", no_wrap=True, overflow="ellipsis")
        lines.append(line.append(text, style=style or "default"))
    return lines


def _line(picture: Picture) -> str:
    queues = ", ".join(
        f"{queue.name}: "
        + " ".join(
            f"{number(getattr(queue, part))} {part}" for part in _PARTS if getattr(queue, part)
        )
        for queue in picture.queues
        if any(getattr(queue, part) for part in _PARTS)
    )
    counted = f"{number(picture.done)} of {number(picture.total)} done"
    return f"{counted}, {picture.per_second:.0f}/s" + (f"; {queues}" if queues else "")


# ── the ledger ────────────────────────────────────────────────────────────────────────────────


def ledger(outcome: Outcome) -> RenderableType:
    """The ledger of an act, and one line that says whether it holds."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(style="dim", overflow="fold")
    for entry in outcome.entries:
        mark, colour = {True: ("✔", "green"), False: ("✗", "red"), None: (" ", "")}[entry.holds]
        style = "bold red" if entry.holds is False else "bold"
        grid.add_row(
            Text(mark, style=colour), entry.name, Text(entry.value, style=style), clean(entry.note)
        )
    if outcome.ok:
        verdict = Text("✔ Everything holds.", style="bold green")
    else:
        verdict = Text("✗ Not everything holds.", style="bold red")
    return Portable(Group(Text(""), grid, Text(""), verdict))
