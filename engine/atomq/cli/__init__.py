"""The command line, `atomq`: deploys the scripts, watches the queues, moves what is stuck.

`app.py` lists the commands; each subject has a file of its own. `session.py` is what all commands
share (server, options, errors and exit codes), `output.py` how they print, `help.py` how `--help`
prints.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

_EXTRA = ("typer", "rich")


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    for name in _EXTRA:
        if find_spec(name) is None:
            said = f"atomq: the command line needs {name}: pip install 'atomq[cli]'"
            print(said, file=sys.stderr)
            raise SystemExit(2)
    from atomq.cli.app import run

    run()
