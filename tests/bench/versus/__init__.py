"""Celery on stock Kombu and on atomq: the same scenarios, with nothing changed but the URL's scheme."""
