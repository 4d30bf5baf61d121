"""The options table of docs/celery.md, made from the schema: `python -m tests.docs.options`."""

from __future__ import annotations

import re
from pathlib import Path

from atomq.options import Options

PAGE = Path(__file__).parents[2] / "docs" / "celery.md"
OURS = [
    (
        "fanout_prefix",
        "a bool, or text from '/' to '.'",
        True,
        "Keeps broadcasts in their database.",
    ),
    ("fanout_patterns", "a bool", True, "Sends events only to who subscribed to their kind."),
    ("queue_order_strategy", "text", "round_robin", "As in Kombu: round_robin, priority, sorted."),
    ("delay_in_server", "auto, always or never", "auto", "Where `eta` waits; see above."),
    ("deadletter_queue", "text", None, "Where an unroutable message goes instead of an error."),
    ("body_encoding", "text", "base64", "As in Kombu."),
]


def table() -> str:
    """The table, as Markdown."""
    rows = [(r.name, r.type, r.default, r.meaning) for r in Options.describe()]
    lines = ["| option | value | default | what it does |", "|---|---|---|---|"]
    for name, kind, default, meaning in [*OURS, *rows]:
        cells = (f"`{name}`", kind, f"`{default!r}`", meaning)
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def made(page: str) -> str:
    """The page with the table made anew."""
    marked = r"(<!-- options -->\n).*?(<!-- /options -->)"
    return re.sub(marked, lambda m: f"{m[1]}{table()}\n{m[2]}", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(made(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
