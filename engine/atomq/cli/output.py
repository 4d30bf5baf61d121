"""How commands print: tables and lines on stdout, progress and errors on stderr, or JSON.

What comes from a server is another program's text: it is never read as markup, and what is not
printable in it is shown escaped, so that no message can steer a terminal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

_QUIET_SECONDS = 0.3  # what takes less shows no progress
_LEAST = 8  # a column is not cut shorter
_LEAST_PROSE = 40
_PIPED_WIDTH = 10_000  # into a pipe a row is one line, however long
_PIPED_HEIGHT = 25  # lines


class Column(NamedTuple):
    """A column of a table."""

    name: str
    align: Literal["left", "right"] = "left"
    style: str = ""
    gives: bool = False
    """Is cut short where the terminal is narrow."""
    folds: bool = False
    """Is prose: goes on in the next line where the terminal is narrow."""
    spare: int = 0
    """Is left out where the terminal is too narrow for all, the highest number first; 0: never."""


Report = Callable[[int], None]
"""Takes how much is done so far."""


class Output:
    """Where one command prints."""

    def __init__(self, *, as_json: bool = False, wide: bool = False) -> None:
        self.as_json = as_json
        self._wide = wide

    @cached_property
    def console(self) -> Console:
        """Stdout."""
        return _console(sys.stdout, wide=self._wide)

    @cached_property
    def errors(self) -> Console:
        """Stderr."""
        return _console(sys.stderr)

    # ── data ──────────────────────────────────────────────────────────────────────────────────

    def rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print a JSON array, one row a line."""
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
        print(f"[\n{lines}\n]" if lines else "[]")

    def document(self, value: Any) -> None:
        """Print one JSON value."""
        print(json.dumps(value, indent=2))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table; cells are text, numbers or what rich can render."""
        self.show(table(columns, rows, self.console.width))

    def line(self, text: str | Text) -> None:
        """Print a line that belongs to the answer."""
        self.console.print(clean(text) if isinstance(text, str) else text, soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        """Print what rich can render."""
        if self.console.is_terminal:
            self.console.print(what)
            return
        with self.console.capture() as captured:
            self.console.print(what)
        for line in captured.get().splitlines():
            print(line.rstrip())  # rich fills every line up

    # ── beside the data ───────────────────────────────────────────────────────────────────────

    def note(self, text: str) -> None:
        """Say something beside the answer, on stderr: behind what was printed of it."""
        self.console.file.flush()
        self.errors.print(clean(text), style="dim", soft_wrap=True)

    def error(self, text: str) -> None:
        """Say what went wrong: one line on stderr, unless the text has more."""
        from rich.text import Text

        line = Text.assemble(("atomq: ", "bold red"), *(f"{part}\n" for part in _lines(text)))
        line.rstrip()
        self.errors.print(line, soft_wrap=True)

    def confirm(self, question: str) -> bool | None:
        """Ask on the terminal; None where no user can be asked."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        import typer

        return typer.confirm(clean(question), err=True)

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Iterator[Report]:
        """A progress bar for what lasts: only on a terminal, never with --json."""
        if self.as_json or not sys.stderr.isatty():
            yield lambda _: None
            return
        bar = _Bar(self.errors, what, total)
        try:
            yield bar.report
        finally:
            bar.stop()


class _Bar:
    """A bar that appears when the work lasts, and leaves no trace."""

    def __init__(self, console: Console, what: str, total: int | None) -> None:
        self._console, self._what, self._total = console, what, total
        self._began = time.monotonic()
        self._shown: Any = None
        self._task: Any = None

    def report(self, done: int) -> None:
        if self._shown is None:
            if time.monotonic() - self._began < _QUIET_SECONDS:
                return
            self._show()
        total = None if self._total is None else max(self._total, done)
        self._shown.update(self._task, completed=done, total=total)

    def _show(self) -> None:
        from rich import progress

        self._shown = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=32),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._shown.add_task(clean(self._what), total=self._total)
        self._shown.start()

    def stop(self) -> None:
        if self._shown is not None:
            self._shown.stop()


def _console(file: Any, *, wide: bool = False) -> Console:
    from rich.console import Console

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 # rich calls this where it was caught, and would end with 1

    unbounded = wide or not file.isatty()
    return Ours(
        file=file,
        width=_PIPED_WIDTH if unbounded else None,
        height=_PIPED_HEIGHT if unbounded else None,  # or rich takes a dumb terminal to be 80 wide
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], width: int) -> Table:
    """A calm table: no lines, a dim head, numbers to the right.

    A row takes one line, but for prose. Where the width is too little for it, columns that give are
    cut, then those that can be spared are left out (the caption names them), then the rest is cut.
    """
    from rich.table import Table
    from rich.text import Text

    cells = [[_cell(value) for value in row] for row in rows]
    needed = [
        max([len(column.name), *(_width(row[i]) for row in cells)])
        for i, column in enumerate(columns)
    ]
    shown = _fitted(columns, needed, width)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    made.show_header = any(column.name for column in columns)
    for i, room in shown.items():
        column = columns[i]
        made.add_column(
            column.name,
            justify=column.align,
            style=column.style,
            no_wrap=not column.folds,
            overflow="fold" if column.folds else "ellipsis",
            width=room,
        )
    for row in cells:
        made.add_row(*(row[i] for i in shown))
    if spared := [column.name for i, column in enumerate(columns) if i not in shown]:
        made.caption = Text(f"--wide shows {', '.join(spared)} too", style="dim")
        made.caption_justify = "left"
    return made


def _fitted(columns: Sequence[Column], needed: Sequence[int], width: int) -> dict[int, int]:
    """Which columns are shown, and how wide each is."""
    shown = dict(enumerate(needed))

    def excess() -> int:
        return sum(shown.values()) + 2 * (len(shown) - 1) - width

    def cut(some: Sequence[int], least: int) -> None:
        while excess() > 0 and any(shown[i] > least for i in some):
            shown[max(some, key=shown.__getitem__)] -= 1  # the widest, so that all have the same

    while True:
        cut([i for i in shown if columns[i].gives], _LEAST)
        cut([i for i in shown if columns[i].folds], _LEAST_PROSE)
        spare = [i for i in shown if columns[i].spare]
        if excess() <= 0 or not spare:
            break
        del shown[max(spare, key=lambda i: columns[i].spare)]
        shown = {i: needed[i] for i in shown}
    cut([i for i in shown if columns[i].align == "left"], _LEAST)
    return shown


def _cell(value: Any) -> Text:
    from rich.text import Text

    if isinstance(value, Text):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(number(value))
    return Text("-" if value is None else clean(str(value)))


def _width(cell: Text) -> int:
    return max((line.cell_len for line in cell.split("\n")), default=0)


def end_with_the_pipe() -> NoReturn:
    """End as other programs do whose output is not read to its end, by `| head` for one: by the
    signal that Python ignores otherwise, without a word.
    """
    if not hasattr(signal, "SIGPIPE"):
        raise SystemExit(1)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    raise AssertionError("the signal ends the process")


# ── words ─────────────────────────────────────────────────────────────────────────────────────


def gist(detail: str) -> str:
    """What one line has room for of why a message died: its last line, as of a traceback."""
    return (detail.strip().splitlines() or [""])[-1]


def clean(text: str) -> str:
    """One line, with everything that is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _lines(text: str) -> list[str]:
    return [clean(line) for line in text.strip().splitlines()] or [""]


def number(value: int) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}"


def plural(count: int, noun: str) -> str:
    """`1 message`, `2,000 messages`."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes for people: `512 B`, `1.4 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """Seconds for people: `340 ms`, `12 s`, `4 min`, `2 h 10 min`, `3 d 4 h`."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{number(days)} d {hours} h" if hours else f"{number(days)} d"


def moment(ms: int | None, now_ms: int) -> str:
    """A time of the server against its now: `in 4 min`, `12 s ago`; `-` where there is none."""
    if ms is None:
        return "-"
    return (
        f"in {duration((ms - now_ms) / 1000)}"
        if ms > now_ms
        else f"{duration((now_ms - ms) / 1000)} ago"
    )
