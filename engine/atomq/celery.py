"""atomq for Celery users.

    import atomq.celery                    # registers atomq:// and its kin
    app = Celery(broker="atomq://localhost:6379/0")

    atomq.celery.take_over()               # or: redis:// URLs run on it, unchanged

Where atomq is installed `import celery` registers the schemes by itself; the import is needed by
programs that use Kombu alone. With ATOMQ_TAKE_OVER=1 in the environment it takes over, too.
"""

from __future__ import annotations

try:
    import kombu  # noqa: F401 - only whether it is there
except ImportError as error:
    raise ImportError('atomq.celery needs Celery, or Kombu: pip install "atomq[celery]"') from error

from atomq.contrib.kombu.registry import register, take_over

__all__ = ["register", "take_over"]
