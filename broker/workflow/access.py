"""Everything about who may come in, as the pages are given it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from broker.workflow.accounts import AccountAdministration
from broker.workflow.accounts_port import AccountReports
from broker.workflow.api_tokens import TokenAdministration
from broker.workflow.audit import Audit
from broker.workflow.audit_collectors import CollectorLine
from broker.workflow.audit_port import AuditReports, Verification
from broker.workflow.sign_in import SignIn


class AccessReports(AccountReports, AuditReports, Protocol):
    """Everything the door reads."""


@dataclass(frozen=True, slots=True)
class Access:
    """The use cases of the door."""

    accounts: AccountAdministration
    sign_in: SignIn
    tokens: TokenAdministration
    audit: Audit
    reports: AccessReports
    verify: Callable[[], Verification]
    """Walks along the whole chain of the audit trail."""
    collectors: Callable[[], Sequence[CollectorLine]] = tuple
    """Answers how it stands with those who are sent audit messages."""
