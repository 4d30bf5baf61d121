"""Celery on stock Kombu and on atomq: the same scenarios, only the URL's scheme changed."""
