"""Carries alerts to people and machines: e-mail, webhook, syslog."""
