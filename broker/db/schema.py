"""The tables as Core statements use them, by the glossary's words."""

from __future__ import annotations

from sqlalchemy import MetaData, Table
from sqlmodel import SQLModel

from broker.db import (
    access_tables,
    alert_tables,
    audit_tables,
    capture_tables,
    configuration_tables,
    delivery_tables,
    device_tables,
    image_tables,
    message_tables,
    operation_tables,
    order_tables,
    performed_tables,
    probe_tables,
    system_tables,
    traffic_tables,
)

METADATA: MetaData = order_tables.PatientRow.metadata


def _table(row: type[SQLModel]) -> Table:
    return METADATA.tables[str(row.__tablename__)]


PATIENT = _table(order_tables.PatientRow)
PATIENT_ALIAS = _table(order_tables.PatientAliasRow)
ORDER = _table(order_tables.OrderRow)
PROCEDURE = _table(order_tables.ProcedureRow)
STEP = _table(order_tables.StepRow)
STEP_STATION = _table(order_tables.StepStationRow)
PERFORMED = _table(performed_tables.PerformedStepRow)
PERFORMED_LINK = _table(performed_tables.PerformedLinkRow)
PERFORMED_STUDY = _table(performed_tables.PerformedStudyRow)
MESSAGE = _table(message_tables.MessageRow)
INSTANCE = _table(image_tables.InstanceRow)
DECISION = _table(image_tables.DecisionRow)
CONFIGURATION = _table(configuration_tables.ConfigurationRow)
CONFIGURATION_CHANGE = _table(configuration_tables.ConfigurationChangeRow)
DELIVERY = _table(delivery_tables.DeliveryRow)
DELIVERY_ITEM = _table(delivery_tables.DeliveryItemRow)
DESTINATION = _table(delivery_tables.DestinationRow)
EVENT = _table(system_tables.EventRow)
HEARTBEAT = _table(system_tables.HeartbeatRow)
SEAL_HEAD = _table(system_tables.SealHeadRow)
STUDY = _table(image_tables.StudyRow)
BULK_OPERATION = _table(operation_tables.BulkOperationRow)
IDEMPOTENCY_KEY = _table(operation_tables.IdempotencyKeyRow)
INSTALLATION = _table(system_tables.InstallationRow)
TRAFFIC_SOURCE = _table(traffic_tables.TrafficSourceRow)
TRAFFIC_HOUR = _table(traffic_tables.TrafficHourRow)
TRAFFIC_MARK = _table(traffic_tables.TrafficMarkRow)
MEASUREMENT = _table(traffic_tables.MeasurementRow)
ACCOUNT = _table(access_tables.AccountRow)
WEB_SESSION = _table(access_tables.WebSessionRow)
API_TOKEN = _table(access_tables.ApiTokenRow)
ADMISSION = _table(device_tables.AdmissionRow)
KNOCK = _table(device_tables.KnockRow)
SIGN = _table(device_tables.SignRow)
CONVERSATION = _table(device_tables.ConversationRow)
PROBE_RUN = _table(probe_tables.ProbeRunRow)
ALERT = _table(alert_tables.AlertRow)
ALERT_NOTICE = _table(alert_tables.AlertNoticeRow)
MAINTENANCE = _table(alert_tables.MaintenanceRow)
AUDIT_COLLECTOR = _table(audit_tables.AuditCollectorRow)
WIRE_CAPTURE = _table(capture_tables.CaptureRow)
