"""A decoder that dies, hangs or is fed nonsense costs one picture, never the process."""

from __future__ import annotations

import errno
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.isolation import IsolatedDecoder
from broker.dicom.objects.pixels import StoredImage
from tests.parcels import an_image, save


@pytest.fixture
def path(tmp_path):
    ds = an_image(rows=64, columns=64)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    return save(ds, tmp_path / "image.dcm")


@pytest.fixture
def isolated():
    decoder = IsolatedDecoder()
    yield decoder
    decoder.close()


def ask(decoder, path):
    head, body = decoder.ask({"do": "frame", "path": str(path), "index": 0})
    return np.frombuffer(body, head["dtype"]).reshape(head["shape"])


def test_a_frame_comes_back_as_it_was(isolated, path):
    expected = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 4096
    assert np.array_equal(ask(isolated, path), expected)


def test_a_decoder_that_was_killed_is_replaced(isolated, path):
    ask(isolated, path)
    first = isolated._process.pid
    os.kill(first, signal.SIGKILL)
    isolated._process.wait()
    assert ask(isolated, path).shape == (64, 64)
    assert isolated._process.pid != first


def test_a_decoder_that_hangs_is_killed(path):
    decoder = IsolatedDecoder()
    ask(decoder, path)  # starting it may take longer than hanging is allowed to
    decoder._max_seconds = 1.0
    pid = decoder._process.pid
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(Unrenderable, match="too long"):
        ask(decoder, path)
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    decoder.close()


@pytest.mark.parametrize(
    "request_",
    [{"do": "nonsense", "path": "/"}, {"path": "/"}, {"do": "frame", "path": "/no/such", "index": 0}],
)
def test_a_request_that_makes_no_sense_is_a_typed_error_and_the_decoder_lives(isolated, path, request_):
    with pytest.raises(Unrenderable):
        isolated.ask(request_)
    pid = isolated._process.pid
    assert ask(isolated, path).shape == (64, 64)
    assert isolated._process.pid == pid


def test_a_disk_that_fails_says_nothing_about_the_pixels(isolated, path):
    with pytest.raises(OSError) as failure:
        ask(isolated, "/proc/self/mem")  # reading its first page is an input/output error
    assert failure.value.errno == errno.EIO
    assert ask(isolated, path).shape == (64, 64)


def test_no_handle_for_a_decoder_says_nothing_about_the_pixels(isolated, path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("broker.dicom.objects.isolation.subprocess.Popen", refuse)
        with pytest.raises(OSError) as failure:
            ask(isolated, path)
    assert failure.value.errno == errno.EMFILE
    assert ask(isolated, path).shape == (64, 64)


def test_threads_take_turns(isolated, path):
    with ThreadPoolExecutor(4) as pool:
        frames = list(pool.map(lambda _: ask(isolated, path), range(12)))
    assert all(np.array_equal(frame, frames[0]) for frame in frames)


def test_a_frame_on_which_a_decoder_aborts_is_a_typed_error(path):
    """Damage of this kind makes a C++ decoder call abort(); here it ends the child alone."""
    whole = path.read_bytes()
    start = whole.index(b"\xff\xd8\xff\xf7")
    refused = 0
    for at in range(start + 20, start + 120, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with StoredImage(path) as image:
            try:
                image.frame(0)
            except Unrenderable:
                refused += 1
    assert refused > 0
