"""A Kombu transport: an unmodified Celery on the engine. Registered by `atomq.celery`."""
