"""The process of the ways in, as `serve` runs it; and archives that answer a retrieval with nonsense."""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from running import Processes, wait_for
from spool_data import ROOT, Bench, ct_slice, write_file
from test_stow import TYPE, body, file_of, stored

from config.inlet_settings import WatchedFolder, WebSettings
from config.settings import Source
from node.children import free_port, listens
from node.errors import CommandError
from node.retrieve.run import pull_study
from node.spool import segments


def test_the_process_takes_from_folder_and_http_and_loses_nothing_when_it_is_killed(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "node")
    drop = tmp_path / "drop"
    drop.mkdir()
    web = WebSettings(enabled=True, port=free_port())
    folder = WatchedFolder(path=drop, settle_s=0.1, poll_s=0.1)
    settings = bench.settings.model_copy(update={"web": web, "folders": {"drop": folder}})
    with Processes(settings) as processes:
        process = processes.role("inlets")
        wait_for(lambda: listens(web.port), "the way in over HTTP")
        url = f"http://127.0.0.1:{web.port}/dicom-web/studies"
        answer = httpx.post(url, content=body(file_of(ct_slice(number=1))), headers={"Content-Type": TYPE})
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert answer.status_code == 200
        assert set(stored(settings)) == {f"{ROOT}.1.1"}
        process = processes.role("inlets")
        write_file(ct_slice(number=2), drop / "a.dcm")
        wait_for(lambda: (drop / "done" / "a.dcm").exists(), "the file is taken")
        process.terminate()
        assert process.wait(30) == 0
    assert set(stored(settings)) == {f"{ROOT}.1.1", f"{ROOT}.1.2"}


@contextmanager
def archive(wado: Callable[[str], tuple[int, str, bytes]]) -> Iterator[str]:
    """QIDO-RS with one series of two images; WADO-RS as a liar wants it: status, type and body for an address."""
    wanted = ct_slice()

    class Liar(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.endswith("/series"):
                found = {"0020000E": {"vr": "UI", "Value": [wanted.SeriesInstanceUID]}}
                status, kind, content = 200, "", json.dumps([found | {"00080060": {"vr": "CS", "Value": ["CT"]}}])
            elif path.endswith("/instances"):
                uids = [f"{ROOT}.1.1", f"{ROOT}.1.2", "../etc"]
                rows = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]
                status, kind, content = 200, "", json.dumps([*rows, 7, {"00080018": 5}])
            else:
                status, kind, answer = wado(path)
                content = answer.decode("latin-1")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode("latin-1"))

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def one_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("inlets") / "node")


@pytest.fixture
def bench(one_bench: Bench) -> Bench:
    """With an empty spool."""
    for path in segments(one_bench.settings.spool_dir):
        path.unlink()
    return one_bench


_FILE, _OTHER_STUDY = file_of(ct_slice()), file_of(ct_slice(study=2))


@pytest.mark.parametrize(
    ("status", "kind", "content", "problem"),
    [
        (200, TYPE, body(_FILE)[:-200], "GONE_AT_SOURCE"),
        (200, TYPE, b"", "GONE_AT_SOURCE"),
        (200, "multipart/related", body(_FILE), "GONE_AT_SOURCE"),
        (200, "text/html", b"<html>please log in</html>", "GONE_AT_SOURCE"),
        (200, TYPE, body(b"no image"), "NOT_DICOM"),
        (200, TYPE, body(_OTHER_STUDY), "WRONG_STUDY"),
        (200, TYPE, body(_FILE, _FILE), "GONE_AT_SOURCE"),
        (404, "", b"", "GONE_AT_SOURCE"),
        (500, "", b"", "GONE_AT_SOURCE"),
    ],
)
def test_what_an_archive_answers_is_looked_at(
    bench: Bench, status: int, kind: str, content: bytes, problem: str
) -> None:
    with archive(lambda _: (status, kind, content)) as url:
        source = Source(ae_title="PACS", dicomweb_url=url)
        settings = bench.settings.model_copy(update={"sources": {"pacs": source}})
        done = pull_study(settings, str(ct_slice().StudyInstanceUID), "pacs")
    assert done.images == 2
    assert done.fetched < 2
    assert any(line.startswith(problem) for line in done.problems)
    assert set(stored(settings)) <= {f"{ROOT}.1.1"}


@pytest.mark.parametrize("status", [302, 401, 503])
def test_an_archive_that_refuses_is_one_line(bench: Bench, status: int) -> None:
    with archive(lambda _: (status, "", b"")) as url:
        source = Source(ae_title="PACS", dicomweb_url=url)
        settings = bench.settings.model_copy(update={"sources": {"pacs": source}})
        if status == 302:  # it is there, but does not give this
            assert len(pull_study(settings, str(ct_slice().StudyInstanceUID), "pacs").problems) == 2
            return
        with pytest.raises(CommandError, match=f"HTTP {status}"):
            pull_study(settings, str(ct_slice().StudyInstanceUID), "pacs")
