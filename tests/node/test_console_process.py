"""The console as the real process: without torch, patient about its port, and as a real browser shows it."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from console_bench import PASSWORD, console_settings
from httpx2 import Client, ConnectError
from PIL import Image
from rows import add_job, add_results, open_records
from running import Processes, wait_for

from config import Reason, Settings
from node.children import free_port
from node.console.password import USER
from node.database import Records
from node.records import Job
from node.states import State
from node.status import console_line

CHROMIUM = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--hide-scrollbars")  # fmt: skip
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def answers(url: str) -> bool:
    try:
        return Client().get(f"{url}/healthz").status_code == 200
    except ConnectError:
        return False


@contextmanager
def console(settings: Settings) -> Iterator[tuple[Processes, "subprocess.Popen[bytes]", str]]:
    with Processes(settings) as processes:
        process = processes.role("console")
        yield processes, process, f"http://127.0.0.1:{settings.console.port}"


def fill(records: Records, settings: Settings) -> None:
    """One series that was delivered, one that failed, with values that a browser must not run."""
    add_results(records, settings, add_job(records, "2.25.1", State.ENCODED))
    failed = add_job(records, "2.25.2", State.FAILED)
    with records.session() as session:
        job = session.get_one(Job, failed)
        job.reason, job.detail = Reason.UNDECODABLE, "<script>document.title='run'</script>"
        job.series.source_ae = "<img src=x>"


def test_it_serves_without_torch_and_ends_at_once(tmp_path: Path) -> None:
    settings = console_settings(tmp_path, ("pacs", 11112), port=free_port())
    fill(open_records(settings), settings)
    with console(settings) as (processes, process, url):
        wait_for(lambda: answers(url), "the console")
        assert console_line(settings) == [f"Console: {url}/"]
        with Client(auth=(USER, PASSWORD)) as client:
            for path in ("/", "/series/1", "/deliveries", "/api/overview", "/api/openapi.json", "/metrics"):
                assert client.get(url + path).status_code == 200
        mapped = Path(f"/proc/{process.pid}/maps").read_text()
        assert "libtorch" not in mapped
        assert "pydantic_core" in mapped, "the list of mapped files is not what it is taken for"
        process.terminate()
        assert process.wait(30) == 0
        assert "Traceback" not in processes.log.read_text()
        assert PASSWORD not in processes.log.read_text()
    assert console_line(settings) == ["Console: not running"]


def test_nothing_of_torch_is_imported() -> None:
    code = (
        "import sys, node.worker, node.console.server, node.metrics\n"
        "heavy = {'torch', 'monai', 'transformers', 'highdicom', 'pynetdicom', 'scipy'} & sys.modules.keys()\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_a_taken_port_is_told_once_and_tried_again(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = console_settings(tmp_path, port=taken.getsockname()[1])
        open_records(settings)
        processes = Processes(settings)
        with processes:
            process = processes.role("console")
            wait_for(lambda: "cannot listen" in "".join(console_line(settings)), "the cause in status")
            (line,) = console_line(settings)
            assert "set another console.port" in line
            assert process.poll() is None
            taken.close()
            wait_for(lambda: answers(f"http://127.0.0.1:{settings.console.port}"), "the console")
            events = [json.loads(text)["event"] for text in processes.log.read_text().splitlines()]
            assert events == ["console_cannot_listen", "console_listening"]


@pytest.mark.peers
def test_a_real_browser_shows_it_and_runs_no_value(tmp_path: Path) -> None:
    settings = console_settings(tmp_path, ("pacs", 11112), port=free_port(), refresh_s=1, operators=(USER,))
    fill(open_records(settings), settings)
    with console(settings) as (_, _process, url):
        wait_for(lambda: answers(url), "the console")
        authorised = url.replace("//", f"//{USER}:{PASSWORD.replace(' ', '%20')}@")
        for page, number in (("/", 1), ("/series/2", 2)):
            picture = tmp_path / f"{number}.png"
            _chromium(
                tmp_path / f"profile-{number}", f"--screenshot={picture}", "--window-size=1280,900", authorised + page
            )
            with Image.open(picture) as image:
                assert image.size == (1280, 900)
                colors = image.convert("RGB").getcolors(1 << 24)
            assert colors is not None
            dark = sum(count for count, color in colors if sum(color) < 300)
            assert dark > 40_000, "the style sheet is missing: no dark header"
        page = _chromium(tmp_path / "profile-3", "--dump-dom", "--virtual-time-budget=4000", f"{authorised}/series/2")
        assert "<title>Series 2" in page
        assert "&lt;script&gt;document.title" in page
        assert "<img" not in page
        assert 'class="live"' in page, "the page did not refresh itself"
        editor = _chromium(
            tmp_path / "profile-3", "--dump-dom", "--virtual-time-budget=4000", f"{authorised}/rules/edit"
        )
        assert "  - name: everything" in editor
        assert 'class="live"' not in editor, "what somebody writes would be taken away"


def _chromium(profile: Path, *arguments: str) -> str:
    program = shutil.which("chromium")
    assert program, "apt-get install chromium (deploy/debian-test-packages.txt)"
    command = [program, *CHROMIUM, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
