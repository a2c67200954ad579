"""`fvlm-node retry`: what failed is run again, with every attempt and every refused delivery; nothing else is."""

from pathlib import Path

import pytest
from rows import add_job, add_results, deliveries, job, open_records, settings_for

from config import Reason
from node.errors import CommandError
from node.records import Delivery, Job, now
from node.retry import retry
from node.states import State


@pytest.mark.parametrize("state", [State.FAILED, State.QUARANTINED])
@pytest.mark.parametrize("by_series", [False, True])
def test_a_failed_job_is_queued_with_all_attempts_and_its_refused_deliveries(
    tmp_path: Path, state: State, by_series: bool
) -> None:
    settings = settings_for(tmp_path, ("pacs", 104))
    records = open_records(settings)
    add_job(records, "2.25.5", State.FAILED)
    job_id = add_job(records, "2.25.6", state)
    sent, refused = add_results(records, settings, job_id)
    moment = now()
    with records.session() as session:
        row = session.get_one(Job, job_id)
        row.attempts, row.reason, row.detail = 3, Reason.ATTEMPTS_EXHAUSTED, "three times"
        session.get_one(Delivery, sent).sent_at = moment
        delivery = session.get_one(Delivery, refused)
        delivery.refused, delivery.reason = True, Reason.PEER_REFUSED
    assert retry(records, "2.25.6" if by_series else str(job_id)) == job_id
    ended = job(records, job_id)
    assert (ended.state, ended.attempts, ended.reason, ended.detail) == (State.QUEUED, 0, None, "")
    rows = {row.id: row for row in deliveries(records, "pacs")}
    assert (rows[sent].sent_at, rows[refused].refused, rows[refused].reason) == (moment, False, None)
    assert job(records, 1).state == State.FAILED


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.ENCODED, State.SENT, State.SUPERSEDED])
def test_a_job_that_did_not_fail_is_left_alone(tmp_path: Path, state: State) -> None:
    records = open_records(settings_for(tmp_path))
    job_id = add_job(records, state=state)
    with pytest.raises(CommandError, match=str(state)):
        retry(records, str(job_id))
    assert job(records, job_id).state == state


@pytest.mark.parametrize("which", ["77", "1.2.3", "", "../x", "9" * 40])
def test_an_unknown_job_is_told(tmp_path: Path, which: str) -> None:
    records = open_records(settings_for(tmp_path))
    add_job(records, state=State.FAILED)
    with pytest.raises(CommandError, match="no such job"):
        retry(records, which)
