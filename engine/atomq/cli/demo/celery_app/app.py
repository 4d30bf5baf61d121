"""The Celery app of the second act: nothing in it knows of atomq but the URL."""

from __future__ import annotations

from typing import Any

from celery import Celery


def build(
    url: str, queue: str, options: dict[str, Any], *, prefix: str = "", results: bool = True
) -> Celery:
    """The app, as its workers and those who publish to it have it.

    `results`: whether it has the result backend. Who sends a task through an app that has one
    subscribes to its result.
    """
    app = Celery("demo", broker=url, backend=url if results else None)
    app.conf.update(
        include=["atomq.cli.demo.celery_app.tasks"],
        task_default_queue=queue,
        # A task that was running when its worker died is run again; Celery's own default is to
        # forget it.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        result_expires=600,
        # Celery looks at a result before it stores it, and by default not again if the server is
        # away: a task that is done would fail.
        result_backend_always_retry=True,
        broker_transport_options={"global_keyprefix": prefix, **options},
        result_backend_transport_options={
            "global_keyprefix": prefix,
            "master_name": options.get("master_name"),
        },
        broker_connection_retry_on_startup=True,
    )
    return app
