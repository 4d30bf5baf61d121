"""The pages of all queues, dead letters, workers, the doctor and the metrics.

No page changes anything, and none but the doctor's searches the database for keys.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from atomq import calls
from atomq.cli.workers import row as worker_row
from atomq.errors import AtomqError
from atomq.web.numbers import overview, shown
from atomq.web.query import did
from atomq.web.samples import HEIGHT, WIDTH
from atomq.web.site import Site

if TYPE_CHECKING:
    pass

QUEUES = 200  # on a page


def queues(site: Site, request: Request) -> Response:
    """All queues of the register in numbers, 200 on a page: two server calls."""
    found = overview(site, after=request.query_params.get("after", ""), limit=QUEUES)
    states = [q for q in found.queues if not q.is_empty or q.paused or found.consumers_of(q.name)]
    return site.page(
        request,
        "queues.html",
        title="Queues",
        now_ms=max((state.now_ms for state in states), default=0),
        queues=shown(site, states),
        unreadable=found.unreadable,
        next=found.next,
        after=request.query_params.get("after", ""),
        did=did(request),
        size=(WIDTH, HEIGHT),
    )


def dead(site: Site, request: Request) -> Response:
    """Dead letters of all queues, by their reasons."""
    found = overview(site, after=request.query_params.get("after", ""), limit=QUEUES)
    states = [state for state in found.queues if state.dead or state.dead_by_reason]
    return site.page(
        request,
        "dead.html",
        title="Dead letters",
        queues=sorted(states, key=lambda state: -state.dead),
        total=sum(state.dead for state in states),
        next=found.next,
        after=request.query_params.get("after", ""),
        did=did(request),
    )


def workers(site: Site, request: Request) -> Response:
    """The processes that consume."""
    found = site.session.reader.run(calls.roster(site.session.engine.register.keys, limit=1))
    rows = [worker_row(process) for process in found.processes]
    return site.page(
        request,
        "workers.html",
        title="Workers",
        now_ms=found.now_ms,
        workers=sorted(rows, key=lambda row: (row["host"] or "", row["pid"] or 0)),
        alive=found.alive,
    )


def doctor(site: Site, request: Request) -> Response:
    """What `atomq doctor` says, when it is asked to: it looks through the database."""
    from atomq.cli import checks
    from atomq.cli.findings import Finding, advice_for

    findings: list[Finding] | None = None
    if request.query_params.get("run"):
        findings = []
        names = site.session.reader.run(
            calls.roster(site.session.engine.register.keys, limit=QUEUES)
        ).queues
        try:
            findings.extend(checks.everything(site.session, names))
        except AtomqError as error:
            findings.append(Finding("connection", "fail", str(error), advice_for(error)))
    nodes = {finding.node for finding in findings or ()} - {""}
    if findings is not None and len(nodes) < 2:
        findings = [replace(finding, node="") for finding in findings]
    return site.page(request, "doctor.html", title="Doctor", findings=findings)


def metrics(site: Site, request: Request) -> Response:
    """What `atomq metrics` says, for Prometheus."""
    try:
        registry = site.registry
        from prometheus_client.exposition import choose_encoder
    except ImportError as error:
        raise HTTPException(404, str(error)) from error
    encode, kind = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": kind})
