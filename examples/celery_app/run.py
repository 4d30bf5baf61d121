"""Run the app in `words.py`: an embedded server, a worker with two processes, and some tasks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from atomq import embedded

HERE = Path(__file__).resolve().parent
TEXTS = Path(os.__file__).parent  # the standard library: real files, and everybody has them


def main() -> int:
    """Returns 0 if every task did what it should."""
    with tempfile.TemporaryDirectory(prefix="atomq-example-") as directory:
        server = embedded.start(directory)
        os.environ["BROKER_URL"] = f"atomq+socket://{server.socket}?virtual_host=0"
        command = [sys.executable, "-m", "celery", "--quiet", "--app", "words", "worker"]
        command += ["--concurrency", "2", "--loglevel", "WARNING"]
        worker = subprocess.Popen(command, cwd=HERE)
        try:
            return work()
        finally:
            worker.terminate()
            worker.wait()
            embedded.stop(directory)


def work() -> int:
    """Send tasks, wait for their results and show them."""
    import words
    from celery import chord

    asked = datetime.now(UTC)
    reminder = words.remind.apply_async(("time is up",), countdown=2)
    moody = words.moody.delay()

    files = sorted(str(path) for path in TEXTS.glob("*.py"))
    began = time.monotonic()
    frequent = chord(words.count.s(path) for path in files)(words.merge.s()).get(timeout=60)
    print(
        f"{len(files)} files counted in {time.monotonic() - began:.1f} s; the most frequent words:"
    )
    for word, times in frequent:
        print(f"  {times:6d}  {word}")

    retries = moody.get(timeout=30)
    print(f"the moody task worked after {retries} retries")
    said = reminder.get(timeout=30)
    after = (reminder.date_done - asked).total_seconds()
    print(f"{said!r} was said {after:.1f} s after it was asked for; 2 s were")
    return int(not (frequent and retries == 2 and said == "time is up"))


if __name__ == "__main__":
    sys.exit(main())
