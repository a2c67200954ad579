"""The input series of a workitem that are not there are fetched from a real Orthanc, and no others."""

from pathlib import Path

import pytest
from running import wait_for
from spool_data import Bench
from test_dicomweb import with_source
from test_orthanc_follow import QuickOrthanc, a_series, spooled, uids
from ups_peer import PROCEDURE, STATION, Steps, dimse_peer, rs_peer, scheduled

from config.worklist_settings import DimseWorklist, WebWorklist
from node.children import free_port
from node.worklist.performer import Performer
from node.worklist.run import connect

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

_TASKS = {"station": "^".join(STATION), "procedures": ("^".join(PROCEDURE),), "source": "pacs"}


@pytest.mark.parametrize("how", ["wado-rs", "c-get"])
def test_the_series_that_a_workitem_names_is_fetched_and_no_other(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    wanted, beside = a_series(), a_series()
    for dataset in beside:
        dataset.StudyInstanceUID = wanted[0].StudyInstanceUID
    series, study = str(wanted[0].SeriesInstanceUID), str(wanted[0].StudyInstanceUID)
    steps = Steps(scheduled("2.25.77", series, study=study))
    peer = rs_peer(steps) if how == "wado-rs" else dimse_peer(steps)
    folder, knows = tmp_path_factory.mktemp("orthanc") / "orthanc", {"FVLM": ("127.0.0.1", free_port())}
    with QuickOrthanc(folder, knows=knows) as orthanc, peer as where:
        orthanc.take(*wanted, *beside)
        worklist: WebWorklist | DimseWorklist
        if isinstance(where, int):
            worklist = DimseWorklist(kind="dimse", ae_title="UPSMGR", host="127.0.0.1", port=where, **_TASKS)
        else:
            worklist = WebWorklist(kind="rs", url=where[0], **_TASKS)
        bench = Bench(tmp_path / "node")
        settings = with_source(bench, orthanc, how)
        performer = Performer("ris", worklist, settings, bench.records, lambda: connect(worklist, settings))
        performer.once()
        wait_for(lambda: len(spooled(settings)) == len(wanted), "the series is fetched")
        performer.once()
    assert steps.state("2.25.77") == "IN PROGRESS"
    assert spooled(settings) == uids(*wanted)
