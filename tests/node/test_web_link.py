"""STOW-RS and QIDO-RS against scripted services: every answer, and none, ends in its own way."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from rows import QUICK, add_job, add_results, deliveries, job, open_records, settings_for, small_object
from sqlalchemy import update

from config import Reason
from config.settings import WebDestination
from node import breaker
from node.delivery import Courier
from node.dimse_link import AwayError
from node.outbox import Fate
from node.records import Breaker, Delivery, now
from node.states import State
from node.web_link import WebLink, judge_stow

UID = "2.25.5"


def _report(*, failed: int | None = None, warning: int | None = None, uid: str = UID, empty: bool = False) -> Any:
    """A Store Instances Response about one object."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if failed is not None:
        return {"00081198": {"vr": "SQ", "Value": [item | {"00081197": {"vr": "US", "Value": [failed]}}]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return {"00081199": {"vr": "SQ", "Value": [] if empty else [item]}}


@pytest.mark.parametrize(
    ("status", "body", "fate", "reason", "text"),
    [
        (200, _report(), Fate.STORED, None, ""),
        (200, [_report()], Fate.STORED, None, ""),
        (200, None, Fate.STORED, None, "without a report"),
        (200, _report(empty=True), Fate.RETRY, Reason.PEER_REFUSED, "does not name the object"),
        (200, _report(uid="2.25.6"), Fate.RETRY, Reason.PEER_REFUSED, "does not name the object"),
        (200, _report(failed=0xA700), Fate.RETRY, Reason.PEER_REFUSED, "0xA700: out of resources"),
        (202, _report(warning=0xB000), Fate.STORED, Reason.STORED_WITH_WARNING, "0xB000: stored, but data elements"),
        (202, _report(warning=0xB006), Fate.STORED, Reason.STORED_WITH_WARNING, "discarded"),
        (202, _report(warning=0xB007), Fate.STORED, Reason.STORED_WITH_WARNING, "does not match the SOP class"),
        (202, None, Fate.RETRY, Reason.PEER_REFUSED, "does not name the object"),
        (409, _report(failed=0xA900), Fate.REFUSED, Reason.PEER_REFUSED, "0xA900"),
        (409, _report(failed=0xC122), Fate.REFUSED, Reason.PEER_REFUSED, "0xC122"),
        (409, _report(failed=0x0122), Fate.REFUSED, Reason.PEER_REFUSED, "SOP class not supported"),
        (409, _report(failed=0x0110), Fate.RETRY, Reason.PEER_REFUSED, "0x0110"),
        (409, _report(failed=0x0111), Fate.STORED, None, "had the object already"),
        (409, None, Fate.REFUSED, Reason.PEER_REFUSED, "HTTP 409"),
        (400, None, Fate.REFUSED, Reason.PEER_REFUSED, "HTTP 400"),
        (413, None, Fate.REFUSED, Reason.PEER_REFUSED, "HTTP 413"),
        (415, None, Fate.REFUSED, Reason.PEER_REFUSED, "HTTP 415"),
        (401, None, Fate.AWAY, Reason.PEER_REFUSED, "authorisation"),
        (403, None, Fate.AWAY, Reason.PEER_REFUSED, "authorisation"),
        (404, None, Fate.AWAY, Reason.PEER_REFUSED, "check stow_url"),
        (302, None, Fate.AWAY, Reason.PEER_REFUSED, "redirects"),
        (429, None, Fate.AWAY, Reason.PEER_REFUSED, "HTTP 429"),
        (500, None, Fate.RETRY, Reason.PEER_REFUSED, "HTTP 500"),
        (507, None, Fate.RETRY, Reason.PEER_REFUSED, "HTTP 507"),
        (503, None, Fate.AWAY, Reason.PEER_REFUSED, "HTTP 503"),
        (200, "rubbish", Fate.RETRY, Reason.PEER_REFUSED, "does not name the object"),
        (200, {"00081199": {"Value": 3}, "00081198": 7}, Fate.RETRY, Reason.PEER_REFUSED, "does not name"),
    ],
)
def test_what_an_answer_means(status: int, body: Any, fate: Fate, reason: Reason | None, text: str) -> None:
    outcome = judge_stow(status, body, UID)
    assert (outcome.fate, outcome.reason) == (fate, reason)
    assert text in outcome.detail


class _Service(BaseHTTPRequestHandler):
    """Answers as it is told; keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    status: ClassVar[int] = 200
    headers_sent: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []
    listed: ClassVar[bool] = True
    hang: ClassVar[threading.Event | None] = None

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, dict(self.headers), content))
        if self.hang is not None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.hang.wait(0.1):  # a byte at a time, for ever
                self.wfile.write(b"X")
                self.wfile.flush()
            self.close_connection = True
            return
        uid = next(u for u in ("2.25.11", "2.25.12", UID) if f"{u}\0"[: len(u) + len(u) % 2].encode() in content)
        self._answer(self.status, _report(uid=uid))

    def do_GET(self) -> None:
        self.asked.append((self.path, dict(self.headers), b""))
        uid = self.path.rpartition("=")[2]
        self._answer(200, [{"00080018": {"vr": "UI", "Value": [uid]}}] if self.listed else [])

    def _answer(self, status: int, body: Any) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _service(**how: Any) -> Iterator[tuple[type[_Service], str]]:
    handler = type("Service", (_Service,), {"asked": [], **how})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        if handler.hang is not None:
            handler.hang.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _file(tmp_path: Path) -> Path:
    dataset = small_object("SR", UID)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.3", "2.25.4"
    path = tmp_path / "object.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_an_object_goes_out_whole_and_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path)
    monkeypatch.setenv("STOW_TOKEN", "very-secret")
    with _service() as (service, url):
        link = WebLink(WebDestination(stow_url=f"{url}/studies/", token="env:STOW_TOKEN"), 30.0)
        assert link.store(path, "").fate is Fate.STORED
        assert link.lists(path) is True
        service.listed = False
        assert link.lists(path) is False
    (where, headers, content), (search, _, _), _ = service.asked
    assert where == "/dicom-web/studies"
    assert headers["Authorization"] == "Bearer very-secret"
    assert path.read_bytes() in content
    boundary = headers["Content-Type"].rpartition("=")[2]
    assert content.startswith(f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
    assert content.endswith(f"\r\n--{boundary}--\r\n".encode())
    assert search == f"/dicom-web/studies/2.25.3/series/2.25.4/instances?SOPInstanceUID={UID}"


def test_a_redirect_is_not_followed_and_takes_no_secret_along(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("very-secret\n")
    with _service() as (other, elsewhere), _service(status=307, headers_sent={"Location": elsewhere}) as (_, url):
        destination = WebDestination(stow_url=url, user="node", password=f"file:{secret}")
        with WebLink(destination, 30.0) as link:
            outcome = link.store(_file(tmp_path), "")
    assert (outcome.fate, other.asked) == (Fate.AWAY, [])
    assert "redirect" in outcome.detail
    assert "very-secret" not in outcome.detail + str(destination)


def test_an_answer_that_trickles_or_never_ends_is_cut_off(tmp_path: Path) -> None:
    with _service(hang=threading.Event()) as (_, url), WebLink(WebDestination(stow_url=url), 1.0) as link:
        outcome = link.store(_file(tmp_path), "")
    assert (outcome.fate, outcome.reason) == (Fate.AWAY, Reason.PEER_UNREACHABLE)
    assert "in time" in outcome.detail


def test_an_answer_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with _service(headers_sent={"X": "y"}) as (service, url), WebLink(WebDestination(stow_url=url), 30.0) as link:
        service._answer = lambda self, *_: _Service._answer(self, 200, ["x" * 2**22])  # type: ignore[method-assign]
        outcome = link.store(_file(tmp_path), "")
    assert (outcome.fate, outcome.detail) == (Fate.STORED, "STOW-RS: HTTP 200 without a report on the object")


def test_nobody_there_and_secrets_that_are_not_there(tmp_path: Path) -> None:
    with _service() as (_, url):
        pass
    with WebLink(WebDestination(stow_url=url), 5.0) as link:
        outcome = link.store(_file(tmp_path), "")
    assert (outcome.fate, outcome.reason) == (Fate.AWAY, Reason.PEER_UNREACHABLE)
    for source in ("env:NO_SUCH_VARIABLE_HERE", f"file:{tmp_path}/nothing"):
        with pytest.raises(AwayError, match=r"env:NO_SUCH|file:"):
            WebLink(WebDestination(stow_url=url, token=source), 5.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stow_url": "http://pacs.example.org/dicom-web", "token": "env:T"},
        {"stow_url": "https://user:password@pacs.example.org/"},
        {"stow_url": "ftp://pacs.example.org"},
        {"stow_url": "https://pacs.example.org", "user": "u"},
        {"stow_url": "https://pacs.example.org", "token": "the-secret-itself"},
    ],
)
def test_settings_that_would_betray_a_secret_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        WebDestination(**wrong)  # type: ignore[arg-type]


def test_a_job_is_committed_when_the_service_lists_its_objects(tmp_path: Path) -> None:
    with _service(listed=False) as (service, url):
        settings = settings_for(
            tmp_path, delivery=QUICK.model_copy(update={"retry_first_s": 1000.0, "retry_max_s": 1000.0})
        )
        web = {"cloud": WebDestination(stow_url=url)}
        routing = settings.routing.model_copy(update={"destinations": ("cloud",)})
        settings = settings.model_copy(update={"destinations": web, "routing": routing})
        records = open_records(settings)
        job_id = add_job(records, state=State.ENCODED)
        ids = add_results(records, settings, job_id)
        for path in settings.results_dir.rglob("*.dcm"):
            dataset = small_object("SR" if "sr" in path.name else "SEG", f"2.25.1{path.name[0]}")
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.3", "2.25.4"
            dataset.save_as(path, enforce_file_format=True)
        Courier(records, settings).deliver(ids[0])
        assert job(records, job_id).state == State.ENCODED  # not listed: is sent again
        assert all(row.lost == 1 for row in deliveries(records, "cloud"))
        service.listed = True
        with records.session() as session:
            session.execute(update(Delivery).values(due_at=now()))
        Courier(records, settings).deliver(ids[0])
    ended = job(records, job_id)
    assert (ended.state, ended.detail) == (State.COMMITTED, "known by QIDO-RS")
    with records.reading() as session:
        assert breaker.state(session.get(Breaker, "cloud")) == "closed"
