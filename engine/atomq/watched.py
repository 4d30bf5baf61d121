"""The lists of one node that a consumer waits for over one connection, without I/O.

BLPOP takes keys of one slot only, so in a cluster each list needs a connection for it. Instead the
server reports, once, that a list changed (CLIENT TRACKING). What changed is asked about in one go:
`LPOP` takes a token from the first of the lists. `CLIENT CACHING YES` and `LLEN` have the server
report the next change of each, and say whether it has a token already. What did not change costs
nothing. Of many consumers all hear of a token, and the one whose LPOP comes first gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from redis import exceptions as server

from atomq.conversation import CACHING, TRACK, Conversation


class Unwatchable(server.ResponseError):
    """This user may not do what this takes, or this server cannot."""


class Asked(NamedTuple):
    """The purpose of a command."""

    verb: str
    name: str
    """The list; "": all of them."""


TRACKS: Final = Asked("CLIENT TRACKING", "")


class Watched:
    """What is known of the lists, and what is to be said of them.

    One token is taken at a time: the others stay where other consumers see them.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        # Of which no change will be reported: in the order in which a token is taken from them.
        self._changed: dict[str, None] = dict.fromkeys(names)
        self._token: str | None = None
        self.trouble: Exception | None = None
        """Why it is not known of a list whether it has a token."""
        self._takes: str | None = None  # of which list the answer to LPOP is to come

    def begin(self, talk: Conversation) -> bytes:
        """What to send before anything else."""
        return talk.say(TRACK, TRACKS)

    def ask(self, talk: Conversation) -> bytes:
        """What to send before a wait; nothing, if the server will report each change."""
        if self._takes is not None or not self._changed:
            return b""
        names, self._changed = list(self._changed), {}
        self._takes = names[0]
        data = [talk.say(("LPOP", names[0]), Asked("LPOP", names[0]))]
        for name in names:
            data.append(talk.say(CACHING, Asked("CLIENT CACHING", name)))
            data.append(talk.say(("LLEN", name), Asked("LLEN", name)))
        return b"".join(data)

    def changed(self, lists: Iterable[bytes] | None) -> None:
        """The server reported, once, that these lists changed. None: maybe all."""
        names = self._names if lists is None else [name.decode() for name in lists]
        self._changed.update(dict.fromkeys(names))

    def answered(self, asked: Asked, reply: Any) -> None:
        """Take the answer to a command. Raises `Unwatchable`."""
        if asked.verb == "LPOP":
            self._takes = None
        if isinstance(reply, server.NoPermissionError) or (
            isinstance(reply, Exception) and asked is TRACKS
        ):
            raise Unwatchable(str(reply))
        if isinstance(reply, Exception):  # it is claimed from, as that finds out
            self.trouble = reply
            self._changed[asked.name] = None
            self._token = self._token or asked.name
        elif asked.verb == "LPOP" and reply is not None:
            self._token = asked.name
        elif asked.verb == "LLEN" and reply:
            self._changed[asked.name] = None

    @property
    def takes(self) -> bool:
        """Whether the answer to an LPOP is to come."""
        return self._takes is not None

    def untold(self) -> list[str]:
        """The connection is gone: the lists whose tokens it may have taken, and did not tell of."""
        return [name for name in (self._token, self._takes) if name is not None]

    def take(self) -> str | None:
        """The list whose token was taken, or of which it is not known whether it has one; once."""
        token, self._token = self._token, None
        return token
