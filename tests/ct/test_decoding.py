"""Decoders that crash, loop, sleep or take all memory: the series is refused with a reason, the process goes on."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless, RLELossless
from tiny_series import SLICES, write_series

from config import Reason
from ct import Unfit, Volume, decoding, load_volume, scan_folder, vet

HOSTILE = str(Path(__file__).with_name("hostile_decoder.py"))


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def choose(*what: str) -> None:
        monkeypatch.setattr(decoding, "COMMAND", (sys.executable, HOSTILE, *what))
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))

    return choose


def load(folder: Path) -> Volume:
    return load_volume(vet(scan_folder(folder).series[0]))


def refusal(folder: Path) -> Unfit:
    with pytest.raises(Unfit) as caught:
        load(folder)
    return caught.value


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


CASES = {
    "crash": (Reason.UNDECODABLE, "crashed (SIGSEGV)"),
    "allocate": (Reason.UNDECODABLE, "Unable to allocate"),
    "loop": (Reason.UNDECODABLE, "processor time"),
    "exit": (Reason.UNDECODABLE, "status 3"),
    "write": (Reason.UNDECODABLE, "File too large"),
    "other_size": (Reason.UNDECODABLE, "another size"),
    "killed": (Reason.INTERNAL, "SIGKILL"),
}


@pytest.mark.parametrize("what", CASES)
def test_a_hostile_decoder_costs_one_series(tmp_path: Path, hostile: Callable[..., None], what: str) -> None:
    folder = write_series(tmp_path / "series", syntax=RLELossless)
    target = tmp_path / "written"
    hostile(what, str(target))
    before, started = children(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    unfit = refusal(folder)
    reason, text = CASES[what]
    assert (unfit.reason, text in unfit.detail) == (reason, True), unfit
    assert children() == before, "the decoding process is left behind"
    assert not target.exists() or target.stat().st_size == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - started < 800_000  # KiB


@pytest.mark.parametrize("what", ["sleep", "silent"])
def test_a_decoder_that_never_answers(
    tmp_path: Path, hostile: Callable[..., None], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_series(tmp_path, syntax=RLELossless)
    hostile(what)
    monkeypatch.setattr(decoding, "SILENCE_S", 5.0)
    before = children()
    assert refusal(folder).reason is Reason.UNDECODABLE
    assert children() == before


def test_a_real_decoder_that_loops_on_a_cut_image(tmp_path: Path, hostile: Callable[..., None]) -> None:
    """pyjpegls, which the node does not use for this very reason: its C++ code does not come back."""
    folder = write_series(tmp_path, syntax=JPEGLSLossless)
    for path in folder.iterdir():
        data = dcmread(path)
        code = get_frame(data.PixelData, 0, number_of_frames=1)
        data.PixelData = encapsulate([code[: len(code) // 2]])
        data.save_as(path)
    hostile("pyjpegls")
    unfit = refusal(folder)
    assert unfit.reason is Reason.UNDECODABLE
    assert "processor time" in unfit.detail


def test_the_process_loads_the_next_series_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_series(tmp_path, syntax=RLELossless)
    with monkeypatch.context() as bad:
        bad.setattr(decoding, "COMMAND", (sys.executable, HOSTILE, "crash"))
        bad.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        refusal(folder)
    assert load(folder).hu.shape[0] == SLICES


@pytest.mark.parametrize(
    ("command", "text"),
    [(("/nonexistent/python",), "can be started"), ((sys.executable, "-c", "raise SystemExit(1)"), "status 1")],
)
def test_a_decoder_that_does_not_start_is_no_fault_of_the_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr(decoding, "COMMAND", command)
    unfit = refusal(write_series(tmp_path, syntax=RLELossless))
    assert unfit.reason is Reason.INTERNAL
    assert text in unfit.detail


def test_one_process_a_series_and_none_without_compression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by a wrapper that notes each start; a native slice among compressed ones stays in its place."""
    log = tmp_path / "starts"
    wrapper = (
        f"import os, sys; open({str(log)!r}, 'a').write('x'); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    monkeypatch.setattr(decoding, "COMMAND", (sys.executable, "-c", wrapper, *decoding.COMMAND[1:]))
    native = load(write_series(tmp_path / "native"))
    assert not log.exists()
    compressed = write_series(tmp_path / "mixed", syntax=RLELossless)
    for name in sorted(path.name for path in compressed.iterdir())[3:9]:
        (tmp_path / "native" / name).rename(compressed / name)
    mixed = load(compressed)
    assert log.read_text() == "x"
    assert np.array_equal(mixed.hu, native.hu)


def test_a_loader_that_is_stopped_ends_its_process(tmp_path: Path) -> None:
    vetted = vet(scan_folder(write_series(tmp_path, syntax=RLELossless)).series[0])
    before = children()

    def stop(done: int, _: int) -> None:
        if done == 3:
            assert children() - before
            raise InterruptedError

    with pytest.raises(InterruptedError):
        load_volume(vetted, stop)
    assert children() == before


def test_ctrl_c_at_the_terminal_does_not_reach_the_decoder(tmp_path: Path) -> None:
    """It would make the series UNDECODABLE for good."""
    vetted = vet(scan_folder(write_series(tmp_path, syntax=RLELossless)).series[0])
    before = children()

    def look(done: int, _: int) -> None:
        if done == 1:
            (child,) = children() - before
            assert os.getsid(int(child)) != os.getsid(0)

    load_volume(vetted, look)


def test_an_encapsulated_image_in_a_native_syntax(tmp_path: Path) -> None:
    folder = write_series(tmp_path, syntax=RLELossless)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", ExplicitVRLittleEndian.encode() + b"\0"))
    unfit = refusal(folder)
    assert unfit.reason is Reason.UNDECODABLE
    assert "encapsulated" in unfit.detail


def test_signals_of_an_operator_are_not_the_image(tmp_path: Path) -> None:
    """systemd ends all processes of a unit: the job is tried again after the restart."""
    folder = write_series(tmp_path, slices=90, syntax=JPEGLSLossless)  # more than a pipe holds
    vetted = vet(scan_folder(folder).series[0])
    before = children()

    def end(done: int, _: int) -> None:
        if done == 1:
            (child,) = children() - before
            os.kill(int(child), signal.SIGSTOP)
            while Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
                time.sleep(0.01)
            os.kill(int(child), signal.SIGTERM)
            os.kill(int(child), signal.SIGCONT)

    with pytest.raises(Unfit) as caught:
        load_volume(vetted, end)
    assert caught.value.reason is Reason.INTERNAL
