"""Accounts: the first one by a one-time token, the others by an admin. Every change is an event with its actor.

A change of role or password, and disabling, end the account's sessions in the same transaction.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from broker.domain.access import Role, account_name, new_password
from broker.domain.events import Event, EventName, Subject
from broker.errors import Conflict, DuplicateKey, NotAllowed, NotFound
from broker.workflow.accounts_port import Account, AccountReports, FirstRunToken, PasswordHasher
from broker.workflow.clock import Clock
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

_LOCK = "accounts"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a change, and from where."""

    name: str
    address: str


class AccountAdministration:
    """Adds and changes accounts."""

    def __init__(
        self,
        units_of_work: UnitsOfWork,
        reports: AccountReports,
        hasher: PasswordHasher,
        clock: Clock,
        *,
        first_run: FirstRunToken,
    ) -> None:
        self._units_of_work = units_of_work
        self._reports = reports
        self._hasher = hasher
        self._clock = clock
        self._first_run = first_run

    # ---- first run ----

    def is_first_run(self) -> bool:
        """Tell whether nobody can sign in yet."""
        return not self._reports.has_accounts()

    def first_run_token(self) -> str | None:
        """Answer the one-time token, made when there is none yet; None when there is an account already."""
        if not self.is_first_run():
            self._first_run.forget()
            return None
        return self._first_run.ensure()

    def add_first(self, token: str, name: str, password: str, *, address: str) -> str:
        """Make the first admin, and answer its name. Raises NotAllowed, Conflict or InvalidValue."""
        known = self._first_run.stored()
        if not known or not hmac.compare_digest(known.encode(), token.strip().encode("utf-8", "replace")):
            raise NotAllowed(
                "The first-run token is not right: use the newest link the broker printed, or `broker users add`."
            )
        name = account_name(name)
        password_hash = self._hasher.hash(new_password(password, name=name))
        with self._units_of_work() as uow:
            uow.lock(_LOCK)  # two who hold the link: one of them is first
            if uow.accounts.any():
                raise Conflict("Somebody has made the first account already; ask them for one.")
            self._add(uow, name, Role.ADMIN, password_hash, Caller(name, address))
            uow.commit()
        self._first_run.forget()
        return name

    # ---- the others ----

    def add(self, name: str, role: Role, password: str, *, by: Caller) -> str:
        """Add an account and answer its name. Raises InvalidValue or DuplicateKey."""
        name = account_name(name)
        password_hash = self._hasher.hash(new_password(password, name=name))
        with self._units_of_work() as uow:
            uow.lock(_LOCK)
            self._add(uow, name, role, password_hash, by)
            uow.commit()
        self._first_run.forget()
        return name

    def change_role(self, name: str, role: Role, *, by: Caller) -> bool:
        """Give an account another role; its sessions end. Raises Conflict for the last admin."""
        with self._units_of_work() as uow:
            uow.lock(_LOCK)
            account = _known(uow, name)
            if account.role is role:
                return False
            if role is not Role.ADMIN:
                _keep_an_admin(uow, account)
            uow.accounts.change_role(account.id, role)
            uow.sessions.end_all(account.id)
            details = {"before": account.role.value, "after": role.value}
            _record(uow, EventName.ACCOUNT_CHANGED, account.id, account.name, by, details)
            uow.commit()
            return True

    def disable(self, name: str, *, by: Caller) -> bool:
        """Let an account in no longer; its sessions end at once. Raises Conflict for the last admin."""
        return self._set_disabled(name, disabled=True, by=by)

    def enable(self, name: str, *, by: Caller) -> bool:
        """Let a disabled account in again."""
        return self._set_disabled(name, disabled=False, by=by)

    def set_password(self, name: str, password: str, *, by: Caller) -> None:
        """Give an account another password; all its sessions end. Raises InvalidValue or NotFound."""
        name = account_name(name)
        password_hash = self._hasher.hash(new_password(password, name=name))
        with self._units_of_work() as uow:
            uow.lock(_LOCK)
            account = _known(uow, name)
            uow.accounts.change_password(account.id, password_hash, now=self._clock.now())
            uow.sessions.end_all(account.id)
            _record(uow, EventName.PASSWORD_CHANGED, account.id, account.name, by, {})
            uow.commit()

    def end_session(self, session: int, *, by: Caller) -> bool:
        """Sign a browser out, wherever it is; False when it is already."""
        with self._units_of_work() as uow:
            ended = uow.sessions.end_one(session)
            if ended is None:
                return False
            account, name = ended
            _record(uow, EventName.SIGNED_OUT, account, name, by, {"session": str(session)})
            uow.commit()
            return True

    def _set_disabled(self, name: str, *, disabled: bool, by: Caller) -> bool:
        with self._units_of_work() as uow:
            uow.lock(_LOCK)
            account = _known(uow, name)
            if account.is_disabled is disabled:
                return False
            if disabled:
                _keep_an_admin(uow, account)
                uow.sessions.end_all(account.id)
            uow.accounts.disable(account.id, disabled=disabled)
            what = EventName.ACCOUNT_DISABLED if disabled else EventName.ACCOUNT_ENABLED
            _record(uow, what, account.id, account.name, by, {})
            uow.commit()
            return True

    def _add(self, uow: UnitOfWork, name: str, role: Role, password_hash: str, by: Caller) -> None:
        if uow.accounts.find(name) is not None:
            raise DuplicateKey(f"There is an account {name} already.")
        key = uow.accounts.add(name, role, password_hash, now=self._clock.now())
        _record(uow, EventName.ACCOUNT_ADDED, key, name, by, {"role": role.value})


def _known(uow: UnitOfWork, name: str) -> Account:
    account = uow.accounts.find(account_name(name))
    if account is None:
        raise NotFound("There is no such account.")
    return account


def _keep_an_admin(uow: UnitOfWork, account: Account) -> None:
    if account.role is Role.ADMIN and not account.is_disabled and uow.accounts.count_admins() == 1:
        raise Conflict(f"{account.name} is the only admin: make another one first.")


def _record(
    uow: UnitOfWork, what: EventName, key: int, name: str, by: Caller, details: dict[str, str]
) -> None:
    told: dict[str, str | int | float | bool | list[str] | None] = {
        "account": name,
        "address": by.address,
        **details,
    }
    uow.record(Event(what, Subject.ACCOUNT, key, actor=by.name, details=told))
