"""Celery's and Kombu's own integration suites, run on stock and on atomq."""
