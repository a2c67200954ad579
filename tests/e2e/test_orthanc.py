"""CT from dcmtk's storescu through the node into a real Orthanc, found there over DICOMweb."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dicomweb_client.api import DICOMwebClient
from peers import MakeSeries, Node, Orthanc, fvlm_node, storescu, until
from pydicom import dcmread

from config import Output
from dicom_sr import TEST_MARKER, output_of, read
from dicom_sr.validate import validate
from node.children import free_port

pytestmark = [pytest.mark.peers, pytest.mark.timeout(600)]


def series_by_modality(client: DICOMwebClient, study: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for series in client.search_for_series(study_instance_uid=study):
        found.setdefault(series["00080060"]["Value"][0], []).append(series["0020000E"]["Value"][0])
    return found


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """One that can answer the node's storage commitment requests, on associations that it opens."""
    with Orthanc(tmp_path / "orthanc", {"FVLM": ("127.0.0.1", free_port())}) as server:
        yield server


def test_sr_and_seg_are_found_by_qido_in_the_study_of_the_ct_and_committed(
    tmp_path: Path, orthanc: Orthanc, make_series: MakeSeries
) -> None:
    folder = make_series()
    first = dcmread(next(folder.rglob("*.dcm")), stop_before_pixels=True)
    client = DICOMwebClient(orthanc.dicomweb)
    storescu(folder, orthanc.port, orthanc.ae_title)
    assert series_by_modality(client, first.StudyInstanceUID) == {"CT": [first.SeriesInstanceUID]}

    pacs = {"pacs": {"ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port}}
    with Node(tmp_path / "node", pacs, port=orthanc.knows["FVLM"][1]) as node:
        storescu(folder, node.port, "FVLM")
        found = until(
            lambda: len((now := series_by_modality(client, first.StudyInstanceUID)).get("SR", [])) == 2 and now,
            400,
            "the results in Orthanc",
            node.log,
        )
        assert {kind: len(series) for kind, series in found.items()} == {"CT": 1, "SEG": 1, "OT": 1, "SR": 2}
        until(lambda: "COMMITTED" in fvlm_node("status", "--config", node.config).stdout, 60, "commitment", node.log)
        assert node.stop() == 0

    reports = {output_of(d): d for uid in found["SR"] for d in client.retrieve_series(first.StudyInstanceUID, uid)}
    report, page = reports[Output.SR], client.retrieve_series(first.StudyInstanceUID, found["OT"][0])[0]
    parsed = read(report)
    assert parsed.study_instance_uid == first.StudyInstanceUID
    assert not parsed.verified
    assert TEST_MARKER in parsed.statements
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert first.SeriesInstanceUID in {str(item.SeriesInstanceUID) for item in evidence}
    segmentation = client.retrieve_series(first.StudyInstanceUID, found["SEG"][0])[0]
    assert segmentation.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    for dataset in (report, segmentation, page, reports[Output.TEXT]):
        assert dataset.PatientID == first.PatientID
        assert validate(dataset).errors == ()
