"""The processes that do the work: Celery tasks, and the sweep that needs no Celery."""
