"""Makes Kombu know our schemes.

`import celery` imports this module where atomq is installed, so it must never raise: Kombu has no
entry points for transports, but loads those for serializers. So there is one: JSON under a name of
our own, which no program needs.
"""

from __future__ import annotations

import json
import logging
import os

log = logging.getLogger("atomq.kombu")

TRANSPORT = "atomq.contrib.kombu.transport:Transport"
SENTINEL_TRANSPORT = "atomq.contrib.kombu.transport:SentinelTransport"
CLUSTER = ("atomq-cluster", "atomqs-cluster")
# Kombu cuts a socket's scheme at the `+`, unless it is that of a URL to fail over to.
SCHEMES = {
    **dict.fromkeys(("atomq", "atomqs", "atomq+socket", *CLUSTER), TRANSPORT),
    **dict.fromkeys(("valkey", "valkeys", "valkey+socket"), TRANSPORT),
    **dict.fromkeys(("atomq-sentinel", "atomqs-sentinel"), SENTINEL_TRANSPORT),
}
STOCK_SCHEMES = {
    **dict.fromkeys(("redis", "rediss", "redis+socket"), TRANSPORT),
    "sentinel": SENTINEL_TRANSPORT,
}


OLDEST_KOMBU = (5, 7)


def register() -> None:
    """Make Kombu know our schemes. Doing it again changes nothing.

    Raises `ImportError` where Kombu is too old.
    """
    import kombu
    from kombu import transport

    if kombu.VERSION[:2] < OLDEST_KOMBU:
        oldest = ".".join(map(str, OLDEST_KOMBU))
        raise ImportError(f"atomq needs Kombu {oldest} or newer, this is {kombu.__version__}")
    for scheme, ours in SCHEMES.items():
        transport.TRANSPORT_ALIASES.setdefault(scheme, ours)


def take_over() -> None:
    """Run unmodified redis://, rediss://, redis+socket:// and sentinel:// broker URLs on atomq.

    To be called before the first connection is made, and in every process that is spawned; with
    ATOMQ_TAKE_OVER=1 in the environment, importing Celery does it.
    """
    from kombu import transport

    register()
    transport.TRANSPORT_ALIASES.update(STOCK_SCHEMES)
    transport._transport_cache.clear()


def _on_import() -> None:
    try:
        if os.environ.get("ATOMQ_TAKE_OVER", "").lower() in ("1", "true", "yes", "on"):
            take_over()
        else:
            register()
    except Exception:
        # Whatever it is, an app that does not even use us must not fail to start for it.
        log.exception("the atomq:// schemes are not available")


_on_import()

# encoder, decoder, content type, content encoding
ARGUMENTS = (json.dumps, json.loads, "application/x-atomq-json", "utf-8")
