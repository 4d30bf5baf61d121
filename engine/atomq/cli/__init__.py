"""The command line, `atomq`: deploys the scripts, watches the queues, moves what is stuck.

`app.py` lists the commands; each subject has a file of its own. `session.py` is what all commands
share (server, options, errors and exit codes), `output.py` how they print.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    from atomq.cli.app import run

    run()
