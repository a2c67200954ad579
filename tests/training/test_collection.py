"""The collection on disk: whole or not at all."""

import json
from pathlib import Path

import pytest

from training.collection import Collection, CollectionError, Pair, Provenance, merged

SECTIONS = merged(
    [("Findings", "A nodule.\nIMPRESSION:\nNo effusion."), ("impression: ", "One nodule."), ("", "Rest.")]
)
PAIR = Pair(
    "a" * 32, "b" * 32, "train", 1, tuple(one.heading for one in SECTIONS), "en", "sr", Provenance(age_years=61)
)


def add(collection: Collection, pair: Pair = PAIR) -> None:
    (collection.draft(pair.pair_id) / "0001.dcm").write_bytes(b"pixels")
    collection.add(pair, SECTIONS)


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    made = Collection(tmp_path / "collection")
    with made.writing():
        add(made)
        add(made)
    opened = Collection.open(tmp_path / "collection")
    assert list(opened) == [PAIR]
    assert opened.sections(PAIR) == SECTIONS
    assert [one.heading for one in SECTIONS] == ["FINDINGS", "IMPRESSION", "REPORT"]
    assert (opened.images(PAIR) / "0001.dcm").read_bytes() == b"pixels"


def test_what_a_killed_writer_left_is_swept_away(tmp_path: Path) -> None:
    made = Collection(tmp_path)
    with made.writing():
        add(made)
    index = tmp_path / "pairs.jsonl"
    index.write_text(index.read_text() + '{"pair_id": "c')
    (tmp_path / "images" / ("c" * 32)).mkdir()
    (tmp_path / "reports" / f"{'c' * 32}.txt").write_text("lost")
    assert list(Collection.open(tmp_path)) == [PAIR]
    with made.writing():
        assert PAIR.pair_id in made
        add(made, Pair("d" * 32, "b" * 32, "train", 1, PAIR.headings))
    assert [one.pair_id for one in Collection.open(tmp_path)] == [PAIR.pair_id, "d" * 32]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [PAIR.pair_id, "d" * 32]
    assert sorted(path.stem for path in (tmp_path / "reports").iterdir()) == [PAIR.pair_id, "d" * 32]


def test_two_writers_a_foreign_folder_and_damage_are_refused(tmp_path: Path) -> None:
    made = Collection(tmp_path / "one")
    with made.writing(), pytest.raises(CollectionError, match="another process"), Collection(made.folder).writing():
        pass
    (tmp_path / "holidays" / "images").mkdir(parents=True)
    (tmp_path / "holidays" / "images" / "beach.jpg").write_bytes(b"sun")
    with pytest.raises(CollectionError, match="name a new folder"), Collection(tmp_path / "holidays").writing():
        pass
    assert (tmp_path / "holidays" / "images" / "beach.jpg").exists()
    with pytest.raises(CollectionError, match="no collection"):
        Collection.open(tmp_path / "nothing")
    (made.folder / "pairs.jsonl").write_text(json.dumps({"pair_id": 1}) + "\n")
    with pytest.raises(CollectionError, match="line 1"):
        list(Collection.open(made.folder))
