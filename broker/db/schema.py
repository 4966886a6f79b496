"""The tables as Core statements use them, by the glossary's words."""

from __future__ import annotations

from sqlalchemy import MetaData, Table

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
_MODULES = (
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
"""Importing each has put its tables into METADATA."""


def _table(name: str) -> Table:
    return METADATA.tables[name]


PATIENT = _table("patient")
PATIENT_ALIAS = _table("patient_alias")
ORDER = _table("imaging_order")
PROCEDURE = _table("requested_procedure")
STEP = _table("scheduled_procedure_step")
STEP_STATION = _table("step_station")
PERFORMED = _table("performed_procedure_step")
PERFORMED_LINK = _table("performed_step_link")
PERFORMED_STUDY = _table("performed_study")
MESSAGE = _table("hl7_message")
INSTANCE = _table("instance")
DECISION = _table("route_decision")
CONFIGURATION = _table("configuration")
CONFIGURATION_CHANGE = _table("configuration_change")
DELIVERY = _table("delivery")
DELIVERY_ITEM = _table("delivery_item")
DESTINATION = _table("destination_state")
EVENT = _table("event")
HEARTBEAT = _table("heartbeat")
SEAL_HEAD = _table("seal_head")
STUDY = _table("received_study")
BULK_OPERATION = _table("bulk_operation")
IDEMPOTENCY_KEY = _table("idempotency_key")
INSTALLATION = _table("installation")
TRAFFIC_SOURCE = _table("traffic_source")
TRAFFIC_HOUR = _table("traffic_hour")
TRAFFIC_MARK = _table("traffic_mark")
MEASUREMENT = _table("measurement")
ACCOUNT = _table("account")
WEB_SESSION = _table("web_session")
API_TOKEN = _table("api_token")
ADMISSION = _table("device_admission")
KNOCK = _table("device_knock")
SIGN = _table("device_sign")
CONVERSATION = _table("device_conversation")
PROBE_RUN = _table("probe_run")
ALERT = _table("alert")
ALERT_NOTICE = _table("alert_notice")
MAINTENANCE = _table("maintenance_window")
AUDIT_COLLECTOR = _table("audit_collector")
WIRE_CAPTURE = _table("wire_capture")
