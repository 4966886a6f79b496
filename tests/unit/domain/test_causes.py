"""The words our destinations use lead to the cause a person acts on."""

import pytest

from broker.dicom.network import status
from broker.domain.causes import BY_NAME, CAUSES, OTHER, cause_named, cause_of
from broker.workflow.placement import HELD_FOR_IDENTITY

SAID = {
    HELD_FOR_IDENTITY: "identity",
    "May have happened, please check there: the worker is gone.": "unknown result",
    "the film may have been printed, look at the printer (timed out)": "unknown result",
    "The destination is not in the configuration.": "not configured",
    "the peer does not know the called AE title (rejected 1/1/7)": "called AE title",
    "the peer does not know our calling AE title (rejected 1/1/3)": "calling AE title",
    "the peer is congested (rejected 2/3/1)": "association limit",
    "the peer rejected the association without a reason (rejected 1/1/1)": "association rejected",
    "the TLS handshake was refused (tls: certificate verify failed)": "certificate",
    "TLS: certificate verify failed": "certificate",
    "the peer cannot be reached (connect: Connection refused)": "unreachable",
    "pacs:104: Connection refused": "unreachable",
    "the peer did not answer in time (timed out in response)": "timeout",
    "The destination did not answer.": "timeout",
    "the connection was lost (lost in response)": "connection lost",
    "3 not taken: the data set does not match its SOP class (A900)": "object refused",
    "2 of 5 refused": "object refused",
    "1 not taken: no_context: the peer does not support the transfer syntax": "transfer syntax",
    "the peer is out of resources (A700)": "destination full",
    "processing failure (0110)": "processing failure",
    "the folder cannot be written just now: No space left on device": "disk",
    "less than 512 MiB free in the folder": "disk",
    "1 not copied: the stored file cannot be read (No such file)": "our file",
    "the printer reports SUPPLY EMPTY": "printer",
    "it would take more than 20 films (option max_films)": "printer",
    "AE: patient unknown": "message refused",
    "AR": "message refused",
    "Internal error: ValueError": "internal",
    "The worker is gone; what was confirmed is kept.": "worker lost",
    "something a plug-in of somebody else says": "other",
    "": "other",
}


@pytest.mark.parametrize(("reason", "cause"), SAID.items())
def test_a_reason_has_its_cause(reason, cause):
    assert cause_of(reason).name == cause


VERDICTS = [
    *status.REJECTIONS.values(),
    *status.ABORTS.values(),
    *status.CONTEXT_RESULTS.values(),
    status.UNREACHABLE,
    status.TLS_REFUSED,
    status.LOST,
    status.SILENT,
    *(row.verdict for row in status.BY_SERVICE[status.ServiceKind.STORAGE] if row.verdict),
]


@pytest.mark.parametrize("verdict", VERDICTS, ids=lambda verdict: verdict.reason)
def test_whatever_a_peer_answers_to_a_store_has_a_cause_and_advice(verdict):
    assert cause_of(f"{verdict.reason} (1/2/3)") is not OTHER


def test_every_cause_can_be_stored_named_and_says_what_to_do():
    assert len(BY_NAME) == len(CAUSES)
    for cause in CAUSES:
        assert len(cause.name) <= 32
        assert cause.advice.endswith(".")
        assert cause_named(cause.name) is cause
    assert cause_named(None) is cause_named("of a later version") is OTHER


def test_a_reason_of_any_length_is_judged_by_its_beginning():
    assert cause_of("x" * 100_000 + "Internal error") is OTHER
