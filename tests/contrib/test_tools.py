"""Tools that read a Celery app's broker URL, in the way docs/celery.md puts first: taken over.

They know `redis://` and nothing else. They need what the dependency group `tools` installs
(`make test-long` does), except for what stands first.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import pools

import atomq
from tests.contrib.rig import ON_ONE_KIND, Place, taken_over
from tests.servers import ROOT, Server

pytestmark = ON_ONE_KIND


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    """An app whose URLs nobody touched; two tasks wait."""
    with taken_over():
        app = Celery("x", broker=server.tcp_url, backend=server.tcp_url, set_as_current=False)
        for _ in range(2):
            app.send_task("add")
        with app.connection() as connection:
            assert type(connection.transport).__module__.startswith("atomq.")
        yield app
        app.pool.force_close_all()
        pools.reset()


def tool(name: str) -> Any:
    """A module of a tool, which only the long run has."""
    return pytest.importorskip(name, reason="pip install --group tools")


def test_an_exporter_reads_the_length_of_queues(app: Celery) -> None:
    """By the URL, as most do, and by the channel's client, as celery-exporter does."""
    assert redis.from_url(app.conf.broker_url).llen("celery") == 2
    with app.connection() as connection:
        assert connection.info()["transport"] == "redis"
        assert connection.default_channel.client.llen("celery") == 2


def test_the_report_names_the_driver_and_its_own_version(app: Celery) -> None:
    with app.connection() as connection:
        transport = connection.transport
        assert (transport.driver_name, transport.driver_version()) == ("atomq", atomq.__version__)
    assert f"atomq:{atomq.__version__}" in app.bugreport()


@pytest.mark.slow
def test_a_worker_says_that_it_was_taken_over(at: Place) -> None:
    env = {"ATOMQ_TAKE_OVER": "1"}
    url = at.server.tcp_url
    worker = at.worker("solo", broker=url, env=env).ready()
    assert worker.stop() == 0
    (line,) = [line for line in worker.log.splitlines() if "has taken over" in line]
    assert f"atomq {atomq.__version__} has taken over redis://" in line


@pytest.mark.long
def test_flower_shows_the_queues(app: Celery) -> None:
    broker = tool("flower.utils.broker")
    url = app.connection().as_uri(include_password=True)
    found = asyncio.run(broker.Broker(url, broker_options={}).queues(["celery"]))
    assert [(queue["name"], queue["messages"]) for queue in found] == [("celery", 2)]


@pytest.mark.long
def test_redbeat_keeps_its_schedule(app: Celery) -> None:
    schedulers = tool("redbeat.schedulers")
    from celery.schedules import schedule

    assert schedulers.get_redis(app).ping()
    entry = schedulers.RedBeatSchedulerEntry("tick", "add", schedule(run_every=60), app=app)
    entry.save()
    assert schedulers.RedBeatSchedulerEntry.from_key(entry.key, app=app).task == "add"


@pytest.mark.long
def test_celery_singleton_queues_a_task_once(app: Celery) -> None:
    base = tool("celery_singleton").Singleton

    @app.task(name="single", base=base)
    def single(number: int) -> None: ...

    assert single.delay(1).id == single.delay(1).id
    assert redis.from_url(app.conf.broker_url).llen("celery") == 3


@pytest.mark.long
def test_hirefire_counts_what_waits(app: Celery) -> None:
    procs = tool("hirefire.procs.celery")
    proc = procs.CeleryProc(app, "worker", queues=["celery"])
    assert proc.quantity(cache={}) == 2


@pytest.mark.long
def test_celery_exporter_measures_the_queues(app: Celery) -> None:
    exporter = tool("src.exporter").Exporter(initial_queues=["celery"])  # so it calls its package
    exporter.app = app
    exporter.track_queue_metrics()
    found = exporter.registry.get_sample_value("celery_queue_length", {"queue_name": "celery"})
    assert found == 2


@pytest.mark.long
def test_django_celery_beat_sends_what_is_due(server: Server) -> None:
    tool("django_celery_beat")
    code = (
        "import django\n"
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_celery_beat'], USE_TZ=True,\n"
        "    DATABASES={'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}})\n"
        "django.setup()\n"
        "from django.core.management import call_command\n"
        "call_command('migrate', verbosity=0)\n"
        "from celery import Celery\n"
        "from django_celery_beat.models import IntervalSchedule, PeriodicTask\n"
        "from django_celery_beat.schedulers import DatabaseScheduler\n"
        f"app = Celery('x', broker={server.tcp_url!r})\n"
        "app.conf.beat_schedule = {}\n"
        "every = IntervalSchedule.objects.create(every=1, period='seconds')\n"
        "PeriodicTask.objects.create(name='tick', task='add', interval=every)\n"
        "import time\n"
        "scheduler = DatabaseScheduler(app=app)\n"
        "until = time.monotonic() + 20\n"
        "while not app.connection().default_channel.client.llen('celery'):\n"
        "    assert time.monotonic() < until\n"
        "    time.sleep(max(0.0, min(0.2, scheduler.tick())))\n"
        "print(type(app.connection().transport).__module__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"ATOMQ_TAKE_OVER": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'engine'}", "PATH": "/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "atomq.contrib.kombu.transport", done.stderr[-3000:]
