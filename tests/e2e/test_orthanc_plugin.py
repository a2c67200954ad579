"""The real plugin in a real Orthanc: series go to the node, results come back; users see how it stands, and ask."""

import ast
import json
import os
import shutil
import socket
import sqlite3
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from peers import until
from playwright.sync_api import sync_playwright
from test_orthanc_follow import QuickOrthanc, a_series

sys.path.append(str(Path(__file__).parents[1] / "chaos"))
from house import ChaosNode

from node.children import free_port

PLUGIN = Path(__file__).parents[2] / "node" / "orthanc_plugin.py"
TOKEN = "a-token-of-the-tests"
SCREENSHOT = os.environ.get("FVLM_ORTHANC_SCREENSHOT")
"""Where the picture of docs/operations/orthanc.md goes; unset: nowhere."""
pytestmark = [
    pytest.mark.peers,
    pytest.mark.timeout(300),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


class PluginOrthanc(QuickOrthanc):
    """Orthanc with the plugin, which knows a node at a port."""

    def __init__(self, folder: Path, node_port: int, token_file: Path) -> None:
        super().__init__(folder)
        file = folder / "orthanc.json"
        config = json.loads(file.read_text())
        config["Plugins"].append("/usr/share/orthanc/plugins/libOrthancPython.so")
        config["PythonScript"] = str(PLUGIN)
        config["FvlmNode"] = {
            "Url": f"http://127.0.0.1:{node_port}", "Source": "main", "Token": f"file:{token_file}"
        }  # fmt: skip
        file.write_text(json.dumps(config))

    def state(self, name: str) -> dict[str, Any]:
        """What users are told of a series."""
        answer: dict[str, Any] = self.rest(f"/fvlm/series/{name}")
        return answer

    def read(self, name: str, **headers: str) -> int:
        """Ask for a series; the status."""
        request = urllib.request.Request(f"{self.url}/fvlm/series/{name}/read", b"", headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


def test_a_series_comes_back_as_results_and_the_explorer_shows_it(tmp_path: Path, token_file: Path) -> None:
    web_port = free_port()
    before, slices = a_series(), a_series()
    with PluginOrthanc(tmp_path / "orthanc", web_port, token_file) as orthanc:
        orthanc.take(*before)
        orthanc.wait_until_stable(before[0])
        destination = {
            "ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port, "commitment": False
        }  # fmt: skip
        source = {"url": orthanc.url, "poll_s": 3600.0, "plugin_token": f"file:{token_file}"}
        node = ChaosNode(
            tmp_path / "node",
            {"orthanc": destination},
            orthancs={"main": source},
            web={"enabled": True, "port": web_port},
        )
        with node:
            until(lambda: node.events("inlets_ready"), 60, "the ways in", node.log)
            until(lambda: "cursor" in _cursor(node), 60, "the first contact", node.log)
            orthanc.take(*slices)
            orthanc.wait_until_stable(slices[0])  # only the plugin's nudge makes the node look before an hour is over
            name = orthanc.name_of(slices[0])
            state = until(lambda: (s := orthanc.state(name))["state"] == "SENT" and s, 120, "results", node.log)
            study = orthanc.rest(f"/series/{name}/study")
            kinds = {orthanc.rest(f"/series/{one}")["MainDicomTags"]["Modality"] for one in study["Series"]}
            assert {"CT", "SR", "SEG"} <= kinds
            result = next(one for one in study["Series"] if one != name)
            assert orthanc.read(result, **{"X-Fvlm-Node": "read"}) == 409  # no CT
            assert orthanc.read(name) == 403  # any page could have sent that
            assert orthanc.read("0" * 8 + "-00000000" * 4, **{"X-Fvlm-Node": "read"}) == 404
            assert state["console"].startswith("http://127.0.0.1:")
            old = orthanc.name_of(before[0])
            _see_in_the_explorer(orthanc, old)
            until(lambda: orthanc.state(old)["state"] == "SENT", 120, "the old series is read", node.log)
            assert orthanc.rest("/fvlm/status")["node"] is True
            assert node.stop() == 0
        away = until(lambda: (s := orthanc.state(old))["state"] == "NODE_AWAY" and s, 60, "told as away", orthanc.log)
        assert away["detail"]


def _cursor(node: ChaosNode) -> str:
    """What the node has written down of its Orthancs."""
    with sqlite3.connect(node.data / "node.sqlite") as database:
        return " ".join(f"cursor {row}" for row in database.execute("select * from orthanc_cursor"))


def _see_in_the_explorer(orthanc: PluginOrthanc, name: str) -> None:
    """Press the button of a series that was never read, and wait until its results are there."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-background-networking", "--no-first-run", "--disable-component-update"],
        )
        page = browser.new_page(viewport={"width": 1100, "height": 620})
        page.set_default_timeout(60_000)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{orthanc.url}/app/explorer.html#series?uuid={name}")
        state = page.locator("#fvlm-node [data-fvlm=state]")
        page.get_by_text("fVLM: not read").wait_for()
        page.locator("#fvlm-node").get_by_text("Read with fVLM").click()
        page.get_by_text("fVLM: SENT").wait_for()
        link = page.locator("#fvlm-node [data-fvlm=console]")
        assert link.is_visible()
        assert "/series/" in (link.get_attribute("href") or "")
        assert state.count() == 1
        if SCREENSHOT:
            page.screenshot(path=SCREENSHOT)
        assert errors == []
        browser.close()


@pytest.fixture
def silent_node() -> Iterator[socket.socket]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_a_node_that_hangs_holds_nothing_up(tmp_path: Path, token_file: Path, silent_node: socket.socket) -> None:
    slices = a_series(3)
    with PluginOrthanc(tmp_path / "orthanc", silent_node.getsockname()[1], token_file) as orthanc:
        held, _ = silent_node.accept()  # the plugin's first words, which stay without an answer
        with held:
            held.recv(1)
            orthanc.take(*slices)
            orthanc.wait_until_stable(slices[0])
            name = orthanc.name_of(slices[0])
            assert orthanc.state(name)["state"] == "ASKING"
            codes = [orthanc.read(name, **{"X-Fvlm-Node": "read"}) for _ in range(270)]
            status = orthanc.rest("/fvlm/status")
            assert (codes[0], codes[-1]) == (200, 503)
            assert status["waiting"] == status["queue"]
            assert TOKEN not in orthanc.log.read_text()


def test_the_token_goes_to_the_node_and_nowhere_else(tmp_path: Path, token_file: Path) -> None:
    """A node that redirects is not followed."""
    with socket.create_server(("127.0.0.1", 0)) as node, socket.create_server(("127.0.0.1", 0)) as elsewhere:
        said: list[bytes] = []

        def answer() -> None:
            connection, _ = node.accept()
            with connection:
                said.append(connection.recv(65536))
                where = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
                connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        with PluginOrthanc(tmp_path / "orthanc", node.getsockname()[1], token_file) as orthanc:
            thread.join(30)
            until(lambda: "answers HTTP 302" in orthanc.log.read_text(), 30, "the refusal", orthanc.log)
            elsewhere.settimeout(0)
            with pytest.raises(BlockingIOError):
                elsewhere.accept()
        assert f"Authorization: Bearer {TOKEN}".encode() in said[0]


def test_the_plugin_is_small_and_alone() -> None:
    source = PLUGIN.read_text()
    modules = set()
    for part in ast.walk(ast.parse(source)):
        if isinstance(part, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            modules.add((part.module or "").split(".")[0])
    assert modules - {"orthanc"} <= sys.stdlib_module_names
    assert len(source.splitlines()) < 250


def test_nothing_beside_the_plugin_hides_a_module_of_python() -> None:
    """Orthanc puts the script's folder first on Python's path."""
    beside = {path.stem for path in PLUGIN.parent.iterdir()}
    assert beside & ({*sys.stdlib_module_names} | {"orthanc"}) == set()
