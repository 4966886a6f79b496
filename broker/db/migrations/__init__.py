"""The schema's history, run by broker.db.migrate."""
