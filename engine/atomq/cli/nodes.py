"""The servers behind an address: which to load scripts on, which to check, and what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from atomq.errors import AtomqError, PermissionDenied, ServerError

if TYPE_CHECKING:
    from atomq.client import Engine
    from atomq.node import Node

_PATIENCE = 2.0  # seconds to connect to a replica: its address may lead nowhere from here


@dataclass
class Place:
    """One server."""

    name: str
    """Its address, without credentials."""
    node: Node
    server: str
    version: str
    replica: bool
    in_cluster: bool

    def info(self, section: str) -> dict[str, str]:
        """INFO of one section. Raises `PermissionDenied` if this user may not."""
        return words(self.node.command("INFO", section))

    def config(self, name: str) -> str | None:
        """One setting; None where the server has none of this name. Raises as `info`."""
        return words(self.node.command("CONFIG GET", name)).get(name)


def places(engine: Engine) -> list[Place]:
    """The servers that run scripts: one, or the primaries of a cluster."""
    return [place_of(engine, node) for node in engine.nodes()]


def place_of(engine: Engine, node: Node) -> Place:
    """One of them."""
    hello = words(node.command("HELLO"))
    server, version = _version(hello)
    name = node.name if engine.address.kind == "cluster" else _where(engine)
    replica = hello.get("role") in ("replica", "slave")
    return Place(name, node, server, version, replica, hello.get("mode") == "cluster")


def replicas(engine: Engine, primary: Place) -> Iterator[Place | Unreached]:
    """The replicas of one server, those it knows; nothing where this user may not ask."""
    from atomq.client import Engine as Opened

    try:
        known = primary.info("replication")
    except (PermissionDenied, ServerError):
        return
    address = engine.reached
    options = address.options.replace(
        socket_connect_timeout=min(_PATIENCE, address.options.socket_connect_timeout or _PATIENCE)
    )
    for name, text in known.items():
        if not re.fullmatch(r"slave\d+", name):
            continue
        about = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
        host, port = about.get("ip", ""), int(about.get("port") or 0)
        where = f"{host}:{port}"
        direct = replace(address.of_node(host, port), options=options)
        with Opened(direct) as opened:
            try:
                place = places(opened)[0]
            except AtomqError as error:
                yield Unreached(where, str(error))
            else:
                yield place


@dataclass(frozen=True)
class Unreached:
    """A replica that cannot be reached from here."""

    name: str
    why: str


def words(reply: Any) -> dict[str, str]:
    """What INFO, CONFIG GET or HELLO answered, by name, whatever the protocol."""
    if isinstance(reply, dict):
        return {_text(name): _text(value) for name, value in reply.items()}
    if isinstance(reply, list):
        return {_text(reply[i]): _text(reply[i + 1]) for i in range(0, len(reply) - 1, 2)}
    lines = (line.split(":", 1) for line in _text(reply).splitlines() if ":" in line)
    return {name: value.strip() for name, value in lines}


def _text(value: Any) -> str:
    if isinstance(value, dict):  # redis-py's cluster client parses `slave0:ip=...,port=...`
        return ",".join(f"{name}={each}" for name, each in value.items())
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _version(hello: dict[str, str]) -> tuple[str, str]:
    return hello.get("server", "redis"), hello.get("version", "?")


def _where(engine: Engine) -> str:
    """Where the engine is connected to: behind sentinels, the master of this moment."""
    from redis import exceptions as server

    from atomq.connect import connector
    from atomq.translating import translated

    address = engine.address
    if address.kind == "tcp":
        return f"{address.host}:{address.port}"
    if address.kind != "sentinel":
        return address.safe_url
    connection: Any = connector(address)()
    try:
        connection.connect()
        return f"{connection.host}:{connection.port}"
    except (server.RedisError, OSError) as error:
        raise translated(error) from error
    finally:
        connection.disconnect()
