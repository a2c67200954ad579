"""Shards: what goes in comes out, in the right place; damage and foreign files are told; a killed run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_sets import SHAPE, SPACING, write_release
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from shard_data import NAMES, PLAN, REPORT, hand_made, scan, study
from typer.testing import CliRunner

from config import Reason, load_vocabulary
from ct.anatomy import AnatomyMap
from ct.phantom import ANATOMIES, PhantomPatient, to_volume
from ct.volume import Grid, Volume
from fvlm.config import PreprocessConfig
from fvlm.preprocess import prepare
from fvlm.release import read_release
from training.cli import app
from training.report_text import Mention
from training.report_text.language_model import LanguageModelEngine
from training.shards.body_crop import crop_body
from training.shards.build import Built, _only_writer, build
from training.shards.crops import CropSettings, cut
from training.shards.folder import INDEX, ShardFolder, Skipped, read_index
from training.shards.format import Fit, ShardError, open_shard
from training.shards.plan import ShardPlan
from training.shards.texts import Engine
from training.sources.phantom import phantoms
from training.study import StudyError


def made(folder: Path, *studies, plan: ShardPlan = PLAN, dropped: tuple[Skipped, ...] = ()) -> Built:
    return build(studies, dropped, plan, folder, 1, lambda *_: None)


def test_another_program_reads_a_shard(tmp_path: Path) -> None:
    """Voxels and text by safetensors and JSON alone, as docs/researcher/shards.md says."""
    built = made(tmp_path, study("a"))
    file = tmp_path / built.index.studies[0].file
    tensors, volume = load_file(file), scan()[0]
    assert (tensors["image"].dtype, tensors["labels"].dtype) == (np.int16, np.uint8)
    region = (slice(0, 12), slice(3, 25), slice(2, 31))  # the blocks with margin 1, 2, 2 below and one less above
    assert np.array_equal(tensors["image"], volume.hu[region])
    assert np.array_equal(tensors["labels"], scan()[1].labels[region])
    with safe_open(file, "np") as opened:
        metadata = opened.metadata()
    text = json.loads(metadata["study"])
    assert (metadata["format"], metadata["version"]) == ("fvlm-node-shard", "1")
    assert (text["report"], text["split"], text["scan_shape"]) == (REPORT, "train", [14, 30, 34])
    lung = text["anatomies"][0]
    assert (lung["start"], lung["stop"], lung["voxels"], lung["normal"]) == ([6, 2, 2], [12, 17, 28], 2172, False)
    assert text["labels"]["lung.nodule"] == "present"
    assert np.allclose(np.array(text["affine"]) @ (0, 0, 0, 1), (-38.0, -27.0, 7.0, 1))


@pytest.mark.parametrize("spacing", [(5.0, 0.9, 0.7), (2.0, 1.3, 1.1)])
def test_every_voxel_lies_where_the_affine_says(spacing: tuple[float, float, float]) -> None:
    """A ramp in mm on a turned grid: the HU of a voxel of the shard is its own place."""
    turn = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    grid = Grid.axis_aligned((20, 40, 42), spacing, (-25.0, 8.0, -31.0))
    affine = grid.affine.copy()
    affine[:3] = turn @ affine[:3]
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    place = voxels @ affine[:3, :3].T + affine[:3, 3]
    volume = Volume((10 * place[..., 0] + 7 * place[..., 1] + 3 * place[..., 2]).round().astype(np.int16),
                    replace(grid, affine=affine))  # fmt: skip
    labels = np.zeros(grid.shape, np.uint8)
    labels[6:15, 12:29, 11:30] = 1
    crop = crop_body(volume, AnatomyMap(labels, volume.grid, ("liver",), scan()[1].algorithm), PLAN)
    assert crop is not None
    inner = np.stack(np.meshgrid(*map(np.arange, crop.image.shape), indexing="ij"), -1)
    place = inner @ crop.affine[:3, :3].T + crop.affine[:3, 3]
    expected = 10 * place[..., 0] + 7 * place[..., 1] + 3 * place[..., 2]
    assert np.abs(crop.image - expected).max() <= 1.5  # rounded twice
    assert np.linalg.norm(crop.affine[:3, :3], axis=0) == pytest.approx(PLAN.preprocess.spacing)
    assert set(np.unique(crop.labels)) == {0, 3}


def test_the_middle_crop_is_what_the_reader_shows_the_model(tmp_path: Path) -> None:
    write_release(tmp_path / "tiny")
    release = read_release(tmp_path / "tiny").config
    volume, labels = to_volume(PhantomPatient.draw(3), SPACING, SHAPE)
    anatomy_map = AnatomyMap(labels, volume.grid, ANATOMIES, scan()[1].algorithm)
    prepared = prepare(volume, anatomy_map, release)
    image, shown = prepared.tensors(prepared.windows[0])
    plan = ShardPlan.of_release(release, ())
    made(tmp_path / "shards", *phantoms(1, 3, SPACING, SHAPE).studies, plan=plan)
    folder = ShardFolder.open(tmp_path / "shards")
    shard = folder.shard(folder.index.studies[0])
    settings = CropSettings(release.preprocess.window, release.preprocess.hu_window, augment=False)
    crop = cut(shard, settings, np.random.default_rng(0))
    assert np.abs(crop.image - image[0, 0].numpy()).max() <= 0.51 / 1500
    assert np.array_equal(crop.labels, shown[0].numpy())


def test_text_flags_and_reasons(tmp_path: Path) -> None:
    """Phantoms: what is drawn is known. What is implausible is not usable."""
    listing = phantoms(12, 20, SPACING, SHAPE)
    one = replace(listing.studies[0], known={}, regions={"liver": "A large cyst of the liver."})
    write_release(tmp_path / "tiny")
    plan = ShardPlan.of_release(read_release(tmp_path / "tiny").config, ("liver.cyst",))
    built = made(tmp_path / "shards", one, *listing.studies[1:], plan=plan)
    assert [entry.split for entry in built.index.studies] == ["train"] * 8 + ["valid", "test"] + ["train"] * 2
    folder = ShardFolder.open(tmp_path / "shards")
    records = [folder.shard(entry).record for entry in built.index.studies]
    first = {anatomy.name: anatomy for anatomy in records[0].anatomies}
    assert (first["liver"].findings, first["liver"].normal) == ("A large cyst of the liver.", False)
    assert first["liver"].text.caption().endswith("A large cyst of the liver.")
    for seed, record in enumerate(records[1:], start=21):
        patient = PhantomPatient.draw(seed)
        there = {name for name, mention in record.labels.items() if mention is Mention.PRESENT}
        assert there & set(record.known) == set(patient.keys)
        abnormal = {anatomy.name for anatomy in record.anatomies if not anatomy.normal}
        assert abnormal == {key.split(".")[0] for key in patient.keys}
    assert {anatomy.doubt for record in records for anatomy in record.anatomies} == {None}
    tiny = made(tmp_path / "tiny-organs", study("a")).index.studies[0]
    record = open_shard(tmp_path / "tiny-organs" / tiny.file).record
    assert {anatomy.doubt for anatomy in record.anatomies} == {Reason.ANATOMY_TOO_SMALL}
    assert not any(anatomy.usable for anatomy in record.anatomies)


def test_what_cannot_be_used_is_skipped_with_its_reason(tmp_path: Path) -> None:
    def refuse(_: tuple[str, ...]) -> tuple[Volume, AnatomyMap]:
        raise StudyError(Reason.MASK_UNUSABLE, "no mask")

    def crash(_: tuple[str, ...]) -> tuple[Volume, AnatomyMap]:
        raise RuntimeError("Smith^John")

    def empty(_: tuple[str, ...]) -> tuple[Volume, AnatomyMap]:
        volume, anatomy_map = scan()
        return volume, replace(anatomy_map, labels=np.zeros_like(anatomy_map.labels))

    left = Skipped(source="hand", key="z", reason=Reason.VOLUME_MISSING, text="z.nii.gz: no such file")
    loads = {"mask": refuse, "crash": crash, "empty": empty}
    studies = [replace(study(key), load=load) for key, load in loads.items()]
    built = made(tmp_path, study("good"), study("mute", report=" "), *studies, dropped=(left,))
    assert [entry.key for entry in built.index.studies] == ["good"]
    assert {skipped.key: skipped.reason for skipped in built.index.skipped} == {
        "mask": Reason.MASK_UNUSABLE,
        "crash": Reason.INTERNAL,
        "empty": Reason.ANATOMY_ABSENT,
        "mute": Reason.REPORT_NO_TEXT,
        "z": Reason.VOLUME_MISSING,
    }
    assert "Smith" not in (tmp_path / INDEX).read_text()
    assert (Reason.INTERNAL, 1, "RuntimeError") in built.reasons()
    again = made(tmp_path, study("good"), study("mute"), dropped=(left,))
    assert (again.made, [skipped.key for skipped in again.index.skipped]) == (1, ["crash", "empty", "mask", "z"])


def test_a_run_goes_on_and_makes_again_what_changed_or_broke(tmp_path: Path) -> None:
    first = made(tmp_path, study("a"), study("b"), study("c"))
    assert first.made == 3
    assert made(tmp_path, study("a"), study("b"), study("c")).index == first.index
    broken = tmp_path / first.index.studies[1].file
    broken.write_bytes(broken.read_bytes()[:-100])
    (tmp_path / ".half.1.part").write_bytes(b"half")
    again = made(tmp_path, study("a"), study("b"), study("c", split="test"))
    assert again.made == 2
    assert [entry.split for entry in again.index.studies] == ["train", "train", "test"]
    assert again.index.studies[:2] == first.index.studies[:2]
    assert not list(tmp_path.glob(".*"))
    other = replace(study("a"), source="elsewhere")
    assert [entry.source for entry in made(tmp_path, other).index.studies] == ["elsewhere", "hand", "hand", "hand"]
    with _only_writer(tmp_path), pytest.raises(ShardError, match="another run writes to it"):
        made(tmp_path, other)
    sharper = PLAN.model_copy(update={"preprocess": PreprocessConfig(spacing=(2.0, 1.0, 1.0))})
    with pytest.raises(ShardError, match="other anatomies, preprocessing or vocabulary"):
        made(tmp_path, study("a"), plan=sharper)


class Canned:
    """A generator that says the same of every report, and breaks off for one."""

    identity = "canned"

    def __init__(self) -> None:
        self.asked = 0

    def generate(self, prompts: Sequence[str]) -> list[str]:
        self.asked += len(prompts)
        answer = '{"heart": {"findings": "The heart is normal.", "normal": true}}'
        return ["no" if "Strange" in prompt else answer for prompt in prompts]


def test_text_by_a_language_model_and_back_without_segmenting_again(tmp_path: Path) -> None:
    generator = Canned()
    engine = Engine("language model canned", LanguageModelEngine(generator, load_vocabulary(), tmp_path / "cache"))
    studies = [study("a"), study("b", report=f"{REPORT} Strange.")]
    folder = tmp_path / "shards"
    by_rules = made(folder, *studies).index

    def never(_: tuple[str, ...]) -> tuple[Volume, AnatomyMap]:
        raise AssertionError("the images are there")

    again = [replace(one, load=never) for one in studies]
    built = build(again, (), PLAN, folder, 1, lambda *_: None, engine)
    assert (built.made, built.index.skipped) == (2, ())
    a, b = (ShardFolder(folder, built.index).shard(entry) for entry in built.index.studies)
    assert [(text.findings, text.normal) for text in a.record.anatomies] == [
        ("", True),
        ("The heart is normal.", True),
        ("", True),
    ]
    assert b.record.anatomies[0].findings == "A nodule in the right upper lobe."  # left to the rules
    assert a.record.provenance["text"] == "language model canned"
    asked = generator.asked
    assert build(again, (), PLAN, folder, 1, lambda *_: None, engine).made == 0
    assert generator.asked == asked
    assert made(folder, *again).index == by_rules


def test_a_damaged_shard_is_told(tmp_path: Path) -> None:
    shard = hand_made(tmp_path / "a.safetensors", scan()[1].labels)
    whole = shard.path.read_bytes()
    at_text, at_voxel = whole.index(b"Findings: none."), len(whole) - 5000
    for where in (at_text, at_voxel):
        damaged = bytearray(whole)
        damaged[where] ^= 1
        shard.path.write_bytes(damaged)
        if where == at_text:
            with pytest.raises(ShardError, match="checksum of its text"):
                open_shard(shard.path)
        else:
            with pytest.raises(ShardError, match="its checksum is another"):
                open_shard(shard.path).verify()
    for content in (b"", whole[:7], whole[:300], whole[:-1], whole + b"\0", b"\xff" * 64, b"\2\0\0\0\0\0\0\0[]"):
        shard.path.write_bytes(content)
        with pytest.raises(ShardError, match=r"a\.safetensors: .*run train shards again"):
            open_shard(shard.path)
    shard.path.unlink()
    with pytest.raises(ShardError, match="cannot be opened"):
        open_shard(shard.path)


def test_a_foreign_shard_is_refused(tmp_path: Path) -> None:
    shard = hand_made(tmp_path / "a.safetensors", scan()[1].labels)
    fit = Fit.of(PLAN)
    shard.verify()
    with pytest.raises(ShardError, match="other preprocessing or anatomies"):
        open_shard(shard.path, replace(fit, voxels="0"))
    with pytest.raises(ShardError, match="another vocabulary"):
        open_shard(shard.path, replace(fit, vocabulary="0"))
    weights = tmp_path / "model.safetensors"
    save_file({"temp": np.zeros(1, np.float32)}, weights)
    with pytest.raises(ShardError, match="no shard of fVLM Node"):
        open_shard(weights)
    newer = shard.path.read_bytes().replace(b'"version":"1"', b'"version":"2"')
    shard.path.write_bytes(newer)
    with pytest.raises(ShardError, match="version 2 of the format, this program reads 1"):
        open_shard(shard.path)


def test_the_index_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = made(tmp_path, study("a"), study("b")).index
    folder = ShardFolder.open(tmp_path)
    assert folder.verify(lambda *_: None) == ()
    a, b = (tmp_path / entry.file for entry in index.studies)
    b.write_bytes(a.read_bytes())
    assert [line.endswith("not the shard that the index names; run train shards again")
            for line in folder.verify(lambda *_: None)] == [True]  # fmt: skip
    for content, told in (
        ("{", "no JSON object"),
        ('{"format": "other"}', "not fvlm-node-shards 1"),
        ('{"format": "fvlm-node-shards", "version": 1}', "damaged at"),
    ):
        (tmp_path / INDEX).write_text(content)
        with pytest.raises(ShardError, match=told):
            read_index(tmp_path)
    index.model_copy(update={"complete": False}).write(tmp_path)
    with pytest.raises(ShardError, match="has not ended"):
        ShardFolder.open(tmp_path)
    index.write(tmp_path)
    monkeypatch.setattr("training.shards.format.vocabulary_digest", lambda _: "0")
    with pytest.raises(ShardError, match="another vocabulary"):
        ShardFolder.open(tmp_path)
    with pytest.raises(ShardError, match="cannot be read"):
        ShardFolder.open(tmp_path / "nowhere")


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """kill -9 of the parent in the middle: its workers end, no half shard is read, and the second run has the same."""
    out, straight = tmp_path / "out", tmp_path / "straight"
    command = [sys.executable, "-m", "node", "train", "shards", "--from", "phantom", "--count", "24"]
    first = subprocess.Popen([*command, "--workers", "2", "--out", out], stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(list(out.glob("*.safetensors"))) >= 2)
        workers = descendants(first.pid)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert len(workers) >= 2
    until(lambda: not any(map(alive, workers)))
    there = len(list(out.glob("*.safetensors")))
    assert there < 24, "it was over before it was killed"
    assert not read_index(out).complete
    again = CliRunner().invoke(app, [*command[4:], "--out", str(out)])
    assert f"24 shards in {out} ({24 - there} of them new)" in again.output
    build(phantoms(5).studies, (), read_index(out).plan, straight, 1, lambda *_: None)
    assert read_index(out).studies[:5] == read_index(straight).studies
    assert "24 shards are as they were written" in CliRunner().invoke(app, ["check-shards", str(out)]).output
    damaged = out / read_index(out).studies[0].file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\7")
    checked = CliRunner().invoke(app, ["check-shards", str(out)])
    assert (checked.exit_code, checked.output.count("Problem:")) == (2, 1)


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


def test_users_errors_are_one_line(tmp_path: Path) -> None:
    made(tmp_path / "made", study("a"))
    (tmp_path / "file").write_text("")
    for arguments, told in (
        (["shards", "--from", "merlin", "--out", tmp_path], "--data: name the folder"),
        (["shards", "--from", "merlin", "--data", tmp_path, "--out", tmp_path], "no reports_final.xlsx"),
        (["shards", "--from", "phantom", "--count", "1", "--out", tmp_path / "made"], "choose another"),
        (["shards", "--from", "phantom", "--count", "1", "--out", tmp_path / "file"], "File exists"),
        (["shards", "--from", "phantom", "--preset", "none", "--out", tmp_path], "no preset 'none'"),
        (["shards", "--from", "phantom", "--release", tmp_path, "--out", tmp_path], "not a whole release"),
        (["check-shards", tmp_path], "cannot be read"),
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 2, result.output
        assert told in result.output.replace("\n", ""), result.output
        assert "Traceback" not in result.output
    assert PLAN.anatomies == NAMES
