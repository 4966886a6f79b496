"""Signing in and out, and whose session a request belongs to.

A wrong name costs the same as a wrong password; who tries too often waits, by account and address, by address,
and by account wherever the tries come from. Only the hash of what the browser holds is stored.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from broker.domain.access import (
    IDLE,
    LONGEST_SESSION,
    Role,
    Throttle,
    account_name,
    new_password,
    prepared_password,
)
from broker.domain.events import Event, EventName, Subject
from broker.errors import InvalidValue, NotAllowed, NotFound, TooManyTries
from broker.workflow.accounts_port import Account, AccountReports, PasswordHasher, Session
from broker.workflow.clock import Clock
from broker.workflow.unit_of_work import UnitsOfWork

MAX_SESSIONS = 10
"""Of one account; the oldest gives way."""
_TOUCH_AFTER = timedelta(minutes=1)
_WRONG = "The name or the password is not right."
_TOKEN_CHARS = 43
_MAX_KNOWN_PLACES = 10_000


def hash_of(token: str) -> bytes:
    """Answer what is stored of a token: it is random, so a fast hash cannot be reversed."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


class SignIn:
    """Opens and ends sessions."""

    def __init__(
        self, units_of_work: UnitsOfWork, reports: AccountReports, hasher: PasswordHasher, clock: Clock
    ) -> None:
        self._units_of_work = units_of_work
        self._reports = reports
        self._hasher = hasher
        self._clock = clock
        self._lock = threading.Lock()
        self._of_pair = Throttle()
        self._of_address = Throttle(free=20)
        # From many addresses at once; whoever signed in from an address before is not kept out by strangers.
        self._of_account = Throttle(free=30, cap=timedelta(minutes=1))
        self._places: dict[tuple[str, str], None] = {}
        self._nobody: str | None = None

    def sign_in(self, name: str, password: str, *, address: str, before: str = "") -> str:
        """Open a session and answer its token; the session `before` ends.

        Raises NotAllowed when name or password are wrong, TooManyTries, and OutOfResources.
        """
        try:
            wanted, typed = account_name(name), prepared_password(password)
        except InvalidValue:
            wanted, typed = "", ""
        account = self._reports.account(wanted) if wanted else None
        self._admit(wanted, address)
        decoy = self._decoy()
        is_right = self._hasher.verify(account.password_hash if account else decoy, typed)
        if account is None or not is_right or account.is_disabled:
            self._refused(account, address)
            raise NotAllowed(_WRONG)
        return self._open(account, typed, address, before)

    def _admit(self, name: str, address: str) -> None:
        now = self._clock.now()
        with self._lock:
            keys = [(self._of_pair, f"{name} {address}"), (self._of_address, address)]
            if (name, address) not in self._places:
                keys.append((self._of_account, name))
            wait = max(throttle.wait(key, now) for throttle, key in keys)
            if not wait:
                for throttle, key in keys:
                    throttle.count(key, now)
        if wait:
            raise TooManyTries(int(wait.total_seconds()) + 1)

    def _refused(self, account: Account | None, address: str) -> None:
        """Write down a wrong try; the throttle bounds how many there are.

        A name nobody has is not kept: people type their password there by mistake.
        """
        with self._units_of_work() as uow:
            uow.record(
                Event(
                    EventName.SIGN_IN_REFUSED,
                    Subject.ACCOUNT,
                    account.id if account else None,
                    actor=account.name if account else "nobody known",
                    details={
                        "address": address,
                        "reason": "disabled" if account and account.is_disabled else "name or password",
                    },
                )
            )
            uow.commit()

    def _open(self, account: Account, typed: str, address: str, before: str) -> str:
        token, now = secrets.token_urlsafe(32), self._clock.now()
        renewed = self._hasher.hash(typed) if self._hasher.is_outdated(account.password_hash) else None
        with self._units_of_work() as uow:
            uow.lock("accounts")
            current = uow.accounts.find(account.name)
            if current is None or current.is_disabled or current.password_hash != account.password_hash:
                raise NotAllowed(_WRONG)  # disabled, or changed, while the password was compared
            if before:
                uow.sessions.end(hash_of(before))
            uow.sessions.forget(seen_before=now - IDLE, created_before=now - LONGEST_SESSION)
            uow.sessions.add(hash_of(token), account.id, address, now=now)
            uow.sessions.keep_newest(account.id, MAX_SESSIONS)
            if renewed:
                uow.accounts.change_password(account.id, renewed, now=account.password_changed_at)
            uow.accounts.signed_in(account.id, now=now)
            uow.record(
                Event(
                    EventName.SIGNED_IN,
                    Subject.ACCOUNT,
                    account.id,
                    actor=account.name,
                    details={"address": address, "role": current.role.value},
                )
            )
            uow.commit()
        with self._lock:
            self._of_pair.forgive(f"{account.name} {address}")
            self._of_address.forgive(address)
            self._places[(account.name, address)] = None
            while len(self._places) > _MAX_KNOWN_PLACES:
                del self._places[next(iter(self._places))]
        return token

    def sign_out(self, token: str, session: Session, *, address: str) -> None:
        """End a session."""
        with self._units_of_work() as uow:
            uow.sessions.end(hash_of(token))
            uow.record(
                Event(
                    EventName.SIGNED_OUT,
                    Subject.ACCOUNT,
                    session.account,
                    actor=session.name,
                    details={"address": address},
                )
            )
            uow.commit()

    def session(self, token: str, *, by_hand: bool = True) -> Session | None:
        """Answer the session a browser's token opens; None when there is none or it has run out.

        `by_hand` is False for what a page asks by itself: a forgotten screen does not stay signed in.
        """
        if len(token) != _TOKEN_CHARS:
            return None
        session, now = self._reports.session(hash_of(token)), self._clock.now()
        if session is None or session.is_disabled or not _is_fresh(session, now):
            return None
        if by_hand and now - session.seen_at >= _TOUCH_AFTER:
            with self._units_of_work() as uow:
                uow.sessions.touch(session.id, now=now)
                uow.commit()
        return session

    def open_sessions(self, *, before: int | None = None, limit: int = 100) -> Sequence[Session]:
        """Answer the sessions that let somebody in, newest first; `before` is the id of the last one seen."""
        now = self._clock.now()
        return self._reports.open_sessions(
            seen_after=now - IDLE, created_after=now - LONGEST_SESSION, before=before, limit=limit
        )

    def still_open(self, sessions: Iterable[int]) -> Mapping[int, Role]:
        """Answer which of these sessions have not ended, and what each lets do now."""
        now = self._clock.now()
        found = self._reports.sessions(sorted(set(sessions)))
        return {one.id: one.role for one in found if not one.is_disabled and _is_fresh(one, now)}

    def hide_names(self, session: Session, *, hide: bool) -> None:
        """Mask the names of patients on the pages of this session, or no longer."""
        with self._units_of_work() as uow:
            uow.sessions.hide_names(session.id, hide=hide)
            uow.commit()

    def change_own_password(self, session: Session, current: str, wanted: str, *, address: str) -> str:
        """Change the password of who asks; every session of theirs ends, the token of a new one is answered.

        Raises NotAllowed when the current one is wrong, InvalidValue when the wanted one is too weak.
        """
        account = self._reports.account(session.name)
        if account is None:
            raise NotFound("There is no such account.")
        self._admit(account.name, address)
        try:
            typed = prepared_password(current)
        except InvalidValue:
            typed = ""
        if not self._hasher.verify(account.password_hash, typed):
            self._refused(account, address)
            raise NotAllowed("The current password is not right.")
        password_hash = self._hasher.hash(new_password(wanted, name=account.name))
        token, now = secrets.token_urlsafe(32), self._clock.now()
        with self._units_of_work() as uow:
            uow.lock("accounts")
            current_row = uow.accounts.find(account.name)
            if current_row is None or current_row.password_hash != account.password_hash:
                raise NotAllowed("The current password is not right.")
            uow.accounts.change_password(account.id, password_hash, now=now)
            uow.sessions.end_all(account.id)
            uow.sessions.add(hash_of(token), account.id, address, now=now)
            uow.record(
                Event(
                    EventName.PASSWORD_CHANGED,
                    Subject.ACCOUNT,
                    account.id,
                    actor=account.name,
                    details={"account": account.name, "address": address},
                )
            )
            uow.commit()
        with self._lock:
            self._of_pair.forgive(f"{account.name} {address}")
        return token

    def _decoy(self) -> str:
        """Answer a hash nobody's password has, so that an unknown name takes as long as a wrong password."""
        if self._nobody is None:
            self._nobody = self._hasher.hash(secrets.token_urlsafe(32))
        return self._nobody


def _is_fresh(session: Session, now: datetime) -> bool:
    return now - session.seen_at < IDLE and now - session.created_at < LONGEST_SESSION
