"""The small archive: what it takes, how it keeps it, what it refuses."""

import hashlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from rows import COMPREHENSIVE_3D_SR, archive, small_object


def _associate(port: int, called: str, contexts: list[tuple[str, list[str]]]):
    ae = AE(ae_title="ANYBODY")
    for abstract, syntaxes in contexts:
        ae.add_requested_context(abstract, syntaxes)
    return ae.associate("127.0.0.1", port, ae_title=called)


@pytest.mark.parametrize("modality", ["SR", "SEG", "CT"])
def test_keeps_each_kind_as_part_10_under_the_hash_of_its_uid(tmp_path: Path, modality: str) -> None:
    sent = small_object(modality, "2.25.77")
    with archive(tmp_path / "kept", "PACS") as pacs:
        association = _associate(pacs.port, "PACS", [(sent.SOPClassUID, [sent.file_meta.TransferSyntaxUID])])
        assert association.send_c_store(sent).Status == 0x0000
        association.release()
    assert [path.name for path in pacs.files()] == [hashlib.sha256(b"2.25.77").hexdigest() + ".dcm"]
    assert dcmread(pacs.files()[0]) == sent
    assert not list((tmp_path / "kept").glob("*.part"))


def test_the_same_instance_again_replaces_the_first(tmp_path: Path) -> None:
    first, second = small_object("SR", "2.25.5"), small_object("SR", "2.25.5")
    second.SeriesDescription = "second"
    with archive(tmp_path, "PACS") as pacs:
        association = _associate(pacs.port, "PACS", [(COMPREHENSIVE_3D_SR, [first.file_meta.TransferSyntaxUID])])
        assert [association.send_c_store(each).Status for each in (first, second)] == [0, 0]
        association.release()
    assert [dcmread(path).get("SeriesDescription") for path in pacs.files()] == ["second"]


def test_a_uid_with_path_separators_stays_inside_the_folder(tmp_path: Path) -> None:
    evil = small_object("SR", "2.25.6")
    evil.SOPInstanceUID = evil.file_meta.MediaStorageSOPInstanceUID = "../../evil"
    with archive(tmp_path / "in" / "side", "PACS") as pacs:
        association = _associate(pacs.port, "PACS", [(COMPREHENSIVE_3D_SR, [evil.file_meta.TransferSyntaxUID])])
        status = association.send_c_store(evil).Status
        association.release()
        kept = pacs.files()
    assert status == 0
    assert len(kept) == 1
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == kept


def test_a_full_disk_answers_out_of_resources(tmp_path: Path) -> None:
    sent = small_object("SR", "2.25.8")
    with archive(tmp_path / "gone", "PACS") as pacs:
        (tmp_path / "gone").rmdir()
        association = _associate(pacs.port, "PACS", [(COMPREHENSIVE_3D_SR, [sent.file_meta.TransferSyntaxUID])])
        assert association.send_c_store(sent).Status == 0xA700
        association.release()


def test_echo_compressed_syntaxes_and_the_called_title(tmp_path: Path) -> None:
    with archive(tmp_path, "PACS") as pacs:
        association = _associate(
            pacs.port, "PACS", [(Verification, ["1.2.840.10008.1.2"]), (COMPREHENSIVE_3D_SR, [JPEGLSLossless])]
        )
        assert association.send_c_echo().Status == 0x0000
        assert {c.abstract_syntax for c in association.accepted_contexts} == {Verification, COMPREHENSIVE_3D_SR}
        association.release()
        assert _associate(pacs.port, "OTHER", [(Verification, ["1.2.840.10008.1.2"])]).is_rejected
