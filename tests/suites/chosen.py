"""What of the two suites is run, what is left out and why, and what is run in a minute."""

from __future__ import annotations

from typing import NamedTuple


class Suite(NamedTuple):
    """One suite: its package on the registry, and how it is called."""

    package: str
    files: tuple[tuple[str, ...], ...]
    """What one pytest each runs; they run side by side."""
    needs: tuple[str, ...]
    """Of the sdist, beside `t/`."""
    plugins: tuple[str, ...] = ()
    left_out: dict[str, str] = {}  # noqa: RUF012 - nobody writes into it
    """On both sides: node ids (or how they begin), with the reason."""
    deselected: dict[str, str] = {}  # noqa: RUF012
    """On atomq only."""
    on_one_server: dict[str, str] = {}  # noqa: RUF012
    """On the cluster these are not run either."""
    sides: tuple[str, ...] = ("stock", "atomq")
    """Where it is run."""
    short: tuple[str, ...] = ()

    def not_run(self, side: str) -> dict[str, str]:
        """What is deselected on a side, and why."""
        if side == "stock":
            return {}
        return self.deselected | (self.on_one_server if side == "cluster" else {})


_T = "t/integration/"
_CANVAS = _T + "test_canvas.py"
_CHORD = _CANVAS + "::test_chord"
_TASKS = _T + "test_tasks.py::test_tasks"
_REDIS = _T + "test_redis.py"

_UNROUTABLE = (
    "expects a message that no queue is bound for to be dropped in silence; here it is an error "
    "(tests/contrib/test_wire.py: test_what_leads_nowhere_is_an_error)"
)
_UNACKED = (
    "looks into stock's `unacked`; leases are kept elsewhere "
    "(tests/contrib/test_leases.py, tests/contrib/test_wire.py)"
)
_INSIDE = "reaches into stock's sockets and pollers (`channel.client`, `subclient`, `_in_poll`)"
_TABLES = (
    "calls the Lua scripts of stock, or replaces a constant of its module "
    "(tests/contrib/test_wire.py: test_bindings_of_queues_that_expire and after)"
)
_BACKEND = _T + "test_redis_backend.py::"
_SUBSCRIPTION = _T + "test_tasks.py::test_task_redis_result_backend::test_asyncresult_"
_CHANNELS = "looks for the channels of one server by itself"
_CLIENT = "asks the backend for a client, and options, of redis-py"
_SENTINEL = "replaces stock's SentinelChannel by one that asks no Sentinel"
_EXPIRATION = _REDIS + "::test_RedisQueueExpiration::"
_LOOKUP = _REDIS + "::test_RedisRestoreBindingLookupFailure::"

CELERY = Suite(
    "celery",
    sides=("stock", "atomq", "cluster"),
    files=(
        (_CHORD,),
        (_CANVAS, f"--deselect={_CHORD}"),
        (_T, f"--ignore={_CANVAS}"),
    ),
    needs=("pyproject.toml",),
    plugins=("celery.contrib.pytest",),
    left_out={
        _T + "test_backend.py": "needs an account with Azure",
        _T + "test_backend_leak_in_fixture_teardown.py": "runs on memory://, for two minutes",
    },
    deselected={
        _T + "test_connection_recovery.py": _INSIDE
        + " (tests/contrib/test_wire.py: test_a_half_open_connection_is_left_in_time)",
    },
    on_one_server={
        _CHORD
        + "::test_chord_on_error": "looks for the results of a chord on one server by itself",
        _CANVAS + "::test_chain::test_chord_header_id_duplicated_on_rabbitmq_msg_duplication": (
            "expects to fail where the URL of the broker begins with `redis`"
        ),
        _CHORD + "::test_error_propagates_from_chord": (
            "expects to fail where the URL of the backend begins with `redis:`"
        ),
        _SUBSCRIPTION + "forget_cancels_subscription": _CHANNELS,
        _SUBSCRIPTION + "get_cancels_subscription": _CHANNELS,
        _BACKEND + "test_decode_responses_disables_compression": _CLIENT,
        _BACKEND + "test_failure_expires": _CLIENT,
        _BACKEND + "test_chord_expires": _CLIENT,
        _BACKEND + "test_chord_part_return_records_each_header_task_once": _CLIENT,
    },
    short=(
        _TASKS + "::test_simple_call",
        _TASKS + "::test_basic_task",
        _TASKS + "::test_ignore_result",
        _TASKS + "::test_wrong_arguments",
        _TASKS + "::test_reject_with_requeue_redelivers_and_succeeds",
        _TASKS + "::test_eta",
        _TASKS + "::test_fail_with_unpickleable_exception",
        _CANVAS + "::test_link_error::test_link_error_eager",
        _CANVAS + "::test_chain::test_simple_chain",
        _CANVAS + "::test_chain::test_chain_inside_group_receives_arguments",
        _CANVAS + "::test_group::test_empty_group_result",
        _CANVAS + "::test_group::test_parent_ids",
        _CANVAS + "::test_chord::test_simple_chord_with_a_delay_in_group_save",
        _CANVAS + "::test_chord::test_group_or_task_countdown_delays_header",
        _T + "test_inspect.py::test_Inspect::test_active_queues",
        _T + "test_inspect.py::test_Inspect::test_revoked",
    ),
)

KOMBU = Suite(
    "kombu",
    files=((_REDIS, _T + "test_redis_brpop_qos.py"),),
    needs=("setup.cfg",),
    deselected={
        _REDIS + "::test_RedisBaseExchangeTypes::test_direct_routing_keys": _UNROUTABLE,
        _REDIS + "::test_RedisBaseExchangeTypes::test_publish_empty_exchange": _UNROUTABLE,
        _REDIS + "::test_RedisPublishBatch::test_topic_routing": _UNROUTABLE,
        _REDIS + "::test_RedisRestoreVisible": _UNACKED,
        _LOOKUP + "test_failed": _UNACKED + "; and patches what stock calls",
        _REDIS + "::test_RedisRestoreAtShutdown": _UNACKED,
        _REDIS + "::test_event_loop_consumes_after_connection_reconnect": _INSIDE,
        _REDIS + "::test_failed_health_check_raises_connection_error": _INSIDE,
        _REDIS + "::test_RedisPublishBatch::test_fanout_is_deferred_until_flush": (
            "asks the channel for its pool and its topic "
            "(tests/contrib/test_wire.py: test_broadcasts_wait_for_their_batch)"
        ),
        _REDIS + "::test_RedisSubclientHealthCheck": _INSIDE,
        _REDIS + "::test_RedisBrpopHealthCheck": _INSIDE,
        _T + "test_redis_brpop_qos.py": _INSIDE,
        _EXPIRATION + "test_binding_table_swept_after_consumer_stops": _TABLES,
        _EXPIRATION + "test_refresh_and_sweep_binding_scripts": _TABLES,
        _EXPIRATION + "test_sweep_script_honors_its_limit": _TABLES,
        _REDIS + "::test_RedisSentinelFanoutCompat": _SENTINEL,
        _REDIS + "::test_SentinelManagerClose": _SENTINEL,
    },
    short=(
        _REDIS + "::test_RedisBasicFunctionality",
        _REDIS + "::test_RedisBaseExchangeTypes::test_direct[None]",
        _REDIS + "::test_RedisBaseExchangeTypes::test_fanout",
        _REDIS + "::test_RedisBaseExchangeTypes::test_topic[connection1]",
        _REDIS + "::test_RedisPriority::test_publish_requeue_consume",
        _REDIS + "::test_RedisPublishBatch::test_direct_priority_and_fifo",
        _REDIS + "::test_RedisMessage",
        _REDIS + "::test_RedisEventLoop",
        _REDIS + "::test_RedisConnectTimeout",
        _EXPIRATION + "test_binding_table_shared_with_queue_without_expires_never_swept",
        _EXPIRATION + "test_deleting_an_expiring_queue_removes_its_binding",
    ),
)

SUITES = (CELERY, KOMBU)
