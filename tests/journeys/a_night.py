"""What a night leaves behind, put into a broker's database: five weeks of a RIS that has stopped, deliveries that died."""

from datetime import timedelta

from sqlalchemy import insert, select, update

from broker.db.schema import DELIVERY, EVENT, MESSAGE, TRAFFIC_HOUR, TRAFFIC_MARK, TRAFFIC_SOURCE
from broker.domain.causes import cause_of
from broker.domain.delivery import DeliveryState
from broker.domain.events import EventName, Subject

REFUSED = "The connection was refused: 127.0.0.1 cannot be reached."
HOUR = timedelta(hours=1)


def a_ris_that_stopped(engine, *, now, silent_for):
    """A sender of orders that talked every four minutes for five weeks, day and night, and then no more."""
    last, weeks = now - silent_for, timedelta(weeks=5)
    with engine.begin() as connection:
        key = connection.execute(
            insert(TRAFFIC_SOURCE).values(
                kind="sender",
                name="RIS",
                facility="HOSP",
                peer="10.0.0.5",
                first_at=now - weeks,
                last_at=last,
                last_what="message",
                rhythm=[[15.0, 15.0]] * 168,
                learnt_until=now,
            )
        ).inserted_primary_key[0]
        first = (now - weeks).replace(minute=0, second=0, microsecond=0)
        hours = [first + HOUR * number for number in range(1, int((last - first) / HOUR))]
        connection.execute(
            insert(TRAFFIC_HOUR),
            [{"source": key, "hour": hour, "items": 15, "minutes": 15, "bytes": 0} for hour in hours],
        )
        connection.execute(insert(TRAFFIC_MARK).values(kind="sender", counted_until=now))
        connection.execute(
            insert(MESSAGE),
            [a_message(number, last - timedelta(minutes=4) * number) for number in range(20)],
        )


def a_message(number, at):
    return {
        "received_at": at,
        "peer": "10.0.0.5:50001",
        "sending_application": "RIS",
        "sending_facility": "HOSP",
        "message_control_id": f"NIGHT{number}",
        "message_type": "ADT^A08",
        "content_sha256": number.to_bytes(32),
        "raw": b"MSH|^~\\&|RIS|HOSP|BROKER|HOSP|20261121||ADT^A08|NIGHT|P|2.3.1\r",
        "outcome": "ignored",
        "acknowledgement_code": "AA",
        "answer": b"MSA|AA|NIGHT\r",
        "problems": [],
        "order": None,
        "attempts": 1,
    }


def let_die(engine, *, now, destination):
    """Let what waits for a destination be dead since three in the night; answer how many are dead there."""
    waits = [state.value for state in (DeliveryState.PENDING, DeliveryState.COLLECTING)]
    table, died = DELIVERY.c, now - timedelta(hours=3)
    with engine.begin() as connection:
        found = connection.execute(
            update(DELIVERY)
            .where(table.destination == destination, table.state.in_(waits))
            .values(
                state=DeliveryState.DEAD.value,
                reason=REFUSED,
                cause=cause_of(REFUSED).name,
                failure_class="transient",
                attempt=table.attempt + 9,
                failures=9,
                lease_until=None,
                worker=None,
                created_at=died - timedelta(hours=4),
                updated_at=died,
            )
            .returning(table.id, table.study_instance_uid)
        ).all()
        if found:
            connection.execute(insert(EVENT), [_death(row, died, destination) for row in found])
        dead = select(table.id).where(
            table.destination == destination, table.state == DeliveryState.DEAD.value
        )
        return len(connection.execute(dead).all())


def _death(row, at, destination):
    return {
        "at": at,
        "name": EventName.DELIVERY_DIED.value,
        "subject": Subject.DELIVERY.value,
        "subject_id": row.id,
        "study_instance_uid": row.study_instance_uid,
        "order": None,
        "actor": "broker",
        "details": {"destination": destination, "attempt": 9, "reason": REFUSED},
        "seal_no": None,
        "seal": None,
    }
