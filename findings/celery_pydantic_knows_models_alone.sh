#!/usr/bin/env bash
# Celery with `pydantic=True`: a list of models stays a list of dicts, `int` takes "five", and what was invalid reaches the caller as `([])`
#
# Guess: arguments are validated by their annotations, as pydantic's validate_call does, and so is what is returned; what does
# not fit is a ValidationError that says which field, to the caller too.
#
# Seen: celery 5.7.0, kombu 5.7.0 (memory transport), pydantic 2.14.4: only an annotation that is a model, or a model or None,
# is looked at. `list[Item]` gets dicts, `int` gets any text. A returned list of models cannot be stored, so a task that did its
# work is a FAILURE; a dict returned for a model is stored unchecked, a model that is not annotated is refused. The error of an
# invalid argument arrives as a bare Exception whose text names the class and an empty list, and `autoretry_for=(Exception,)`
# tries that argument again and again.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --target "$dir/lib" \
  celery==5.7.0 kombu==5.7.0 pydantic==2.14.4 2>/dev/null
seen=$(PYTHONPATH=$dir/lib python3 - <<'EOF'
import logging, os
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.signals import task_retry
from pydantic import BaseModel

logging.disable(logging.CRITICAL)
app = Celery("app", broker="memory://", backend="cache+memory://")
app.conf.update(worker_hijack_root_logger=False, broker_transport_options={"polling_interval": 0.02})

class Item(BaseModel):
    price: int

@app.task(pydantic=True)
def one(item: Item): return repr(item)

@app.task(pydantic=True)
def one_or_none(item: Item | None): return repr(item)

@app.task(pydantic=True)
def several(items: list[Item]): return repr(items)

@app.task(pydantic=True)
def number(count: int): return repr(count)

@app.task(pydantic=True)
def gives_one(_) -> Item: return Item(price=1)

@app.task(pydantic=True)
def gives_several(_) -> list[Item]: return [Item(price=1)]

@app.task(pydantic=True)
def gives_a_dict(_) -> Item: return {"price": "five"}

@app.task(pydantic=True)
def gives_unannotated(_): return Item(price=1)

retries = []
task_retry.connect(lambda **arguments: retries.append(1), weak=False)

@app.task(pydantic=True, autoretry_for=(Exception,), max_retries=2, default_retry_delay=0)
def tried_again(item: Item): return repr(item)

with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
    for task, argument in (
        (one, {"price": "5"}), (one, {"price": "five"}), (one_or_none, {"price": "5"}), (several, [{"price": "five"}]),
        (number, "five"), (tried_again, {"price": "five"}), (gives_one, 0), (gives_several, 0), (gives_a_dict, 0), (gives_unannotated, 0),
    ):
        try:
            answer = task.delay(argument).get(timeout=20)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(task.__name__, argument, "|", answer, flush=True)
    print("retries:", len(retries), flush=True)
    os._exit(0)
EOF
)
echo "$seen"
diff <(echo "$seen") - <<'EOF' || { echo "this has changed"; exit 1; }
one {'price': '5'} | Item(price=5)
one {'price': 'five'} | Exception: <class 'pydantic_core._pydantic_core.ValidationError'>([])
one_or_none {'price': '5'} | Item(price=5)
several [{'price': 'five'}] | [{'price': 'five'}]
number five | 'five'
tried_again {'price': 'five'} | Exception: <class 'pydantic_core._pydantic_core.ValidationError'>([])
gives_one 0 | {'price': 1}
gives_several 0 | EncodeError: TypeError('Object of type Item is not JSON serializable')
gives_a_dict 0 | {'price': 'five'}
gives_unannotated 0 | EncodeError: TypeError('Object of type Item is not JSON serializable')
retries: 2
EOF
