"""The vocabulary: what ships is whole, and a wrong table is told with file and key."""

import shutil
from pathlib import Path

import pytest
import yaml

import config
from config.reasons import Reason
from config.vocabulary import Vocabulary, VocabularyError, load_vocabulary, read_vocabulary

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


def test_plausible_ranges_run_upwards(shipped: Vocabulary) -> None:
    for anatomy in shipped.anatomies:
        assert anatomy.mean_hu[0] < anatomy.mean_hu[1]
        assert 0 < anatomy.volume_ml[0] < anatomy.volume_ml[1]


def test_no_code_means_two_things(shipped: Vocabulary) -> None:
    codes = [(x.code.scheme, x.code.value) for x in (*shipped.anatomies, *shipped.findings)]
    assert len(codes) == len(set(codes))


def test_no_totalsegmentator_class_belongs_to_two_anatomies(shipped: Vocabulary) -> None:
    classes = [name for anatomy in shipped.anatomies for name in anatomy.totalsegmentator]
    assert len(classes) == len(set(classes))


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
        ("findings", {"key": "toe.nail"}, "no anatomy 'toe'"),
        ("findings", {"code": {"value": "1" * 17, "scheme": "SCT", "meaning": "x"}}, "findings.0.code.value"),
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
