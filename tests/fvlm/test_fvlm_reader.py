"""From a scan to a Reading: guards first, then probabilities, verdicts, order."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from config import Reason
from ct.anatomy import AnatomyMap, AnatomyMeasure
from ct.measure import measure
from ct.volume import Volume
from fvlm import FVLM, Reader, ReleaseError, load_release
from fvlm.config import Calibration, FindingConfig, ReleaseConfig
from fvlm.preprocess import prepare
from fvlm.reader import judge
from fvlm.reading import Verdict

Scan = Callable[..., tuple[Volume, AnatomyMap]]
ORGANS = {
    "lung": (slice(4, 12), slice(10, 34), slice(8, 20)),
    "heart": (slice(6, 10), slice(40, 52), slice(30, 54)),
    "aorta": (slice(12, 16), slice(36, 44), slice(30, 36)),
}


@pytest.fixture
def reader(release_folder: Path) -> Reader:
    return Reader(load_release(release_folder))


def doubted(anatomy_map: AnatomyMap, name: str, **changes: object) -> AnatomyMap:
    measure = dataclasses.replace(anatomy_map.measures[name], **changes)
    return dataclasses.replace(anatomy_map, measures={**anatomy_map.measures, name: measure})


def test_a_reading_says_everything(reader: Reader, scan: Scan, release_config: ReleaseConfig) -> None:
    volume, anatomy_map = scan(ORGANS)
    reading = reader.read(volume, anatomy_map)
    assert not reading.not_assessed
    assert [a.anatomy for a in reading.anatomies] == ["lung", "heart", "aorta"]
    assert (reading.model, reading.segmenter) == (reader.release.identity, anatomy_map.algorithm)
    assert reading.test_only
    assert reading.analysed_at.tzinfo is not None
    assert set(reading.seconds) == {"preprocess", "model"}
    verdicts = {f.key: f.verdict for a in reading.anatomies for f in a.findings}
    assert verdicts == {
        "lung.nodule": Verdict.PRESENT,
        "lung.emphysema": Verdict.ABSENT,
        "heart.cardiomegaly": Verdict.NO_OPERATING_POINT,
    }
    assert [f.key for f in reading.positives] == ["lung.nodule"]
    lung = reading.anatomies[0]
    assert lung.findings[0].probability >= lung.findings[1].probability
    assert lung.volume_ml == pytest.approx(8 * 24 * 12 * 3 / 1000)
    assert reading.anatomies[2].findings == ()

    # the probability by hand, from the public parts (paper section 3.4)
    prepared = prepare(volume, anatomy_map, release_config)
    with torch.inference_mode():
        features = reader.model.anatomy_features(*prepared.tensors(prepared.windows[0]))[0][0]
        for key, texts in (
            ("lung.nodule", ["No nodule.", "Nodules."]),
            ("heart.cardiomegaly", ["No large heart.", "Large heart."]),
        ):
            text = reader.model.text_features(*reader.release.tokenize(texts))
            organ = features[release_config.model.anatomies.index(key.split(".")[0])]
            expected = torch.softmax(text @ organ / reader.model.temp, 0)[1].item()
            found = next(f for a in reading.anatomies for f in a.findings if f.key == key)
            assert found.probability == pytest.approx(expected, abs=1e-5)
            assert 0.0 < expected < 1.0
    for row, anatomy in enumerate(reading.anatomies):
        assert anatomy.embedding is not None
        assert anatomy.embedding.dtype == np.float16
        assert anatomy.embedding.astype(float) == pytest.approx(features[row].numpy(), abs=1e-3)


def test_reading_twice_gives_the_same(reader: Reader, scan: Scan) -> None:
    volume, anatomy_map = scan(ORGANS)
    first, second = reader.read(volume, anatomy_map), reader.read(volume, anatomy_map)
    assert [a.findings for a in first.anatomies] == [a.findings for a in second.anatomies]


@pytest.mark.parametrize(
    "reason",
    [Reason.ANATOMY_CUT_OFF, Reason.ANATOMY_IMPLAUSIBLE_HU, Reason.ANATOMY_FRAGMENTED, Reason.ANATOMY_SIDES_SWAPPED],
)
def test_a_doubted_anatomy_is_never_read(reader: Reader, scan: Scan, reason: Reason) -> None:
    volume, anatomy_map = scan(ORGANS)
    reading = reader.read(volume, doubted(anatomy_map, "lung", doubt=reason))
    assert [(n.anatomy, n.reason) for n in reading.not_assessed] == [("lung", reason)]
    assert [a.anatomy for a in reading.anatomies] == ["heart", "aorta"]


def test_an_anatomy_that_may_be_cut_is_read_and_says_so(reader: Reader, scan: Scan) -> None:
    volume, anatomy_map = scan(ORGANS)
    reading = reader.read(volume, doubted(anatomy_map, "aorta", cut=True))
    assert [a.anatomy for a in reading.anatomies if a.cut] == ["aorta"]
    assert not reading.not_assessed


def test_a_mask_on_the_wrong_tissue_is_not_read(reader: Reader, scan: Scan) -> None:
    """The physiologic guard from the measurement on: a lung of plausible size, but of 40 HU."""
    volume, anatomy_map = scan({"lung": (slice(4, 20), slice(10, 54), slice(8, 50))}, spacing=(6.0, 6.0, 6.0))
    measured = measure(volume, anatomy_map.labels, anatomy_map.names)
    reading = reader.read(volume, dataclasses.replace(anatomy_map, measures=measured))
    refused = reading.not_assessed[0]
    assert (refused.anatomy, refused.reason) == ("lung", Reason.ANATOMY_IMPLAUSIBLE_HU)
    assert "mean 40 HU" in refused.detail
    assert reading.anatomies == ()


def test_absent_unknown_and_vanished_anatomies(reader: Reader, scan: Scan) -> None:
    volume, anatomy_map = scan({"heart": ORGANS["heart"], "lung": (slice(0, 0),) * 3})
    reading = reader.read(volume, anatomy_map)
    assert [(n.anatomy, n.reason) for n in reading.not_assessed] == [
        ("lung", Reason.ANATOMY_ABSENT),
        ("aorta", Reason.ANATOMY_NOT_SEGMENTED),
    ]
    assert [a.anatomy for a in reading.anatomies] == ["heart"]
    # one voxel between the sampling points of the 2 mm grid
    volume, anatomy_map = scan(ORGANS | {"aorta": (slice(20, 21), slice(60, 61), slice(60, 61))})
    reading = reader.read(volume, anatomy_map)
    assert [(n.anatomy, n.reason) for n in reading.not_assessed] == [("aorta", Reason.ANATOMY_TOO_SMALL)]
    assert reading.not_assessed[0].detail


def test_a_scan_without_any_anatomy(reader: Reader, scan: Scan) -> None:
    volume, anatomy_map = scan({name: (slice(0, 0),) * 3 for name in ORGANS})
    reading = reader.read(volume, anatomy_map)
    assert reading.anatomies == ()
    assert {n.reason for n in reading.not_assessed} == {Reason.ANATOMY_ABSENT}


def test_unmeasured_maps_and_bare_models_are_refused(reader: Reader, scan: Scan, model: FVLM) -> None:
    volume, anatomy_map = scan(ORGANS)
    with pytest.raises(ValueError, match="no measure of lung"):
        reader.read(volume, dataclasses.replace(anatomy_map, measures={}))
    with pytest.raises(ReleaseError, match="load_release"):
        Reader(model)


def test_measure_decides_over_labels(reader: Reader, scan: Scan) -> None:
    volume, anatomy_map = scan(ORGANS)
    gone = dataclasses.replace(anatomy_map, measures={**anatomy_map.measures, "heart": AnatomyMeasure(0, 0.0, 0.0)})
    assert [n.reason for n in reader.read(volume, gone).not_assessed] == [Reason.ANATOMY_ABSENT]


@pytest.mark.parametrize(
    ("probability", "verdict"),
    [
        (0.7, Verdict.PRESENT),
        (0.6, Verdict.PRESENT),
        (0.59, Verdict.UNDETERMINED),
        (0.3, Verdict.UNDETERMINED),
        (0.29, Verdict.ABSENT),
    ],
)
def test_verdict_between_two_operating_points(probability: float, verdict: Verdict) -> None:
    config = FindingConfig(finding="lung.nodule", negative="a", positive="b", threshold=0.6, absent_below=0.3)
    assert judge(config, probability).verdict is verdict


def test_one_operating_point_calls_nothing_absent() -> None:
    config = FindingConfig(finding="lung.nodule", negative="a", positive="b", threshold=0.6)
    assert [judge(config, p).verdict for p in (0.6, 0.59, 0.0)] == [
        Verdict.PRESENT,
        Verdict.UNDETERMINED,
        Verdict.UNDETERMINED,
    ]


@pytest.mark.parametrize(
    ("probability", "expected"), [(0.5, 0.7310586), (0.9, 0.9955208), (0.0, 2.7e-12), (1.0, 1.0 - 3.7e-13)]
)
def test_calibration_is_platt_scaling(probability: float, expected: float) -> None:
    config = FindingConfig(
        finding="lung.nodule",
        negative="a",
        positive="b",
        threshold=0.5,
        absent_below=0.5,
        calibration=Calibration(slope=2.0, intercept=1.0),
    )
    finding = judge(config, probability)
    assert finding.probability == pytest.approx(expected, rel=1e-2, abs=1e-13)
    assert finding.calibrated
    assert finding.verdict is (Verdict.PRESENT if expected >= 0.5 else Verdict.ABSENT)
