"""Synthetic patients: the same again, in the right place, of plausible size, each disease in its own anatomy."""

import numpy as np
import pytest

from config.vocabulary import load_vocabulary
from ct.phantom import ANATOMIES, DISEASES, LABELS, PhantomPatient, Rendered, lesion_mask, render
from ct.phantom.diseases import draw_diseases

COARSE = ((6.0, 6.0, 6.0), (104, 48, 64))
MIDDLE = ((4.0, 4.0, 4.0), (155, 76, 100))
RESIZING = {
    "heart.cardiomegaly",
    "heart.pericardial_effusion",
    "spleen.splenomegaly",
    "portal_vein.dilatation",
    "small_intestine.obstruction",
    "colon.obstruction",
    "esophagus.hiatal_hernia",
}
"""Diseases that grow an organ and so push its neighbours aside."""


def centroid(rendered: Rendered, name: str) -> tuple[float, float, float]:
    """Middle of an anatomy in patient mm (x, y, z)."""
    voxels = np.argwhere(rendered.labels == LABELS[name])
    z, y, x = np.asarray(rendered.origin_mm) + voxels.mean(axis=0) * np.asarray(rendered.spacing)
    return float(x), float(y), float(z)


def test_anatomies_and_diseases_are_those_of_the_vocabulary() -> None:
    preset = load_vocabulary().preset("phantom")
    assert preset.anatomies == ANATOMIES
    assert tuple(prompt.finding for prompt in preset.prompts) == DISEASES
    assert len(DISEASES) == 28


def test_same_seed_same_patient_and_same_bytes() -> None:
    first, again = PhantomPatient.draw(41), PhantomPatient.draw(41)
    assert first == again
    one, two = render(first, *COARSE), render(again, *COARSE)
    assert one.hu.tobytes() == two.hu.tobytes()
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.hu.dtype == np.int16
    assert one.labels.dtype == np.uint8
    assert render(PhantomPatient.draw(42), *COARSE).hu.tobytes() != one.hu.tobytes()


def test_diseases_change_the_patient_but_not_the_person() -> None:
    healthy, ill = PhantomPatient.draw(9, ()), PhantomPatient.draw(9, ["liver.cyst"])
    assert healthy.body == ill.body
    assert (healthy.sex, healthy.age) == (ill.sex, ill.age)
    assert healthy.diseases == ()
    assert ill.keys == {"liver.cyst"}


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lung\.cough"):
        PhantomPatient.draw(1, ["lung.cough"])
    with pytest.raises(ValueError, match="negative"):
        PhantomPatient.draw(-1)
    diffuse = PhantomPatient.draw(1, ["liver.steatosis"])
    with pytest.raises(ValueError, match="not focal"):
        lesion_mask(diffuse, diffuse.diseases[0], *COARSE)


@pytest.mark.parametrize("seed", range(4))
def test_organs_lie_where_they_belong(seed: int) -> None:
    patient = PhantomPatient.draw(seed, ())
    rendered = render(patient, *MIDDLE)
    middle = patient.body.offset_mm[0]
    at = {name: centroid(rendered, name) for name in ANATOMIES}
    for name in ("liver", "gallbladder"):
        assert at[name][0] < middle - 20
    for name in ("spleen", "stomach"):
        assert at[name][0] > middle + 20
    assert middle < at["heart"][0] < middle + 50
    for paired in ("lung", "kidney", "adrenal_gland"):
        x = np.argwhere(rendered.labels == LABELS[paired])[:, 2] * rendered.spacing[2] + rendered.origin_mm[2]
        left = float((x > middle).mean())
        assert 0.35 < left < 0.65
    assert at["lung"][2] > at["heart"][2] > at["liver"][2] > at["kidney"][2] > at["urinary_bladder"][2]
    assert at["adrenal_gland"][2] > at["kidney"][2] + 25
    assert at["sacrum"][1] > at["urinary_bladder"][1] + 60
    assert at["esophagus"][1] > at["heart"][1]


@pytest.mark.parametrize("seed", range(20))
def test_volumes_and_attenuation_are_plausible_and_nothing_is_cut_off(seed: int) -> None:
    every = DISEASES if seed % 5 == 4 else None if seed % 2 else ()
    rendered = render(PhantomPatient.draw(seed, every), *MIDDLE)
    for name in ANATOMIES:
        anatomy = load_vocabulary().anatomy(name)
        mask = rendered.labels == LABELS[name]
        volume = float(mask.sum()) * 0.064
        mean = float(rendered.hu[mask].mean())
        assert anatomy.volume_ml[0] <= volume <= anatomy.volume_ml[1], name
        assert anatomy.mean_hu[0] <= mean <= anatomy.mean_hu[1], name
        for axis, size in enumerate(mask.shape):
            seen = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            assert seen[0] > 0, name
            assert seen[-1] < size - 1, name


@pytest.mark.parametrize("key", DISEASES)
def test_every_disease_is_seen_in_its_own_anatomy(key: str) -> None:
    label = LABELS[key.split(".")[0]]
    healthy = render(PhantomPatient.draw(5, ()), *COARSE, noise=False)
    ill = render(PhantomPatient.draw(5, [key]), *COARSE, noise=False)
    difference = np.abs(ill.hu.astype(np.int32) - healthy.hu)
    changed = difference > 10
    mine = (ill.labels == label) | (healthy.labels == label)
    assert (changed & mine).sum() >= 3
    assert difference[mine].max() >= 20
    share = (changed & mine).sum() / changed.sum()
    assert share >= (0.35 if key in RESIZING else 0.55)


@pytest.mark.parametrize("key", [key for key in DISEASES if PhantomPatient.draw(3, [key]).diseases[0].balls])
def test_focal_lesions_lie_inside_their_organ(key: str) -> None:
    patient = PhantomPatient.draw(3, [key])
    rendered = render(patient, *MIDDLE)
    for lesion in patient.diseases:
        assert lesion.centre_mm is not None
        assert lesion.radius_mm is not None
        x, y, z = lesion.centre_mm
        index = tuple(round((c - o) / 4.0) for c, o in zip((z, y, x), rendered.origin_mm, strict=True))
        assert rendered.labels[index] == LABELS[lesion.anatomy]
        mask = lesion_mask(patient, lesion, *MIDDLE)
        assert mask.any()
        assert (rendered.labels[mask] == LABELS[lesion.anatomy]).all()
        drawn = sum(4 / 3 * np.pi * r**3 for *_, r in lesion.balls)
        assert 0.25 * drawn - 60 < mask.sum() * 64 < 1.7 * drawn + 130


def test_lesion_is_round_in_patient_space() -> None:
    patient = next(
        p for p in (PhantomPatient.draw(s, ["kidney.cyst"]) for s in range(50)) if p.diseases[0].size_mm > 35
    )
    lesion = patient.diseases[0]
    mask = lesion_mask(patient, lesion, (2.0, 2.0, 2.0), (310, 150, 200))
    extents = np.ptp(np.argwhere(mask), axis=0) * 2.0 + 2.0
    assert np.abs(extents - lesion.size_mm).max() <= 4.0


def test_anatomy_is_the_same_at_any_resolution() -> None:
    patient = PhantomPatient.draw(6, ())
    coarse, fine = render(patient, *COARSE), render(patient, (3.0, 3.0, 3.0), (206, 100, 132))
    for name in ("liver", "heart", "spleen", "kidney", "urinary_bladder", "sacrum"):
        a, b = centroid(coarse, name), centroid(fine, name)
        assert np.allclose(a, b, atol=1.5), name
        assert (coarse.labels == LABELS[name]).sum() * 8 == pytest.approx((fine.labels == LABELS[name]).sum(), rel=0.08)


def test_prevalence_is_realistic() -> None:
    drawn = [draw_diseases(seed, 58, "M") for seed in range(1500)]
    for key in DISEASES:
        share = sum(key in keys for keys in drawn) / len(drawn)
        assert 0.06 < share < 0.22, key
    healthy = sum(not keys for keys in drawn) / len(drawn)
    assert 0.05 < healthy < 0.16


def test_arms_beside_the_trunk_are_soft_tissue_with_bone_and_leave_the_organs_alone() -> None:
    raised, beside = (PhantomPatient.draw(4, (), arms) for arms in ("raised", "beside"))
    spacing, shape = (5.0, 2.0, 2.0), (124, 200, 260)
    without, with_arms = (render(patient, spacing, shape, noise=False) for patient in (raised, beside))
    assert np.array_equal(without.labels, with_arms.labels)
    new = (with_arms.hu > -200) & (without.hu < -800)
    litres = new.sum() * np.prod(spacing) / 1e6
    assert 2.0 < litres < 8.0
    for half in (new[:, :, :130], new[:, :, 130:]):
        assert 0.4 < half.sum() / new.sum() < 0.6
        assert half.any(axis=(1, 2))[:100].all(), "from the elbow's level up to the shoulder's"
    bone = new & (with_arms.hu > 250)
    assert 0.01 < bone.sum() / new.sum() < 0.15
