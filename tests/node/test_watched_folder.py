"""A watched folder: whole files are taken once and moved, half ones waited for, others put aside with a reason."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from spool_data import Bench, ct_slice, write_file

from config.inlet_settings import WatchedFolder
from node.spool import scan, segments
from node.watched_folder import FolderWatch

NEVER = threading.Event()


class Clock:
    """Ten seconds pass with each look."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "node")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


def watch(bench: Bench, folder: Path) -> FolderWatch:
    return FolderWatch("drop", WatchedFolder(path=folder, settle_s=5.0), bench.settings, Clock())


def spooled(bench: Bench) -> list[str]:
    return [r.origin.sop_instance_uid for path in segments(bench.settings.spool_dir) for r in scan(path)]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_whole_files_are_taken_once_and_moved(bench: Bench, folder: Path) -> None:
    (folder / "study" / "series").mkdir(parents=True)
    write_file(ct_slice(number=1), folder / "study" / "series" / "a.dcm")
    write_file(ct_slice(number=2), folder / "b")
    watched = watch(bench, folder)
    assert watched.once(NEVER) == 0  # they have just been seen
    assert watched.once(NEVER) == 2
    assert files_of(folder) == {"done/study/series/a.dcm", "done/b"}
    write_file(ct_slice(number=3), folder / "b")
    assert watched.once(NEVER) + watched.once(NEVER) == 1
    assert files_of(folder) == {"done/study/series/a.dcm", "done/b", "done/b.1"}
    assert watched.once(NEVER) + watched.once(NEVER) == 0
    assert len(spooled(bench)) == 3
    assert bench.indexer.catch_up().instances == 3
    (path, *_) = segments(bench.settings.spool_dir)
    assert next(iter(scan(path))).origin.calling_ae == "FOLDER"


def test_a_file_that_is_being_written_is_waited_for(bench: Bench, folder: Path, tmp_path: Path) -> None:
    whole = write_file(ct_slice(), tmp_path / "whole").read_bytes()
    watched = watch(bench, folder)
    growing = folder / "growing.dcm"
    for end in (100, 1000, len(whole) - 10):
        growing.write_bytes(whole[:end])
        assert watched.once(NEVER) == 0
    with growing.open("ab") as writer:  # unchanged for long, but held open
        assert watched.once(NEVER) == 0
        assert watched.once(NEVER) == 0
        writer.write(whole[-10:])
    assert watched.once(NEVER) == 0
    for name in ("half.part", ".hidden.dcm", "x.tmp"):
        shutil.copy(growing, folder / name)
    assert watched.once(NEVER) == 1
    assert watched.once(NEVER) == 0
    (folder / "half.part").rename(folder / "renamed.dcm")
    assert watched.once(NEVER) + watched.once(NEVER) == 1
    assert files_of(folder) == {"done/growing.dcm", "done/renamed.dcm", ".hidden.dcm", "x.tmp"}


def test_what_is_no_image_is_put_aside_with_its_reason(bench: Bench, folder: Path, tmp_path: Path) -> None:
    (folder / "letter.txt").write_text("Dear colleague")
    (folder / "empty.dcm").touch()
    cut = write_file(ct_slice(), tmp_path / "whole").read_bytes()
    (folder / "cut.dcm").write_bytes(cut[:500])
    (tmp_path / "outside.dcm").write_bytes(cut)
    (folder / "link.dcm").symlink_to(tmp_path / "outside.dcm")
    os.mkfifo(folder / "pipe.dcm")
    watched = watch(bench, folder)
    watched.once(NEVER)
    assert watched.once(NEVER) == 0
    rejected = {name for name in files_of(folder) if name.startswith("rejected/")}
    assert rejected == {
        f"rejected/{name}{more}" for name in ("letter.txt", "empty.dcm", "cut.dcm") for more in ("", ".reason.txt")
    }
    assert (folder / "rejected" / "letter.txt.reason.txt").read_text().startswith("NOT_DICOM")
    assert (folder / "rejected" / "cut.dcm.reason.txt").read_text().startswith("TRUNCATED")
    assert (tmp_path / "outside.dcm").exists()
    assert spooled(bench) == []


def test_after_a_crash_before_the_move_the_file_is_the_same_for_the_index(bench: Bench, folder: Path) -> None:
    file = write_file(ct_slice(), folder / "a.dcm")
    watched = watch(bench, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderWatch, "_move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        watched.once(NEVER)
        with pytest.raises(KeyboardInterrupt):
            watched.once(NEVER)
    assert file.exists()
    again = watch(bench, folder)
    assert again.once(NEVER) + again.once(NEVER) == 1
    assert not file.exists()
    indexed = bench.indexer.catch_up()
    assert (indexed.instances, indexed.known) == (1, 1)


def test_a_full_spool_or_a_folder_that_is_away_loses_nothing(bench: Bench, folder: Path) -> None:
    write_file(ct_slice(), folder / "a.dcm")
    full = bench.settings.dicom.model_copy(update={"min_free_mb": 2**30})
    room, bench.settings = bench.settings, bench.settings.model_copy(update={"dicom": full})
    watched = watch(bench, folder)
    watched.once(NEVER)
    with pytest.raises(OSError, match="low-water"):
        watched.once(NEVER)
    assert files_of(folder) == {"a.dcm"}
    bench.settings = room
    watched = watch(bench, folder)
    aside = folder.rename(folder.with_name("aside"))
    with pytest.raises(FileNotFoundError):
        watched.once(NEVER)
    aside.rename(folder)
    assert watched.once(NEVER) + watched.once(NEVER) == 1


def test_a_file_that_cannot_be_moved_is_told_once_and_left(bench: Bench, folder: Path) -> None:
    write_file(ct_slice(), folder / "a.dcm")
    (folder / "done").write_text("somebody's file where our folder should be")
    watched = watch(bench, folder)
    for _ in range(4):
        watched.once(NEVER)
    assert len(spooled(bench)) == 1
    assert "a.dcm" in files_of(folder)
