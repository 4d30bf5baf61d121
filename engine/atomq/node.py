"""One server that runs scripts: which it knows, and loading them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import exceptions as server

from atomq import arguments
from atomq.actions import BRIEF
from atomq.errors import AtomqError, ScriptsNotLoaded
from atomq.pool import Pool
from atomq.scripts import Script, every, get
from atomq.translating import SERVER_ERRORS, is_away, passes, translated


class Node:
    """One server that runs scripts, to be preloaded."""

    def __init__(self, name: str, pool: Pool) -> None:
        self.name = name
        self._pool = pool

    def command(self, *args: Any) -> Any:
        """Any command on this node. See `Engine.command`."""
        arguments.command(args)
        try:
            return self._pool.command(args)
        except SERVER_ERRORS as error:
            raise translated(error) from error

    def load(self, scripts: Sequence[Script] | None = None) -> list[Script]:
        """SCRIPT LOAD all scripts (or these). Raises `ScriptsNotLoaded` if this user may not."""
        scripts = every() if scripts is None else scripts
        for script in scripts:
            try:
                said = self._pool.command(("SCRIPT LOAD", script.text))
            except server.NoPermissionError as error:
                raise ScriptsNotLoaded(
                    f"this user may not load scripts on {self.name}: needs +script|load ({error})"
                ) from error
            except SERVER_ERRORS as error:
                raise translated(error) from error
            sha = said.decode() if isinstance(said, bytes) else said
            if sha != script.sha:
                raise AtomqError(f"{self.name} named {script.name} {sha}, not {script.sha}")
        return list(scripts)

    def knows_scripts(self) -> bool:
        """Whether this node knows the scripts of this release, by one of them. Asks no right.

        It is one that no consumer or producer runs, so that no call of theirs has it loaded alone.
        Raises `ServerUnavailable` if it does not answer soon, or cannot say so yet.
        """
        try:
            (reply,) = self._pool.commands([("EVALSHA", get("hand_back").sha, 0)], BRIEF)
        except SERVER_ERRORS as error:
            raise translated(error) from error
        refused = isinstance(reply, server.NoPermissionError)
        if isinstance(reply, Exception) and (refused or passes(reply) or is_away(reply)):
            raise translated(reply) from reply
        return not isinstance(reply, server.NoScriptError)  # it says that there are no keys

    def missing(self) -> list[Script]:
        """The scripts this node does not know."""
        scripts = every()
        try:
            known = self._pool.command(("SCRIPT EXISTS", *(s.sha for s in scripts)))
        except SERVER_ERRORS as error:
            raise translated(error) from error
        return [script for script, present in zip(scripts, known, strict=True) if not present]
