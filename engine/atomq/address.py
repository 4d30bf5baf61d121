"""A server's URL, understood: what to connect to, and as which user. `connect.py` opens them.

    redis:// rediss:// valkey:// valkeys:// atomq:// atomqs://    user:password@host:6379/db
    redis+socket:// valkey+socket:// atomq+socket:// unix:// socket://    /path?virtual_host=db
    sentinel:// sentinels:// atomq-sentinel:// atomqs-sentinel://    a:26379/db;sentinel://b:26379
    redis+cluster:// rediss+cluster:// atomq-cluster:// atomqs-cluster:// …    a;redis+cluster://b
    embedded:///absolute/directory    embedded:relative/directory (relative to the current one)
    memory://    memory://name

User, password, host and path are percent-decoded. The query may set any option, as in
`?socket_timeout=5`, and wins over options given beside the URL; it names no `credential_provider`
unless the environment allows that (`check_imported`). No message and no repr ever shows
a password.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from atomq import arguments
from atomq.embedded import resolved
from atomq.errors import EmbeddedServerError, InvalidAddress, InvalidOptions
from atomq.options import Options

Kind = Literal["tcp", "unix", "sentinel", "cluster", "embedded", "memory"]

_SCHEMES: dict[str, tuple[Kind, bool]] = {
    **dict.fromkeys(("redis", "valkey", "atomq"), ("tcp", False)),
    **dict.fromkeys(("rediss", "valkeys", "atomqs"), ("tcp", True)),
    **dict.fromkeys(
        ("redis+socket", "valkey+socket", "atomq+socket", "unix", "socket"), ("unix", False)
    ),
    **dict.fromkeys(("sentinel", "atomq-sentinel"), ("sentinel", False)),
    **dict.fromkeys(("sentinels", "atomqs-sentinel"), ("sentinel", True)),
    **dict.fromkeys(("redis+cluster", "valkey+cluster", "atomq-cluster"), ("cluster", False)),
    **dict.fromkeys(("rediss+cluster", "valkeys+cluster", "atomqs-cluster"), ("cluster", True)),
    "embedded": ("embedded", False),
    "memory": ("memory", False),
}
# The options that say which server a client reaches, and as which user.
_REACHED = (
    "global_keyprefix",
    "username",
    "password",
    "credential_provider",
    "ssl",
    "master_name",
    "sentinel_kwargs",
)
_LOOKS_LIKE = "a URL looks like redis://user:password@localhost:6379/0"


class Node(NamedTuple):
    """Where one server, sentinel or cluster node listens."""

    host: str
    port: int


@dataclass(frozen=True, repr=False)
class Address:
    """What to connect to. Made by `Address.parse`; equal and hashable by value; safe to print."""

    kind: Kind
    scheme: str
    #: The options given beside the URL, overruled by what the URL says.
    options: Options
    #: tcp: the server; sentinel: the sentinels; cluster: the nodes to start from; else empty.
    nodes: tuple[Node, ...] = ()
    #: unix: the socket; embedded: the directory, absolute; memory: the name; else empty.
    path: str = ""
    #: The ssl_* settings in force; certificate and host are checked unless they say otherwise.
    #: None: no TLS.
    tls: Mapping[str, Any] | None = field(default=None, hash=False)
    #: sentinel: whether the sentinels are spoken to over TLS too (the scheme says so).
    sentinel_tls: bool = False

    @classmethod
    def parse(
        cls, url: str, options: Mapping[str, Any] | Options | None = None, /, **more: Any
    ) -> Address:
        """Understand `url`; `options` and `more` are those of `Options.of`.

        Raises `InvalidAddress` where the URL is wrong, `InvalidOptions` where an option is, in its
        query or beside it.
        """
        if not isinstance(url, str):
            raise InvalidAddress(f"a server URL must be text, got {type(url).__name__}")
        # Only a `;` that begins another URL separates: a password may hold one too.
        parts = [_Part.of(text) for text in re.split(r";(?=[A-Za-z][\w+.-]*://)", url.strip())]
        first = parts[0]
        kind, tls = _SCHEMES[first.scheme]
        if len(parts) > 1 and kind not in ("sentinel", "cluster"):
            raise InvalidAddress(f"{first.scheme}:// names one server; several were given")
        if any(part.scheme != first.scheme for part in parts):
            raise InvalidAddress(f"every URL of the list must begin with {first.scheme}://")

        known = isinstance(options, Mapping | Options | None)
        arguments.expect("options", options, known, "a mapping, or Options")
        given = options.given() if isinstance(options, Options) else dict(options or {})
        merged = _merged({**given, **more}, parts)
        _check(kind, tls, first.scheme, merged)
        secure = tls or bool(merged.ssl)
        settings = dict(merged.ssl) if isinstance(merged.ssl, Mapping) else {}
        unchecked = settings.get("ssl_cert_reqs") == "none"
        checked = {"ssl_cert_reqs": "required", "ssl_check_hostname": not unchecked, **settings}
        return cls(
            kind=kind,
            scheme=first.scheme,
            options=merged,
            nodes=tuple(node for part in parts if (node := part.node)),
            path=first.path,
            tls=checked if secure and kind in ("tcp", "sentinel", "cluster") else None,
            sentinel_tls=tls and kind == "sentinel",
        )

    @property
    def host(self) -> str | None:
        """Host of the first node, or None where there is none."""
        return self.nodes[0].host if self.nodes else None

    @property
    def port(self) -> int | None:
        """Port of the first node, or None where there is none."""
        return self.nodes[0].port if self.nodes else None

    @property
    def db(self) -> int:
        """Number of the database: from the URL, else from `db` or `virtual_host`, else 0."""
        return self.options.database

    @property
    def username(self) -> str | None:
        """ACL user: from the URL, else from the options."""
        return self.options.username

    @property
    def password(self) -> str | None:
        """Password: from the URL, else from the options."""
        return self.options.password

    @property
    def master_name(self) -> str | None:
        """Name of the master the sentinels watch."""
        return self.options.master_name

    @property
    def directory(self) -> str | None:
        """Directory of the embedded server, absolute; None for every other kind."""
        return self.path if self.kind == "embedded" else None

    @property
    def server(self) -> Address:
        """Which server, database, user and keys: equal for all that reach them alike."""
        options = self.options
        reached = Options(
            **{name: getattr(options, name) for name in _REACHED}, db=options.database
        )
        return replace(self, scheme=self.kind, options=reached)

    def of_node(self, host: str, port: int) -> Address:
        """The same user, TLS and options, for one server: a node of a cluster, a replica."""
        scheme = "rediss" if self.tls else "redis"
        return replace(self, kind="tcp", scheme=scheme, nodes=(Node(host, port),), path="")

    def of_database(self, number: int) -> Address:
        """The same server, user, TLS and options, for another of its databases."""
        return replace(self, options=replace(self.options, db=number, virtual_host=None))

    @property
    def safe_url(self) -> str:
        """The URL for logs and messages: the same server, the password as ***, no query but db."""
        if self.kind == "unix":
            query = f"?virtual_host={self.db}" if self.db else ""
            return f"{self.scheme}://{self._masked_user()}{quote(self.path)}{query}"
        if self.kind == "embedded":
            return f"embedded://{quote(self.path)}" + (f"?db={self.db}" if self.db else "")
        if self.kind == "memory":
            return f"memory://{quote(self.path)}" + (f"/{self.db}" if self.db else "")
        database = "" if self.kind == "cluster" and not self.db else f"/{self.db}"
        hosts = [f"{_bracketed(node.host)}:{node.port}" for node in self.nodes]
        head = f"{self.scheme}://{self._masked_user()}{hosts[0]}{database}"
        return ";".join([head, *(f"{self.scheme}://{host}" for host in hosts[1:])])

    def _masked_user(self) -> str:
        if self.password is not None:
            return f"{quote(self.username or '', safe='')}:***@"
        # A user without a password is most likely a password without its colon.
        return "***@" if self.username else ""

    def __str__(self) -> str:
        return self.safe_url

    def __repr__(self) -> str:
        return f"Address({self.safe_url!r})"


# ── one URL ───────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, repr=False)
class _Part:
    """One URL of the list, decoded. Its values may be secret: no repr."""

    scheme: str
    username: str | None = None
    password: str | None = None
    node: Node | None = None
    path: str = ""
    db: int | None = None
    query: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> _Part:
        scheme, rest = _scheme(text)
        kind, _ = _SCHEMES[scheme]
        if "#" in rest:
            raise InvalidAddress("a '#' in a server URL must be written as %23")
        rest, _, query_text = rest.partition("?")
        query = _query(query_text)
        if kind == "embedded":
            return cls(scheme, path=_directory(rest), query=query)
        if not rest.startswith("//") and (kind != "memory" or rest):
            raise InvalidAddress(f"{scheme}: must be followed by //; {_LOOKS_LIKE}")
        authority, slash, tail = rest.removeprefix("//").partition("/")
        if kind != "unix" and "@" in tail + query_text:
            raise InvalidAddress(
                "there is an '@' after the host. In a user name or password, / ? # @ must be "
                "written as %2F %3F %23 %40; so must an '@' in the query"
            )
        userinfo, _, host = authority.rpartition("@")
        username, _, password = userinfo.partition(":")
        user = (_decoded(username) or None, _decoded(password) or None)
        if kind == "unix":
            return cls(scheme, *user, path=_socket(scheme, host, slash + tail), query=query)
        db = _database(tail.removesuffix("/")) if tail else None
        if kind == "memory":
            if userinfo:
                raise InvalidAddress("memory:// takes no user and no password")
            return cls(scheme, path=_decoded(host), db=db, query=query)
        node = _node(host, 26379 if kind == "sentinel" else 6379)
        return cls(scheme, *user, node=node, db=db, query=query)


def _scheme(text: str) -> tuple[str, str]:
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", text, re.DOTALL)
    if not match:
        raise InvalidAddress(f"a server URL must begin with its scheme; {_LOOKS_LIKE}")
    scheme = match[1].lower()
    if scheme not in _SCHEMES:
        nearest = difflib.get_close_matches(scheme, _SCHEMES, n=1)
        hint = f" (did you mean {nearest[0]}://?)" if nearest else f"; {_LOOKS_LIKE}"
        raise InvalidAddress(f"there is no scheme {scheme}://{hint}")
    return scheme, match[2]


def _node(text: str, default_port: int) -> Node:
    # Nothing of `text` is repeated in a message: where the '@' is missing it is the password.
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or not re.fullmatch(r"(:.*)?", port):
            raise InvalidAddress("an IPv6 address is written as [::1] or [::1]:6379")
        port = port.removeprefix(":")
    else:
        host, _, port = text.partition(":")
        if ":" in port:
            raise InvalidAddress(
                "there is more than one ':' in the host: an IPv6 address is written in brackets, "
                f"[::1]:6379, and a password ends with '@'; {_LOOKS_LIKE}"
            )
    host = _decoded(host)
    if re.search(r"[\x00-\x20\x7f,;]", host + port):
        raise InvalidAddress(
            "a host contains no blanks, commas or semicolons; several servers are written as "
            "sentinel://a:26379;sentinel://b:26379"
        )
    if port and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise InvalidAddress(f"the port is not a number from 1 to 65535; {_LOOKS_LIKE}")
    return Node(host or "localhost", int(port or default_port))


def _socket(scheme: str, host: str, path: str) -> str:
    decoded = _decoded(path)
    if host or decoded in ("", "/") or "\0" in decoded:
        raise InvalidAddress(
            f"the path of the socket is missing or relative: write {scheme}:///run/redis.sock, "
            "with three slashes"
        )
    return decoded


def _directory(rest: str) -> str:
    if rest.startswith("//"):
        if not rest.startswith("///"):
            raise InvalidAddress(
                "write embedded:///absolute/directory, with three slashes, or embedded:relative"
            )
        rest = rest.removeprefix("//")
    directory = _decoded(rest)
    if not directory or "\0" in directory:
        raise InvalidAddress("embedded: needs a directory, as in embedded:///var/lib/atomq")
    try:
        return str(resolved(directory))
    except EmbeddedServerError as error:
        raise InvalidAddress(f"embedded: {error}") from error


def _database(text: str) -> int:
    text = _decoded(text)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise InvalidAddress(
            f"the database must be a whole number from 0, got {text!r}; "
            "write redis://localhost:6379/0"
        )
    return int(text)


def _query(text: str) -> dict[str, str]:
    query: dict[str, str] = {}
    for pair in text.split("&") if text else ():
        name, _, value = pair.partition("=")
        if name in query:
            raise InvalidAddress(f"{_decoded(name)} is given twice in the query")
        query[_decoded(name)] = _decoded(value)
    return query


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise InvalidAddress("what is percent-encoded in a URL must be UTF-8") from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host)


# ── URL and options together ──────────────────────────────────────────────────────────────────


def _merged(given: dict[str, Any], parts: list[_Part]) -> Options:
    """The options with what the URLs say on top: query before path before what was given."""
    query: dict[str, str] = {}
    for part in parts:
        for name in query.keys() & part.query.keys():
            if query[name] != part.query[name]:
                raise InvalidAddress(f"the URLs of the list disagree about {name}")
        query.update(part.query)
    provider = query.get("credential_provider")
    if provider is not None and provider != given.get("credential_provider"):
        check_imported(provider)
    said: dict[str, Any] = dict(Options.typed(query))
    first = parts[0]
    for name in {"db", "virtual_host"} & query.keys():
        said[name] = _database(query[name].removeprefix("/") or "0")
    db = next((part.db for part in parts if part.db is not None), None)
    if db is not None and not {"db", "virtual_host"} & said.keys():
        said["db"] = db
    overruled = set(said)
    if {"db", "virtual_host"} & said.keys():
        overruled |= {"db", "virtual_host"}
    if given.get("credential_provider") is None and said.get("credential_provider") is None:
        user = {"username": first.username, "password": first.password}
        said = {**{k: v for k, v in user.items() if v is not None}, **said}
        overruled |= said.keys()
    return _on_top(given, said, overruled)


def _on_top(given: Mapping[str, Any], said: Mapping[str, Any], overruled: set[str]) -> Options:
    """The options with what was `said` on top. What is `overruled` is checked all the same."""
    hidden = {name: value for name, value in given.items() if name in overruled}
    faults: list[str] = []
    try:
        Options.of(hidden)
    except InvalidOptions as error:
        faults = error.faults
    try:
        found = Options.of({k: v for k, v in given.items() if k not in hidden}, **said)
    except InvalidOptions as error:
        raise InvalidOptions(list(dict.fromkeys([*error.faults, *faults]))) from None
    if faults:
        raise InvalidOptions(faults)
    return found


ALLOWED_PROVIDERS = "ATOMQ_CREDENTIAL_PROVIDERS"


def check_imported(provider: str) -> None:
    """Refuse the import path of a credential provider that stands in a URL.

    To import a module is to run it, and a URL may come from where code may not. What the
    environment's ATOMQ_CREDENTIAL_PROVIDERS lists, with commas between, may be named. Raises
    `InvalidOptions`.
    """
    allowed = os.environ.get(ALLOWED_PROVIDERS, "").replace(":", ".").split(",")
    if provider.replace(":", ".") not in [path.strip() for path in allowed]:
        fault = (
            "credential_provider: a URL may not name what is imported: give it as an option "
            f"beside the URL, or list its path in the environment's {ALLOWED_PROVIDERS}"
        )
        raise InvalidOptions([fault])


def _check(kind: Kind, tls: bool, scheme: str, options: Options) -> None:
    """Refuse options that contradict the kind of server."""
    faults = []
    if tls and options.ssl is False:
        faults.append(f"ssl: False contradicts {scheme}://")
    if kind == "sentinel" and not options.master_name:
        faults.append("master_name: a sentinel URL needs the name of the master it watches")
    if kind == "cluster" and options.layout == "stock":
        faults.append("layout: 'stock' is not possible on a cluster; leave it out")
    if faults:
        raise InvalidOptions(faults)
