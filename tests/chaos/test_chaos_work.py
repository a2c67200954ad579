"""The fault table, what goes wrong while series are read and results are delivered: rows 3, 4, 5, 8, 9, 13 and 17."""

import os
import signal
import sys
from collections.abc import Iterator

import pytest
from archives import ScriptedPacs
from house import pacs, wait_for
from ledger import assert_one_result_set, current_set, doubled_or_missing, send, slices, sources
from pynetdicom import evt
from rooms import Room, room
from spool_data import ct_slice

pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedPacs]:
    with ScriptedPacs() as peer:
        yield peer


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedPacs) -> Iterator[Room]:
    other = pacs("scripted", scripted.ae_title, scripted.port)
    environment = {"FVLM_ROUTING__PRIORITY_FROM_IMAGES": '["STORESCU"]'}
    with room(tmp_path_factory.mktemp("work"), other, environment=environment) as made:
        yield made


@pytest.fixture
def here(kept: Room, scripted: ScriptedPacs) -> Iterator[Room]:
    """The module's node with an empty book; the scripted archive behaves at the start and at the end of each test."""
    scripted.on_store = lambda _: 0x0000
    for name in ("hold", "die", "fail"):
        (kept.node.control / name).unlink(missing_ok=True)
    made = Room(kept.node, kept.archive)
    yield made
    for name in ("hold", "die", "fail"):
        (kept.node.control / name).unlink(missing_ok=True)


def _both_have_them(here: Room, scripted: ScriptedPacs) -> None:
    """Exactly one result set a series in both archives."""
    here.settle()
    series = here.ledger.series
    wait_for(lambda: not doubled_or_missing(scripted.results(), series), "results in the other archive", here.node)
    assert_one_result_set(scripted.results(), here.ledger.series)


def _runs(here: Room) -> int:
    return len(list(here.node.control.glob("run-*")))


def test_row_03_worker_killed_mid_inference(here: Room, scripted: ScriptedPacs) -> None:
    (here.node.control / "hold").touch()
    before = _runs(here)
    send(here.node, slices(301), here.ledger)
    wait_for(lambda: _runs(here) > before, "the analysis to begin", here.node)
    here.node.kill("analyze")
    wait_for(lambda: _runs(here) > before + 1, "the second attempt", here.node)
    (here.node.control / "hold").unlink()
    _both_have_them(here, scripted)
    assert here.node.events("process_died", role="analyze", status=-signal.SIGKILL)
    assert here.node.events("leases_of_a_dead_worker")


def test_row_04_worker_killed_between_store_and_commit(here: Room, scripted: ScriptedPacs) -> None:
    victims: list[int] = []

    def kill_the_courier(event: evt.Event) -> int:
        scripted.keep(event)
        if not victims and event.dataset.Modality == "SR":
            victims.append(here.node.one("deliver"))
            os.kill(victims[0], signal.SIGKILL)
        return 0x0000

    scripted.on_store = kill_the_courier
    send(here.node, slices(401), here.ledger)
    wait_for(lambda: victims, "the SR at the archive", here.node)
    _both_have_them(here, scripted)
    (images,) = here.ledger.series.values()
    uid = str(current_set(scripted.results(), images)["SR"][0].SOPInstanceUID)
    wait_for(lambda: scripted.stores[uid] == 2, "the same SR under the same UID again", here.node)
    assert here.node.events("process_died", role="deliver", status=-signal.SIGKILL)
    assert here.node.events("deliveries_of_a_dead_worker")


def test_row_05_embedded_broker_killed_and_wiped(here: Room, scripted: ScriptedPacs) -> None:
    (here.node.control / "hold").touch()
    before = _runs(here)
    for number in (501, 502, 503):
        send(here.node, slices(number), here.ledger)
    wait_for(lambda: _runs(here) > before, "the first analysis to begin", here.node)
    broker = here.node.kill("broker")
    for path in (here.node.data / "broker").glob("*"):
        if not path.is_socket():
            path.unlink()
    wait_for(lambda: here.node.processes().get("broker", [broker]) != [broker], "a new broker", here.node)
    (here.node.control / "hold").unlink()
    _both_have_them(here, scripted)
    assert here.node.events("broker_died", status=-signal.SIGKILL)


def test_row_08_archive_down_then_accepting_and_aborting(here: Room, scripted: ScriptedPacs) -> None:
    """The other archive gets everything meanwhile; in the end what is urgent goes out first, though it came last."""
    scripted.stop()
    for number in (801, 802, 803):
        send(here.node, slices(number), here.ledger)
    here.settle()  # the other destination is not held up
    wait_for(lambda: "PEER_UNREACHABLE" in here.node.status(), "the cause in `status`", here.node)
    assert here.node.events("destination_away", destination="scripted")
    aborted: list[str] = []

    def abort(event: evt.Event) -> None:
        aborted.append(str(event.request.AffectedSOPInstanceUID))

    scripted.on_store = abort
    scripted.start()
    wait_for(lambda: aborted, "an association that is aborted", here.node)
    urgent = slices(804, RequestedProcedurePriority="STAT")
    send(here.node, urgent, here.ledger)
    here.settle()  # nor is it now
    before = len(aborted)
    wait_for(lambda: len(aborted) > before, "another one", here.node)
    assert not any(current_set(scripted.results(), images)["SR"] for images in here.ledger.series.values())
    order: list[bool] = []

    def store(event: evt.Event) -> int:
        order.append(bool(sources(event.dataset) & here.ledger.series[str(urgent[0].SeriesInstanceUID)]))
        return 0x0000

    scripted.on_store = store
    _both_have_them(here, scripted)
    rest = order[1:]  # the first one, whichever it is, finds out that the archive works again
    assert {*rest} == {True, False}
    assert rest == sorted(rest, reverse=True), "what is urgent waited for what is not"
    assert here.node.events("destination_back", destination="scripted")


def test_row_09_warning_and_refusal_are_told_apart(here: Room, scripted: ScriptedPacs) -> None:
    answers = {"SEG": 0xB000, "SR": 0x0000}
    scripted.on_store = lambda event: answers[event.dataset.Modality]
    send(here.node, slices(901), here.ledger)
    _both_have_them(here, scripted)
    told = wait_for(lambda: here.node.events("delivery", reason="STORED_WITH_WARNING"), "the warning told", here.node)
    assert told[0]["fate"] == "STORED"

    scripted.on_store = lambda event: 0xA900 if event.dataset.Modality == "SR" else 0x0000
    here.ledger.series.clear()
    send(here.node, slices(902), here.ledger)
    (uid,) = here.ledger.series
    wait_for(lambda: here.node.states(uid) == [("FAILED", "PEER_REFUSED")], "the refusal to be final", here.node)
    here.settle()  # the other archive has both
    assert "0xA900" in here.node.status()
    job = here.node.events("delivery", destination="scripted", fate="REFUSED")[-1]["job"]
    scripted.on_store = lambda _: 0x0000
    here.node.command_output("retry", str(job))
    _both_have_them(here, scripted)


def test_row_09_commitment_refused(here: Room, scripted: ScriptedPacs) -> None:
    scripted.commits = False
    try:
        send(here.node, slices(903), here.ledger)
        here.settle()
        (uid,) = here.ledger.series
        wait_for(lambda: scripted.commitments, "a commitment request", here.node, 8.0)
        assert here.node.states(uid)[-1][0] != "COMMITTED"
        wait_for(lambda: "commitment" in here.node.status().lower(), "the failed commitment in `status`", here.node)
    finally:
        scripted.commits = True


def test_row_13_late_slice(here: Room, scripted: ScriptedPacs) -> None:
    send(here.node, slices(1301), here.ledger)
    _both_have_them(here, scripted)
    (uid,) = here.ledger.series
    send(here.node, [ct_slice(1301, 5, side=16)], here.ledger)
    _both_have_them(here, scripted)
    first, second = here.node.states(uid)
    assert first[0] == "SUPERSEDED"
    assert second[0] in ("ENCODED", "SENT", "COMMITTED")
    assert f"{uid} (2)" in here.node.status()


def test_row_17_out_of_memory_and_a_worker_that_aborts(here: Room, scripted: ScriptedPacs) -> None:
    """The GPU's errors as the node meets them: an exception that says out of memory, and a process that dies."""
    (here.node.control / "fail").write_text("OUT_OF_MEMORY")
    send(here.node, slices(1701), here.ledger)
    (uid,) = here.ledger.series

    def ended() -> bool:
        states = here.node.states(uid)
        return bool(states) and states[-1][0] in ("QUARANTINED", "FAILED")

    wait_for(ended, "the end of attempts", here.node)
    assert "OUT_OF_MEMORY" in here.node.status()
    (here.node.control / "fail").unlink()
    here.node.command_output("retry", uid)
    _both_have_them(here, scripted)

    (here.node.control / "die").touch()
    send(here.node, slices(1702), here.ledger)
    wait_for(lambda: here.node.events("process_died", role="analyze", status=-signal.SIGABRT), "a death", here.node)
    (here.node.control / "die").unlink()
    _both_have_them(here, scripted)
