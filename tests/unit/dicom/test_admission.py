"""Who is let in, also while the name service is away, and what is said about those who are not."""

import ipaddress

import pytest
from structlog.testing import capture_logs

from broker.dicom.admission import AdmittedDevice, DevicePolicy, HostNames, UnknownDevices
from broker.dicom.association_log import AssociationLog
from broker.dicom.network.pdu import CALLED_AE_TITLE_NOT_RECOGNIZED, CALLING_AE_TITLE_NOT_RECOGNIZED
from broker.dicom.network.service import Knock
from broker.workflow.once_a_minute import REPEAT_AFTER_S


class NameService:
    """Knows a name, or is away."""

    def __init__(self):
        self.addresses = {}
        self.asked = 0
        self.now = 1000.0

    def look_up(self, name):
        self.asked += 1
        if name not in self.addresses:
            raise OSError("no answer")
        return (ipaddress.ip_network(self.addresses[name]),)

    def policy(self, *devices):
        names = HostNames(self.look_up, lambda: self.now)
        return DevicePolicy("BROKER", devices, UnknownDevices.NEVER, names)


def admits(policy, title, address):
    return policy.admit(title, "BROKER", address, None) is None


def test_a_name_that_is_not_found_keeps_out_its_device_and_no_other():
    service = NameService()
    policy = service.policy(
        AdmittedDevice("CT1", host_name="ct1"),
        AdmittedDevice("MR1", (ipaddress.ip_network("10.0.0.2"),)),
        AdmittedDevice("CR1"),
    )
    with capture_logs() as lines:
        assert not admits(policy, "CT1", "10.0.0.1")
        assert admits(policy, "MR1", "10.0.0.2")
        assert admits(policy, "CR1", "10.0.0.3")
    assert [line["host"] for line in lines if line["event"] == "host name not found"] == ["ct1"]


def test_a_device_is_let_in_once_the_name_service_is_back_and_stays_when_it_goes_again():
    service = NameService()
    policy = service.policy(AdmittedDevice("CT1", host_name="ct1"))
    assert not admits(policy, "CT1", "10.0.0.1")
    service.addresses["ct1"] = "10.0.0.1"
    assert not admits(policy, "CT1", "10.0.0.1")
    assert service.asked == 1, "a peer cannot make us ask as often as it likes"
    service.now += 31
    assert admits(policy, "CT1", "10.0.0.1")
    assert policy.listed("10.0.0.1")
    del service.addresses["ct1"]
    service.now += 31
    assert not admits(policy, "CT1", "10.0.0.66")
    assert admits(policy, "CT1", "10.0.0.1")


def test_a_device_that_moved_is_found_at_its_new_address():
    service = NameService()
    policy = service.policy(AdmittedDevice("CT1", host_name="ct1"))
    service.addresses["ct1"] = "10.0.0.1"
    assert admits(policy, "CT1", "10.0.0.1")
    service.addresses["ct1"] = "10.0.0.9"
    service.now += 31
    assert admits(policy, "CT1", "10.0.0.9")
    assert not admits(policy, "CT1", "10.0.0.1")


def knock(rejection, title="CT1"):
    return Knock("10.0.0.1", title, "WRONG", None, rejection, "the association was rejected")


def test_a_refusal_names_the_caller_and_the_reason_once_a_minute():
    now = [0.0]
    told = AssociationLog(lambda: now[0])
    with capture_logs() as lines:
        for _ in range(3):
            told.refused(knock(CALLED_AE_TITLE_NOT_RECOGNIZED))
        told.refused(knock(CALLING_AE_TITLE_NOT_RECOGNIZED))
        now[0] += REPEAT_AFTER_S
        told.refused(knock(CALLED_AE_TITLE_NOT_RECOGNIZED))
    lines = [line for line in lines if line["event"] == "association refused"]
    assert [(line["calling_ae_title"], line["repeated"]) for line in lines] == [
        ("CT1", 0),
        ("CT1", 0),
        ("CT1", 2),
    ]
    assert (
        lines[0]["reason"]
        != lines[1]["reason"]
        == ("its AE title is not among our devices, or not at this address")
    )


def test_a_peer_that_changes_its_title_fills_no_memory():
    told = AssociationLog(lambda: 0.0)
    with capture_logs() as lines:
        for number in range(2500):
            told.refused(knock(CALLED_AE_TITLE_NOT_RECOGNIZED, f"T{number}"))
    assert len([line for line in lines if line["event"] == "association refused"]) == 2500
    assert len(told._once) <= 1000


@pytest.mark.parametrize(
    ("unknown", "calling", "called", "address", "answer"),
    [
        ("never", "CT1", "BROKER", "10.0.0.1", None),
        ("never", "CT1", "BROKER", "10.0.0.9", CALLING_AE_TITLE_NOT_RECOGNIZED),
        ("never", "STRANGER", "BROKER", "127.0.0.1", CALLING_AE_TITLE_NOT_RECOGNIZED),
        ("loopback", "STRANGER", "BROKER", "127.0.0.1", None),
        ("loopback", "STRANGER", "BROKER", "::1", None),
        ("loopback", "STRANGER", "BROKER", "10.0.0.9", CALLING_AE_TITLE_NOT_RECOGNIZED),
        ("always", "STRANGER", "BROKER", "10.0.0.9", None),
        ("always", "CT1", "OTHER", "10.0.0.1", CALLED_AE_TITLE_NOT_RECOGNIZED),
        ("always", "CT1", "broker", "10.0.0.1", CALLED_AE_TITLE_NOT_RECOGNIZED),
    ],
)
def test_titles_and_addresses_decide(unknown, calling, called, address, answer):
    device = AdmittedDevice("CT1", (ipaddress.ip_network("10.0.0.1"),))
    policy = DevicePolicy("BROKER", (device,), UnknownDevices(unknown))
    assert policy.admit(calling, called, address, None) == answer
