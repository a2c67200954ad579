"""The node stays the same device."""

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydicom.uid import UID

from dicom_sr.errors import WriteError
from dicom_sr.identity import installation_uid
from node.installation import device_uid


def test_it_is_drawn_once_whatever_the_machine_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = device_uid(tmp_path)
    assert UID(first).is_valid
    monkeypatch.setattr(platform, "node", lambda: "another-container")
    assert device_uid(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == ["installation-uid"]


def test_two_nodes_are_two_devices(tmp_path: Path) -> None:
    spools = [tmp_path / "one", tmp_path / "other"]
    for spool in spools:
        spool.mkdir()
    assert len({device_uid(spool) for spool in spools}) == 2


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(device_uid, [tmp_path] * 64))) == 1


def test_without_a_spool_it_is_the_machine(tmp_path: Path) -> None:
    assert device_uid(tmp_path / "none") == installation_uid()
    assert not (tmp_path / "none").exists()


def test_a_damaged_file_is_told_with_its_cure(tmp_path: Path) -> None:
    (tmp_path / "installation-uid").write_text("garbage")
    with pytest.raises(WriteError, match=r"SPOOL_FAILED.*restore it"):
        device_uid(tmp_path)
