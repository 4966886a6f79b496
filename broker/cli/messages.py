"""`broker messages`."""

from __future__ import annotations

from typing import Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    JsonOption,
    LimitOption,
    open_cli,
    show,
    tell,
)
from broker.cli.viewing import listed, opened
from broker.domain.delivery import DeliveryState
from broker.domain.events import Subject
from broker.workflow.audit import Shown
from broker.workflow.message_reports import MessageFilter, MessageRaw
from broker.workflow.messages_port import MessageOutcome

app = typer.Typer(name="messages", help="HL7 messages received and sent.", no_args_is_help=True)


@app.command("list")
def list_(
    *,
    outcome: Annotated[MessageOutcome | None, typer.Option(case_sensitive=False)] = None,
    sender: Annotated[str, typer.Option(help="MSH-3.")] = "",
    kind: Annotated[str, typer.Option("--type", help="Like ORM^O01.")] = "",
    control_id: Annotated[str, typer.Option(help="MSH-10.")] = "",
    before: Annotated[int | None, typer.Option(help="The last message_id of the page before.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List messages, newest first."""
    with open_cli(config, data_dir) as broker:
        wanted = MessageFilter(outcome.value if outcome else "", sender, kind, control_id)
        rows = broker.reports.messages_in(wanted, before=before, limit=limit)
        listed(broker, rows, command="messages list")
    show(
        rows,
        as_json=as_json,
        columns=[
            "message_id",
            "received_at",
            "message_control_id",
            "message_type",
            "outcome",
            "acknowledgement_code",
            "problems",
        ],
    )


@app.command("show")
def show_(
    message_id: Annotated[
        int, typer.Argument(help="Of a message received; with --sent, the delivery of one sent.")
    ],
    *,
    sent: Annotated[bool, typer.Option("--sent", help="One we sent.")] = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Print one message as it came or went, one segment per line, and what was answered."""
    answer: bytes | None = None
    with open_cli(config, data_dir) as broker:
        if sent:
            line, raw = broker.reports.sent_message(message_id)
            answer = (line.reason or "").encode()
            shown = Shown(Subject.DELIVERY, message_id, None, line.order_id)
        else:
            found = broker.reports.message(message_id)
            raw, answer, shown = found.raw, found.answer, _message(found)
        opened(broker, shown, command="messages show")
    tell(raw.decode("utf-8", "backslashreplace").replace("\r", "\n"))
    if answer:
        tell(answer.decode("utf-8", "backslashreplace").replace("\r", "\n"))


@app.command("sent")
def list_sent(
    *,
    state: Annotated[DeliveryState | None, typer.Option(case_sensitive=False)] = None,
    destination: str = "",
    before: Annotated[int | None, typer.Option(help="The last delivery of the page before.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List messages sent, newest first, with how each was answered."""
    with open_cli(config, data_dir) as broker:
        wanted = MessageFilter(state.value if state else "", destination)
        rows = broker.reports.messages_out(wanted, before=before, limit=limit)
        listed(broker, rows, command="messages sent")
    columns = ["delivery", "created_at", "destination", "state", "attempt", "reason", "order_id"]
    show(rows, as_json=as_json, columns=columns)


@app.command("explain")
def explain(
    message_id: int,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say what a message asks for, read with the mapping in force: each value and its source. Changes nothing."""
    from broker.insight import BrokerInsight

    with open_cli(config, data_dir) as broker:
        found = broker.reports.message(message_id)
        opened(broker, _message(found), command="messages explain")
        again = BrokerInsight(broker).read_again(found.raw)
    if not as_json and again.ignored:
        tell(f"{again.ignored} asks for nothing here.")
    for problem in () if as_json else again.problems:
        tell(f"{problem['place']}: {problem['text']}")
    show(again.values, as_json=as_json, columns=["level", "keyword", "value", "source"])


def _message(found: MessageRaw) -> Shown:
    return Shown(Subject.MESSAGE, found.line.message_id, None, found.line.order_id)
