"""Messages of synthetic people, as systems in the field write them."""


def hl7(*segments):
    return "".join(segment + "\r" for segment in segments)


def msh(kind="ORM^O01^ORM_O01", control_id="M1", version="2.3.1", charset="", extra="", at="20261121093000"):
    # MSH-13 to MSH-17 stand between version and character set.
    return f"MSH|^~\\&|RIS|HOSP|BROKER|RAD|{at}||{kind}|{control_id}|P|{version}|||{extra or '|'}||{charset}".rstrip(
        "|"
    )


PID = "PID|1||4711^^^HOSP^MR||ZZTEST^SALLY^Q^JR^DR^PHD||19700203|F"
PV1 = "PV1|1|O|RAD^R1^B2|||||7^REFER^RITA|||||||||||V100"


def orc(control="NW", status="SC", placer="P100^RIS", filler="F100^RIS", timing="1^^^202611211000^^R"):
    return f"ORC|{control}|{placer}|{filler}||{status}||{timing}"


def obr(
    accession="A100",
    procedure_id="RP100",
    step_id="SP100",
    modality="CT",
    service="CTCH^CT CHEST^L",
    placer="P100^RIS",
    filler="F100^RIS",
    timing="",
):
    fields = {1: "1", 2: placer, 3: filler, 4: service, 16: "9^REQUEST^RON", 18: accession, 19: procedure_id}
    fields |= {20: step_id, 24: modality, 27: timing}
    return "OBR|" + "|".join(fields.get(n, "") for n in range(1, 28)).rstrip("|")


ZDS = "ZDS|1.2.826.0.1.3680043.10.1.77^RIS^Application^DICOM"


def orm(*segments, control_id="M1", **changes):
    return hl7(msh(control_id=control_id), PID, PV1, *(segments or (orc(**changes), obr(), ZDS)))
