"""Tokens of programs: made by an admin, shown once, hashed, of one role, and ending by themselves."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from datetime import timedelta

from broker.domain.access import LONGEST_TOKEN, Role
from broker.domain.events import Event, EventName, Subject
from broker.errors import InvalidValue
from broker.workflow.accounts import Caller
from broker.workflow.accounts_port import AccountReports, ApiToken
from broker.workflow.clock import Clock
from broker.workflow.sign_in import hash_of
from broker.workflow.unit_of_work import UnitsOfWork

PREFIX = "wlb_"
"""Lets a scanner of leaked secrets recognise ours."""
_CHARS = len(PREFIX) + 43
_USED_AFTER = timedelta(minutes=1)


class TokenAdministration:
    """Issues and revokes tokens, and knows whose one is."""

    def __init__(self, units_of_work: UnitsOfWork, reports: AccountReports, clock: Clock) -> None:
        self._units_of_work = units_of_work
        self._reports = reports
        self._clock = clock

    def issue(self, label: str, role: Role, *, life: timedelta, by: Caller) -> tuple[int, str]:
        """Make a token, answer its id and itself; it cannot be shown again. Raises InvalidValue."""
        label = label.strip()
        if not label or len(label) > 64 or not label.isprintable():
            raise InvalidValue("A token has a label of 1 to 64 characters: who uses it.", field="label")
        if not timedelta(0) < life <= LONGEST_TOKEN:
            raise InvalidValue(f"A token lives at most {LONGEST_TOKEN.days} days.", field="days")
        token, now = PREFIX + secrets.token_urlsafe(32), self._clock.now()
        with self._units_of_work() as uow:
            key = uow.api_tokens.add(
                hash_of(token), label, role, issued_by=by.name, now=now, expires_at=now + life
            )
            details = {
                "label": label,
                "role": role.value,
                "expires_at": (now + life).isoformat(),
                "address": by.address,
            }
            uow.record(Event(EventName.TOKEN_ISSUED, Subject.TOKEN, key, actor=by.name, details=details))
            uow.commit()
        return key, token

    def revoke(self, token: int, *, by: Caller) -> bool:
        """Take a token back; False when it is already. Raises NotFound."""
        with self._units_of_work() as uow:
            uow.lock("accounts")
            known = uow.api_tokens.get(token)
            if known.revoked_at is not None:
                return False
            uow.api_tokens.revoke(token, now=self._clock.now())
            details = {"label": known.label, "address": by.address}
            uow.record(Event(EventName.TOKEN_REVOKED, Subject.TOKEN, token, actor=by.name, details=details))
            uow.commit()
            return True

    def still_open(self, tokens: Iterable[int]) -> Mapping[int, Role]:
        """Answer which of these tokens still open something, and what each lets do."""
        now = self._clock.now()
        found = self._reports.api_tokens_of(sorted(set(tokens)))
        return {one.id: one.role for one in found if one.revoked_at is None and one.expires_at > now}

    def known(self, token: str) -> ApiToken | None:
        """Answer the token a program has shown; None when it opens nothing (any longer)."""
        if len(token) != _CHARS or not token.startswith(PREFIX):
            return None
        found, now = self._reports.api_token(hash_of(token)), self._clock.now()
        if found is None or found.revoked_at is not None or found.expires_at <= now:
            return None
        if found.last_used_at is None or now - found.last_used_at >= _USED_AFTER:
            with self._units_of_work() as uow:
                uow.api_tokens.used(found.id, now=now)
                uow.commit()
        return found
