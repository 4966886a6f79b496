"""What is left of a patient where names are hidden."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.web.masking import MASK, hides, hides_clause, masked_er7, masked_reason

MESSAGE = """MSH|^~\\&|RIS|HOSP|B|H|20261121||ORM^O01|M1|P|2.5
PID|1|X|77^^^HOSP||ZZNAME^ANN&VAN^\\T\\~ZZOTHER^B||18970409|F||""|ZZSTREET 1^^ZZTOWN
NK1|1|ZZMOTHER^MARY|MTH
GT1|1||ZZPAYER^JOHN
IN1|1|ZZPLAN
NTE|1||ZZNAME is afraid of tubes
ORC|NW|P1|F1|||||20261121
OBR|1|P1|F1|CT^CHEST|||||||||ZZNAME fell
OBX|1|TX|note||ZZNAME
ZXX|ZZSECRET
garbage ZZNAME"""


def test_a_message_keeps_its_form_and_its_ids_and_loses_its_names():
    masked = masked_er7(MESSAGE).split("\n")
    assert "ZZ" not in masked_er7(MESSAGE)
    assert masked[0] == MESSAGE.split("\n", maxsplit=1)[0]
    assert masked[1].startswith("PID|1|X|77^^^HOSP||•••^•••&•••^")
    assert masked[1].endswith('||•••|F||""|•••^^•••')
    assert masked[2:5] == ["NK1|1|•••^•••|•••", "GT1|1||•••^•••", "IN1|1|•••"]
    assert masked[6] == "ORC|NW|P1|F1|||||20261121"
    assert masked[7] == "OBR|1|P1|F1|CT^CHEST|||||||||•••"
    assert masked[9:] == ["ZXX|•••", MASK]


@pytest.mark.parametrize("text", ["ZZNAME", "PID|1||7||ZZNAME^ANN", "MSH", "GET / ZZ"])
def test_what_is_no_message_is_masked_whole(text):
    assert "ZZ" not in masked_er7(text)
    assert masked_er7("") == ""


@given(st.text(alphabet="|^~\\&\nMSHPIDZN1X", max_size=200), st.characters(exclude_categories=["Cs"]))
def test_no_name_is_left_whatever_the_separators(rest, separator):
    name = "qqvanessaqq"
    for text in (f"MSH{separator}^~\\&|{rest}\nPID|1||7||{name}", f"MSH|^~\\&|\n{rest}\nNK1|1|{name}|{rest}"):
        masked = masked_er7(text)
        assert name not in masked or separator in name


@pytest.mark.parametrize(
    ("keyword", "hidden"),
    [
        ("PatientName", True),
        ("PatientBirthDate", True),
        ("PatientAddress", True),
        ("OtherPatientNames", True),
        ("PatientComments", True),
        ("RequestedProcedureComments", True),
        ("PatientID", False),
        ("PatientSex", False),
        ("AccessionNumber", False),
        ("Modality", False),
        ("StudyInstanceUID", False),
        ("ScheduledProcedureStepDescription", False),
    ],
)
def test_attributes_that_name_somebody_are_hidden(keyword, hidden):
    assert hides(keyword) is hidden
    assert hides_clause(f"{keyword} is one of A, B") is hidden


def test_a_reason_loses_the_words_of_the_peer():
    assert masked_reason("the receiver answered AE: ZZNAME is unknown") == "the receiver answered AE: •••"
    assert masked_reason("no answer") == "no answer"
    assert masked_reason(None) == ""
