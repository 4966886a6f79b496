"""Images as a scanner sends them, and what the broker says of their study."""

from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from tests.peers import run


def an_image(folder, source="CT_small.dcm", **attributes):
    """A real image with identifiers of the test's own."""
    ds = dcmread(get_testdata_file(source))
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = attributes.pop("StudyInstanceUID", generate_uid())
    ds.SeriesInstanceUID = attributes.pop("SeriesInstanceUID", generate_uid())
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path, enforce_file_format=True)
    return path, ds


def push(broker, *paths, calling="CT1"):
    run("storescu", "-aet", calling, "-aec", "BROKER", "127.0.0.1", broker.dicom, *paths)


def study(broker, uid):
    return next((row for row in broker.search("studies", uid)), None)
