"""The read side: what pages, the JSON API and the command line list."""

from __future__ import annotations

from broker.db.reports.accounts import AccountReports
from broker.db.reports.alerts import SqlAlertReports
from broker.db.reports.audit import AuditReports
from broker.db.reports.board import SqlBoardReports
from broker.db.reports.captures import SqlCaptureReports
from broker.db.reports.configurations import SqlConfigurationReports
from broker.db.reports.deliveries import DeliveryReports
from broker.db.reports.destinations import DestinationReports
from broker.db.reports.devices import SqlDeviceReports
from broker.db.reports.entries import SqlEntryReports
from broker.db.reports.find import SqlFindReports
from broker.db.reports.message_board import SqlMessageBoard
from broker.db.reports.messages import MessageReports
from broker.db.reports.metrics import MetricReports
from broker.db.reports.orders import OrderReports
from broker.db.reports.overview import OverviewReports
from broker.db.reports.probe_runs import SqlProbeReports
from broker.db.reports.rules import SqlRuleReports
from broker.db.reports.selections import SelectionReports
from broker.db.reports.shift import ShiftReports
from broker.db.reports.sources import SourceReports
from broker.db.reports.studies import StudyReports
from broker.db.reports.timelines import TimelineReports
from broker.db.reports.trail import SqlTrailReports
from broker.db.reports.trends import TrendReports
from broker.db.reports.worklist import WorklistReports


class SqlReports(
    SqlBoardReports,
    SqlCaptureReports,
    SqlDeviceReports,
    AccountReports,
    AuditReports,
    WorklistReports,
    OrderReports,
    MessageReports,
    SqlFindReports,
    SqlEntryReports,
    SqlMessageBoard,
    StudyReports,
    DeliveryReports,
    SelectionReports,
    SqlRuleReports,
    SqlProbeReports,
    DestinationReports,
    OverviewReports,
    ShiftReports,
    SourceReports,
    TimelineReports,
    TrendReports,
    SqlAlertReports,
    SqlConfigurationReports,
    MetricReports,
    SqlTrailReports,
):
    """Implements the Reports and AccountReports ports: every method reads in one read-only transaction."""


__all__ = ["SqlReports"]
