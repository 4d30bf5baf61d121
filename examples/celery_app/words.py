"""A Celery app that counts words. Nothing in it knows of atomq but the URL."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from celery import Celery, Task

URL = os.environ.get("BROKER_URL", "atomq://localhost:6379/0")

app = Celery("words", broker=URL, backend=os.environ.get("RESULT_BACKEND", URL))
app.conf.update(
    broker_connection_retry_on_startup=True,
    task_acks_late=True,  # a task whose worker dies runs again
    result_expires=3600,
)


@app.task
def count(path: str) -> dict[str, int]:
    """The words of one file, and how often each is there."""
    return Counter(Path(path).read_text(errors="replace").lower().split())


@app.task
def merge(counts: list[dict[str, int]], most: int = 5) -> list[tuple[str, int]]:
    """The most frequent words of all files."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total.most_common(most)


@app.task(bind=True, max_retries=3)
def moody(self: Task) -> int:
    """Works the third time."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.5)
    return int(self.request.retries)


@app.task
def remind(what: str) -> str:
    """Said when it is due."""
    return what
