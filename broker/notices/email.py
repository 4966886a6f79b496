"""Alerts by e-mail (RFC 5321)."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from pathlib import Path

from broker.notices.wording import subject_of, text_of
from broker.settings import EmailChannel
from broker.workflow.alerts_port import ChannelFailed, Message

TIMEOUT_S = 10.0


class Email:
    """Implements the Channel port: one mail for each message."""

    name = "email"

    def __init__(self, settings: EmailChannel, *, password: str | None, folder: Path = Path()) -> None:
        """Prepare; nothing is connected yet. Files of the settings are relative to `folder`."""
        self._ca = str(folder / settings.ca) if settings.ca else None
        self._settings = settings
        self._password = password

    def send(self, message: Message) -> None:
        """Hand the mail to the server. Raises ChannelFailed."""
        settings = self._settings
        try:
            with smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_S) as server:
                if settings.starttls:
                    server.starttls(context=ssl.create_default_context(cafile=self._ca))
                if settings.user and self._password:
                    server.login(settings.user, self._password)
                refused = server.send_message(self._mail(message))
        except (OSError, smtplib.SMTPException) as error:
            # The kind and the code alone: what a server says may quote what it was sent.
            code = getattr(error, "smtp_code", None)
            raise ChannelFailed(
                f"{settings.host}:{settings.port}: {type(error).__name__}" + (f" {code}" if code else "")
            ) from error
        if refused:
            raise ChannelFailed(f"{settings.host}: {len(refused)} of the recipients were refused")

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self._settings.sender
        mail["To"] = ", ".join(self._settings.to)
        mail["Subject"] = subject_of(message)
        mail["Date"] = format_datetime(message.at)
        mail["Message-ID"] = make_msgid(idstring=message.id, domain="worklist-broker.invalid")
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        mail.set_content(text_of(message))
        return mail
