"""What the node exports of its readers' verdicts is what `train collect` takes, with every verdict there is."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from rows import add_job, open_records, settings_for
from typer.testing import CliRunner

from config import ReaderVerdict
from fvlm.reading import Verdict
from node.cli import app
from node.feedback_rows import new_row
from node.records import Job, ReportedFinding, now
from node.states import State
from training.archive.feedback import join
from training.archive.ledger import Ledger
from training.archive.secret import Secret


def test_an_export_of_the_node_is_joined_to_the_pairs(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "data")
    records = open_records(settings)
    job_id = add_job(records, "2.25.1", State.SENT)
    with records.session() as session:
        job = session.get_one(Job, job_id)
        for number, verdict in enumerate(Verdict):
            said = ReportedFinding(job_id=job_id, finding=f"lung.{number}", tracking_uid=f"2.25.{number}")
            said.probability, said.verdict = 0.25, verdict.value
            row = new_row(job, said, ReaderVerdict.PRESENT)
            row.source, row.said_by, row.reader, row.said_at = "console", f"console:r{number}", "", now()
            session.add_all((said, row))
        whole = new_row(job, None, ReaderVerdict.REJECTED)
        whole.source, whole.said_by, whole.reader = "key_object", "2.25.77", "f" * 32
        session.add(whole)
    config, exported = tmp_path / "node.yaml", tmp_path / "feedback.jsonl"
    config.write_text(f"data_dir: {settings.data_dir}\n")
    done = CliRunner().invoke(app, ["feedback", "export", "--out", str(exported), "--config", str(config)])
    assert done.exit_code == 0, done.output
    ledger = SimpleNamespace(pair_of=lambda study: ("pair-1", "2.25.1") if study == "2.25.9" else None)
    out = tmp_path / "joined.jsonl"
    assert join(exported, cast(Ledger, ledger), Secret(b"key"), out) == (len(Verdict) + 1, 0)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["verdict"] for line in lines] == [*(verdict.value for verdict in Verdict), ""]
    assert all(line["pair_id"] == "pair-1" and line["same_series"] for line in lines)
    assert "2.25." not in out.read_text(), "no UID goes into a collection"
