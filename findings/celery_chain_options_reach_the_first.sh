#!/usr/bin/env bash
# Options given to a whole chain reach its first task only; a chord passes them to its body, all but the countdown
#
# Guess: `chain(a, b, c).apply_async(queue=..., priority=..., expires=...)` sends all three that way, or none; `chord` does as
# `chain`.
#
# Seen: Celery 5.7.0: only the first task of the chain goes to that queue, with that priority and an expiry; the others carry no
# options and go where the worker that ran the first routes them, without an expiry. Of a chord the header and the body
# have all three; `countdown` holds for the header alone.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir" celery==5.7.0 2>/dev/null
seen=$(PYTHONPATH=$dir python3 - <<'EOF'
from celery import Celery, chain, chord

app = Celery("app", broker="memory://", backend="cache+memory://")

@app.task(name="task")
def task():
    pass

given = {"queue": "other", "priority": 7, "expires": 60, "countdown": 30}

def of(options):
    return {name: options[name] for name in given if name in options}

def first():
    with app.connection() as connection:
        message = connection.default_channel.basic_get("other")
        sent = {"queue": "other", "priority": message.properties["priority"]}
        for name, header in (("expires", "expires"), ("countdown", "eta")):
            if message.headers[header]:
                sent[name] = given[name]
        return sent, message.payload[2]

chain(task.si(), task.si(), task.si()).apply_async(**given)
sent, embedded = first()
print("chain first", sent, "| later", [of(one["options"]) for one in embedded["chain"]])
chord([task.si(), task.si()], task.si()).apply_async(**given)
sent, embedded = first()
print("chord header", sent, "| body", of(embedded["chord"]["options"]))
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF'
chain first {'queue': 'other', 'priority': 7, 'expires': 60, 'countdown': 30} | later [{}, {}]
chord header {'queue': 'other', 'priority': 7, 'expires': 60, 'countdown': 30} | body {'queue': 'other', 'priority': 7, 'expires': 60}
EOF
