"""Releases of a whole node that runs: promoted while series are read, rolled back, refused, and beside in shadow."""

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from archives import ScriptedPacs
from house import ChaosNode, pacs, wait_for
from ledger import Ledger, doubled_or_missing, send, slices, sources
from pydicom import Dataset
from spool_data import ROOT
from sqlalchemy import func, select
from tiny_release import make_release
from typer.testing import CliRunner

from fvlm.release import derive_release, read_release
from node.cli import app
from node.errors import CommandError
from node.records import Delivery, Result
from node.releases.rows import ShadowReading, ShadowState

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@dataclass
class Bench:
    """A node that reads with the release `a`, its archive, and another release `b`."""

    node: ChaosNode
    archive: ScriptedPacs
    a: Path
    b: Path
    digests: dict[str, str]
    ledger: Ledger

    def model(self, *arguments: str) -> str:
        """`fvlm-node model`, in this process; what it prints."""
        done = CliRunner().invoke(app, ["model", *arguments, "--config", str(self.node.config)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    def send(self, series: int, study: int) -> str:
        """One small series; its UID."""
        made = slices(series, StudyInstanceUID=f"{ROOT}.8{study}")
        send(self.node, made, self.ledger)
        return str(made[0].SeriesInstanceUID)

    def settle(self) -> None:
        expected = self.ledger.series
        wait_for(lambda: not doubled_or_missing(self.archive.results(), expected), "results", self.node)

    def reports(self, series_uid: str) -> list[Dataset]:
        images = self.ledger.series[series_uid]
        return [one for one in self.archive.results() if sources(one) & images and one.Modality == "SR"]

    def readers(self, *series_uids: str) -> str:
        """A letter a series: the one release that all its results name."""
        letters = []
        for uid in series_uids:
            images = self.ledger.series[uid]
            named = [
                {letter for letter, digest in self.digests.items() if digest in str(result)}
                for result in self.archive.results()
                if sources(result) & images
            ]
            assert len(named) == 2
            assert all(len(one) == 1 for one in named), "a result names more than one release, or none"
            (letter,) = set.union(*named)
            letters.append(letter)
        return "".join(letters)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("releases")
    a, b = folder / "a", folder / "b"
    digests = {"A": make_release(a)}
    release = read_release(a)
    digests["B"] = derive_release(release, release.findings, "# Tiny\nWith another card.\n", b)
    with ScriptedPacs() as archive:
        destination = pacs("pacs", archive.ae_title, archive.port)
        with ChaosNode(folder / "node", destination, model={"release": str(a)}) as node:
            node.wait_until_ready()
            yield Bench(node, archive, a, b, digests, Ledger())


def _runs(node: ChaosNode) -> int:
    return len(list(node.control.glob("run-*")))


def test_promoted_while_series_are_read_and_the_worker_is_killed(bench: Bench) -> None:
    node = bench.node
    receivers = node.processes()["receiver"], node.processes()["receiving"]
    (node.control / "hold").touch()
    begun = bench.send(11, study=1)
    wait_for(lambda: _runs(node) == 1, "the first series being read", node)
    waiting = bench.send(12, study=2)
    wait_for(lambda: node.states(waiting) == [("QUEUED", None)], "the second series in the queue", node)
    told = bench.model("promote", str(bench.b), "--why", "a test")
    assert "is in force" in told
    assert "TEST MODEL" in told
    killed = node.kill("analyze")
    wait_for(lambda: _runs(node) == 2, "the second attempt", node)
    (node.control / "hold").unlink()
    sibling, fresh = bench.send(13, study=1), bench.send(14, study=4)
    bench.settle()
    assert bench.readers(begun, waiting, sibling, fresh) == "ABAB"
    assert node.one("analyze") != killed
    assert (node.processes()["receiver"], node.processes()["receiving"]) == receivers
    assert node.events("release_switched", digest=bench.digests["B"])
    assert f"Release in force: tiny 0.1 ({bench.digests['B'][:12]})" in bench.node.status()
    assert "a test" in bench.model("list")


def test_rolled_back_and_a_series_read_again(bench: Bench) -> None:
    (again,) = [uid for uid in bench.ledger.series if uid.endswith(".14")]
    (former,) = bench.reports(again)
    receivers = bench.node.processes()["receiver"]
    bench.model("rollback", "--why", "calls every nodule")
    fresh = bench.send(21, study=5)
    bench.settle()
    assert bench.readers(fresh) == "A"
    assert "is queued again" in CliRunner().invoke(app, ["rerun", again, "--config", str(bench.node.config)]).output
    wait_for(lambda: len(bench.reports(again)) == 2, "the report of the other release", bench.node)
    (new,) = [one for one in bench.reports(again) if one.SOPInstanceUID != former.SOPInstanceUID]
    assert bench.digests["A"] in str(new)
    assert former.SOPInstanceUID in str(new.PredecessorDocumentsSequence)
    assert bench.node.states(again)[0][0] == "SUPERSEDED"
    assert bench.node.processes()["receiver"] == receivers
    bench.ledger.series.pop(again)


def test_a_damaged_release_is_refused_and_nothing_changes(bench: Bench) -> None:
    damaged = bench.b.with_name("damaged")
    shutil.copytree(bench.b, damaged)
    (damaged / "card.md").write_text("changed")
    for which, reason in ((str(damaged), "RELEASE_DAMAGED"), ("123456abcdef", "RELEASE_UNKNOWN")):
        for command in (("promote", which, "--why", "it cannot"), ("shadow", which)):
            with pytest.raises(CommandError, match=reason):
                bench.model(*command)
    uid = bench.send(31, study=6)
    bench.settle()
    assert bench.readers(uid) == "A"


def test_in_shadow_everything_is_read_and_nothing_is_sent(bench: Bench, tmp_path: Path) -> None:
    node = bench.node
    told = bench.model("shadow", bench.digests["B"][:12])
    assert "nothing of it is sent" in told
    wait_for(lambda: "shadow" in node.processes(), "the process that reads in shadow", node)
    uids = [bench.send(number, study=number) for number in (41, 42)]
    bench.settle()
    records = node.records()

    def done() -> int:
        with records.reading() as session:
            query = select(func.count()).select_from(ShadowReading)
            return session.scalar(query.where(ShadowReading.state == ShadowState.DONE)) or 0

    wait_for(lambda: done() == 2, "both readings in shadow", node)
    assert bench.readers(*uids) == "AA"
    assert not any(bench.digests["B"] in str(bench.reports(uid)) for uid in uids)
    with records.reading() as session:
        results = session.scalar(select(func.count()).select_from(Result)) or 0
        deliveries = session.scalar(select(func.count()).select_from(Delivery)) or 0
    assert results == deliveries == len(bench.archive.kept)
    records.engine.dispose()
    out = tmp_path / "agreement.json"
    assert "2 series read by both" in bench.model("shadow-report", "--json", str(out))
    written = json.loads(out.read_text())
    assert (written["same_verdict"], written["progress"]["done"]) == (1.0, 2)
    assert "PLANTED" not in out.read_text()
    assert "In shadow: tiny 0.1" in node.status()
    bench.model("shadow", "--off")
    wait_for(lambda: "shadow" not in node.processes(), "the end of that process", node)
    assert not node.events("process_died", role="shadow")
