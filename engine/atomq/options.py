"""The one list of options.

`schemas/options.schema.json` holds types, bounds and meanings; `Options` holds the values of one
engine. A test keeps the two alike. Docs and `--help` texts are made from `Options.describe()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from atomq import arguments
from atomq.errors import InvalidOptions
from atomq.fork import once
from atomq.option_checks import (
    allowed,
    faults_of,
    finished,
    normalised,
    properties,
    ssl_properties,
    typed,
    unknown_text,
)

CALL_WINDOW_MS = 120_000  # the server remembers the id of a publish call for so long at least


class OptionRow(NamedTuple):
    """One option, as the docs and the CLI show it."""

    name: str
    type: str
    default: Any
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of one engine. Build it with `Options.of`: the constructor checks nothing.

    Times are seconds; `of` takes a `timedelta` too. What each option means is in `describe()`.
    """

    visibility_timeout: int = 3600
    lease: float = 60
    max_lease: float | None = None
    max_deliveries: int | None = 20
    dead_max: int | None = None
    dead_ttl: float | None = None
    priority_steps: tuple[int, ...] = (0, 3, 6, 9)
    sep: str = "\x06\x16"
    global_keyprefix: str = ""
    layout: str | None = None
    prefetch: int = 64
    max_bytes: int = 1048576
    dedup_window: float = 600
    result_ttl: float = 86400
    durability: str = "memory"
    durability_timeout: float = 5
    retry_attempts: int = 3
    retry_budget: float = 10
    wait_cap: float = 1.0
    socket_timeout: float | None = 5
    socket_connect_timeout: float | None = 5
    socket_keepalive: bool = True
    socket_keepalive_options: Mapping[str, int] | None = field(default=None, hash=False)
    health_check_interval: float = 25
    client_name: str | None = "atomq"
    max_connections: int | None = None
    # Not shown either: a URL without the colon makes a user name of its password.
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db: int | None = None
    virtual_host: int | None = None
    ssl: bool | Mapping[str, Any] | None = field(default=None, repr=False, hash=False)
    credential_provider: Any = field(default=None, repr=False, hash=False)
    master_name: str | None = None
    sentinel_kwargs: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)
    min_other_sentinels: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any] | Options | None = None, /, **more: Any) -> Options:
        """The options in `given` and `more` (which wins), checked; the rest at their defaults.

        The ssl_* settings may also be given beside the other options: they are gathered in `ssl`.
        Raises `InvalidOptions`, whose message lists every fault. Secrets are never repeated in it.
        """
        known = isinstance(given, Mapping | Options | None)
        arguments.expect("options", given, known, "a mapping, or Options")
        raw = {**(given.given() if isinstance(given, Options) else given or {}), **more}
        if not raw:
            return cls()
        try:
            raw, faults = normalised(raw)
            faults += faults_of(raw)
        except Exception as error:  # some values cannot be compared, and some cannot be printed
            raise InvalidOptions([f"an option has no text: {arguments.words(error)}"]) from error
        if faults:
            raise InvalidOptions(faults)
        return cls(**finished(raw))

    def replace(self, **changes: Any) -> Options:
        """A copy with `changes`, checked as in `of`."""
        return Options.of(self, **changes)

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @staticmethod
    def unknown(names: Iterable[str]) -> dict[str, str]:
        """Those of `names` that are no options, each with a text that names the nearest one."""
        known = [*properties(), *ssl_properties()]
        return {name: unknown_text(name, known) for name in names if name not in known}

    @staticmethod
    def typed(texts: Mapping[str, str]) -> dict[str, Any]:
        """Texts, from a URL's query or the environment, turned into each option's type.

        Numbers, true/false (yes/no, on/off, 1/0), none, lists as 0,3,6,9, mappings as JSON; where
        text is allowed it stays as it is. What does not fit stays too, so that `of` names it.
        Never raises.
        """
        known = {**properties(), **ssl_properties()}
        return {name: typed(text, known.get(name, {})) for name, text in texts.items()}

    @staticmethod
    def describe() -> Iterator[OptionRow]:
        """One row an option, in the order of the schema; the ssl_* settings follow `ssl`."""
        for name, spec in properties().items():
            yield OptionRow(name, allowed(spec), _default(name), spec["description"])
            if name == "ssl":
                for inner, inner_spec in ssl_properties().items():
                    text = inner_spec["description"]
                    yield OptionRow(inner, allowed(inner_spec), inner_spec["default"], text)

    @once
    def lease_ms(self) -> int:
        """The effective lease, min(visibility_timeout, lease), in milliseconds, at least 1."""
        return _ms(min(self.visibility_timeout, self.lease))

    @once
    def dead_kept(self) -> str:
        """`dead_max` and `dead_ttl` in milliseconds as the scripts have them; "": neither."""
        if self.dead_max is None and self.dead_ttl is None:
            return ""
        return f"{self.dead_max or 0} {_ms(self.dead_ttl) if self.dead_ttl is not None else 0}"

    @once
    def limits(self) -> dict[str, float]:
        """What a consumer of these options holds messages to, times in seconds; no None."""
        found = {
            "max_deliveries": self.max_deliveries,
            "lease_seconds": self.lease_ms / 1000,
            "max_lease_seconds": self.max_lease,
            "dead_max": self.dead_max,
            "dead_ttl_seconds": self.dead_ttl,
        }
        return {name: value for name, value in found.items() if value is not None}

    @once
    def max_lease_ms(self) -> int | None:
        """`max_lease` in milliseconds, or None."""
        return None if self.max_lease is None else _ms(self.max_lease)

    @once
    def visibility_timeout_ms(self) -> int:
        """`visibility_timeout` in milliseconds."""
        return _ms(self.visibility_timeout)

    @once
    def call_window_ms(self) -> int:
        """How long a publish may be sent again and be known: `retry_budget`, with room to spare."""
        return max(CALL_WINDOW_MS, _ms(2 * self.retry_budget))

    @once
    def dedup_window_ms(self) -> int:
        """`dedup_window` in milliseconds, at least 1."""
        return _ms(self.dedup_window)

    @once
    def result_ttl_ms(self) -> int:
        """`result_ttl` in milliseconds, at least 1."""
        return _ms(self.result_ttl)

    @property
    def database(self) -> int:
        """The number of the database that `db` or `virtual_host` name; 0 if neither does."""
        return self.db if self.db is not None else self.virtual_host or 0


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _default(name: str) -> Any:
    return Options.__dataclass_fields__[name].default
