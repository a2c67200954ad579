"""The vocabulary: what ships is whole, and a wrong table is told with file and key."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr._concepts_dict import concepts

import config
from config.code_tables import page
from config.reasons import Reason
from config.vocabulary import Vocabulary, VocabularyError, load_vocabulary, read_vocabulary
from dicom_sr.codes import LOCAL_SCHEME

EVALUATED = [
    "lung",
    "heart",
    "esophagus",
    "liver",
    "gallbladder",
    "pancreas",
    "spleen",
    "kidney",
    "adrenal_gland",
    "stomach",
    "portal_vein",
    "small_intestine",
    "colon",
    "urinary_bladder",
    "sacrum",
]


@pytest.fixture
def shipped() -> Vocabulary:
    return load_vocabulary()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for table in Path(config.__file__).parent.glob("*.yaml"):
        shutil.copy(table, tmp_path)
    return tmp_path


def test_the_15_evaluated_anatomies_come_first(shipped: Vocabulary) -> None:
    assert [a.name for a in shipped.anatomies][:15] == EVALUATED


def test_the_ct_rate_preset_asks_the_16_scored_findings_of_4_anatomies(shipped: Vocabulary) -> None:
    preset = shipped.preset("ct-rate")
    assert preset.anatomies == ("lung", "heart", "esophagus", "aorta")
    assert len(preset.prompts) == 16


def test_the_phantom_preset_asks_at_least_20_diseases_of_15_anatomies(shipped: Vocabulary) -> None:
    preset = shipped.preset("phantom")
    assert list(preset.anatomies) == EVALUATED
    assert len(preset.prompts) >= 20


def test_the_radar_preset_has_the_36_anatomies_in_their_order_and_the_146_findings(shipped: Vocabulary) -> None:
    """Its order is that of RADAR's public map of 104 classes; `small_intestine` is its small bowel."""
    preset = shipped.preset("radar")
    assert preset.anatomies == (
        "adrenal_gland", "aorta", "deep_back_muscle", "brain", "clavicle", "colon", "duodenum", "esophagus", "face",
        "femur", "gallbladder", "gluteal_muscle", "heart", "hip_bone", "humerus", "iliac_artery", "iliac_vein",
        "iliopsoas", "inferior_vena_cava", "kidney", "liver", "lung", "pancreas", "portal_vein", "pulmonary_artery",
        "rib", "sacrum", "scapula", "small_intestine", "spleen", "stomach", "trachea", "urinary_bladder",
        "cervical_spine", "lumbar_spine", "thoracic_spine",
    )  # fmt: skip
    assert {prompt.finding for prompt in preset.prompts} == {f.key for f in shipped.findings if f.radar}
    classes = shipped.classes(preset.anatomies)
    assert [name for name, own in classes.items() if not own] == ["face", "pulmonary_artery"]
    assert (classes["small_intestine"], classes["duodenum"]) == (("small_bowel",), ("duodenum",))


def test_the_duodenum_belongs_to_the_small_intestine_unless_it_is_asked_for(shipped: Vocabulary) -> None:
    assert shipped.classes(("small_intestine",)) == {"small_intestine": ("small_bowel", "duodenum")}


def test_classes_with_a_side_belong_to_paired_anatomies(shipped: Vocabulary) -> None:
    one_sided = {"heart"}  # the appendage of its left atrium
    for anatomy in shipped.anatomies:
        sides = {side for name in anatomy.totalsegmentator for side in ("left", "right") if side in name.split("_")}
        known = anatomy.paired and anatomy.totalsegmentator
        assert sides == ({"left", "right"} if known else set()) or anatomy.name in one_sided


def test_plausible_ranges_run_upwards(shipped: Vocabulary) -> None:
    for anatomy in shipped.anatomies:
        assert anatomy.mean_hu[0] < anatomy.mean_hu[1]
        assert 0 < anatomy.volume_ml[0] < anatomy.volume_ml[1]


def test_no_code_means_two_things(shipped: Vocabulary) -> None:
    """Within an anatomy each finding has its own code (the SR is read back by it); everywhere a code means the same."""
    anatomies = [(a.code.scheme, a.code.value) for a in shipped.anatomies]
    findings = [(f.anatomy, f.code.scheme, f.code.value) for f in shipped.findings]
    assert len(anatomies) == len(set(anatomies))
    assert len(findings) == len(set(findings))
    meanings: dict[tuple[str, str], set[str]] = {}
    for entry in (*shipped.anatomies, *shipped.findings):
        meanings.setdefault((entry.code.scheme, entry.code.value), set()).add(entry.code.meaning)
    assert {key: found for key, found in meanings.items() if len(found) > 1} == {}
    own = [f.code.value for f in shipped.findings if f.local]
    assert len(own) == len(set(own))


def test_codes_fit_their_elements_and_schemes_are_known(shipped: Vocabulary) -> None:
    """Code Value SH 16, Code Meaning LO 64 (PS3.3 section 8); schemes of PS3.16 section 8 and the declared one."""
    for entry in (*shipped.anatomies, *shipped.findings):
        code = entry.code
        assert 1 <= len(code.value) <= 16, code
        assert 1 <= len(code.meaning) <= 64, code
        assert code.scheme in {"SCT", "DCM", "UMLS", LOCAL_SCHEME}, code
        assert code.value == code.value.strip(), code
        assert "\\" not in code.value + code.meaning, code
        if code.scheme == "SCT":
            assert code.value.isdecimal(), code


def test_evidence_that_names_a_context_group_is_true(shipped: Vocabulary) -> None:
    """Against pydicom's copy of PS3.16; what names other sources is checked for being named only."""
    checked = 0
    for entry in (*shipped.anatomies, *shipped.findings):
        assert bool(entry.evidence) is not entry.local, entry
        for groups in re.findall(r"CID ([0-9, ]+)", entry.evidence):
            for group in map(int, groups.split(",")):
                named = cid_concepts[group]
                words = named.get(entry.code.scheme, [])
                values = {value for word in words for value in concepts[entry.code.scheme][word]}
                assert entry.code.value in values, (entry.code, group)
                checked += 1
        if "PS3.16" in entry.evidence:
            assert any(entry.code.value in found for found in concepts[entry.code.scheme].values()), entry.code
    assert checked > 25


def test_the_catalogues_are_whole(shipped: Vocabulary) -> None:
    radar = [(f.anatomy, f.radar) for f in shipped.findings if f.radar]
    assert len(radar) == len(set(radar)) == 146
    assert len({anatomy for anatomy, _ in radar}) == 18
    assert len({f.ct_rate for f in shipped.findings if f.ct_rate}) == 18
    asked = {prompt.finding for prompt in shipped.preset("ct-rate").prompts}
    labels = {f.key: f.ct_rate for f in shipped.findings if f.ct_rate}
    assert set(labels) - asked == {"scan.medical_material", "scan.lymphadenopathy"}
    assert len(shipped.preset("medvl-54").prompts) == 54
    assert set(shipped.preset("medvl-54").anatomies) == set(EVALUATED)


def test_the_page_of_codes_is_up_to_date() -> None:
    """If not: python -m config.code_tables docs/codes.md"""
    file = Path(config.__file__).parents[1] / "docs" / "codes.md"
    assert file.read_text(encoding="utf-8") == page()


def test_the_page_lists_every_code_once(shipped: Vocabulary) -> None:
    rows = [line.split(" | ") for line in page().splitlines() if line.startswith("| ") and "." in line.split(" | ")[0]]
    assert [row[0].removeprefix("| ") for row in rows] != []
    assert {row[0].removeprefix("| "): row[2] for row in rows} == {f.key: f.code.value for f in shipped.findings}
    assert len(rows) == len(shipped.findings)


def test_the_page_lists_every_reason_for_not_assessing_with_a_meaning_that_fits_its_element() -> None:
    reasons = [reason for reason in Reason if reason.startswith("ANATOMY_")]
    assert {Reason.ANATOMY_FRAGMENTED, Reason.ANATOMY_SIDES_SWAPPED} < set(reasons)
    for reason in reasons:
        assert f"| {reason.value} | {reason.meaning} |" in page()
        assert len(reason.meaning) <= 64  # Code Meaning (0008,0104), LO


def test_unknown_names_are_answered_with_the_known_ones(shipped: Vocabulary) -> None:
    with pytest.raises(KeyError, match="lung, heart"):
        shipped.anatomy("lungs")


def change(folder: Path, table: str, entry: int, **values: object) -> None:
    path = folder / f"{table}.yaml"
    content = yaml.safe_load(path.read_text())
    content[entry] |= values
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("table", "values", "told"),
    [
        ("anatomies", {"mean_hu": ["low", 3]}, "anatomies.yaml: anatomies.0.mean_hu.0"),
        ("anatomies", {"colour": [1, 2, 3]}, "anatomies.yaml: anatomies.0.colour"),
        ("anatomies", {"name": "heart"}, "anatomies.yaml: 'heart' stands twice"),
        ("anatomies", {"verified": True, "evidence": ""}, "say in `evidence` where"),
        ("findings", {"code": {"value": "X", "scheme": "99X", "meaning": "x"}}, "has no evidence and is not verified"),
        ("findings", {"key": "toe.nail"}, "no anatomy 'toe'"),
        ("findings", {"code": {"value": "1" * 17, "scheme": "SCT", "meaning": "x"}}, "findings.0.code.value"),
        ("anatomies", {"totalsegmentator": ["heart"]}, "ct-rate: TotalSegmentator class 'heart' stands twice"),
        ("anatomies", {"totalsegmentator": ["lungs"]}, "task `total` has no class 'lungs'"),
        ("anatomies", {"part_of": "heart"}, "lung: 'heart' does not have all its classes"),
        ("presets", {"anatomies": ["lung", "lung"]}, "ct-rate: anatomy 'lung' stands twice"),
        ("presets", {"anatomies": ["scan"]}, "no anatomy named 'scan'"),
        ("presets", {"anatomies": ["lung"]}, "needs its anatomy in the preset's list"),
        ("presets", {"prompts": [{"finding": "lung.x", "negative": "", "positive": ""}]}, "no finding 'lung.x'"),
    ],
)
def test_a_wrong_table_is_told_with_file_and_key(
    folder: Path, table: str, values: dict[str, object], told: str
) -> None:
    change(folder, table, 0, **values)
    with pytest.raises(VocabularyError) as caught:
        read_vocabulary(folder)
    assert told in str(caught.value)


def test_a_missing_table_is_told(folder: Path) -> None:
    (folder / "findings.yaml").unlink()
    with pytest.raises(VocabularyError, match=r"findings\.yaml: cannot be read"):
        read_vocabulary(folder)


def test_every_reason_says_what_it_means_and_what_to_do() -> None:
    for reason in Reason:
        assert reason.meaning.endswith(".")
        assert reason.cure
