"""A page to see a fleet and to steer it: `atomq web`, or mounted in an application.

`app.py` has the routes; `pages.py`, `queue_page.py` and `message_page.py` what is looked at, with
`numbers.py` and `query.py`; `actions.py` what can be done, `guard.py` what every request passes,
`site.py` what pages share, `samples.py` what is remembered for rates and curves; `command.py` is
`atomq web`, `django.py` the page in a project of Django's. Pages are drawn from `templates/`, work
without JavaScript, and are looked at anew by htmx, which lies in `static/`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from atomq.client import Engine

_EXTRA = ("starlette", "jinja2", "typer")


def asgi_app(server: str | Engine, **settings: Any) -> ASGIApp:
    """See `atomq.web.app.asgi_app`. Raises `ImportError` where a library of the extra lacks."""
    check_extra(_EXTRA)
    from atomq.web import app

    return app.asgi_app(server, **settings)


def check_extra(names: tuple[str, ...]) -> None:
    """Raise an `ImportError` that names the extra, unless these libraries are there."""
    for name in names:
        if find_spec(name) is None:
            raise ImportError(f"the web page needs {name}: pip install 'atomq[web]'")
