"""Reads messages as the broker is shipped, and takes out of them what a test asks for."""

from zoneinfo import ZoneInfo

from broker.domain.orders import PlaceOrders
from broker.hl7.ack import Header
from broker.hl7.mapping import MappingSet
from broker.hl7.tokenizer import tokenize
from tests.unit.hl7.messages import PID, PV1, hl7, msh, obr, orc

BERLIN = ZoneInfo("Europe/Berlin")
SHIPPED = MappingSet.load(None, site_zone=BERLIN)


def read(text, mappings=SHIPPED):
    message = tokenize(text)
    header = Header.of(message)
    return mappings.for_sender(message.value("MSH-3"), message.value("MSH-4")).read(message, header)


def the_order(text, mappings=SHIPPED):
    mapped = read(text, mappings)
    assert not mapped.refused, [str(problem) for problem in mapped.problems]
    (request,) = mapped.requests
    assert isinstance(request, PlaceOrders)
    (order,) = request.orders
    return order


def the_step(text, mappings=SHIPPED):
    (procedure,) = the_order(text, mappings).procedures
    (step,) = procedure.steps
    return step


def conditions(mapped):
    return [
        (problem.condition, problem.place) for problem in mapped.problems if problem.severity.name == "ERROR"
    ]


OMI = (
    "IPC|A500^HOSP|RP500|1.2.3.500|S1|CT|PC1^Chest prot^L|SCAN1^CT ONE|ROOM1|CT1~CT2",
    "IPC|A500^HOSP|RP500|1.2.3.500|S2|MR|||ROOM2|MR1",
)


def omi(*ipc):
    return hl7(
        msh("OMI^O23^OMI_O23", version="2.5.1"), PID, PV1, orc(timing=""), "TQ1|1||||||20261122083000||S^^^",
        obr(accession="", procedure_id="", step_id="", modality=""), *(ipc or OMI),
    )  # fmt: skip
