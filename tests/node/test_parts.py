"""The parts of a node: what may stand beside what, what cannot run apart, and what a health check finds."""

import os
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from config import Settings
from config.settings import ConsoleSettings
from node.children import free_port
from node.console.notice import Notice
from node.errors import CommandError
from node.health import ailing
from node.node_lock import locked, node_runs, receiving_settings, running_ports, settings_file
from node.presence import Presence
from node.roles import worker_name
from node.serve import serve
from node.worker import write_settings

REDIS = "redis://127.0.0.1:1/0"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "run").mkdir()
    return Settings(data_dir=tmp_path, broker_url=REDIS)


def test_parts_stand_beside_each_other_once_each_and_never_beside_a_whole_node(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert not node_runs(tmp_path)
    with locked(tmp_path, "receiver") as receiver, locked(tmp_path, "reconciler") as reconciler:
        assert receiver
        assert reconciler
        assert node_runs(tmp_path)
        with locked(tmp_path, "receiver") as again, locked(tmp_path) as whole:
            assert not again
            assert not whole
    with locked(tmp_path) as whole, locked(tmp_path, "receiver") as beside:
        assert whole
        assert not beside
    assert not node_runs(tmp_path)


@pytest.mark.parametrize(
    ("only", "name", "change", "cure"),
    [
        ("", "2", {}, "--only analyze"),
        ("scanner", "", {}, "receiver"),
        ("analyze", "", {"broker_url": ""}, "broker_url"),
        ("receiver", "2", {}, "Leave --name away"),
        ("analyze", "a/b", {}, "--name 2"),
        ("analyze", "much-too-long", {}, "--name 2"),
        ("console", "", {"console": ConsoleSettings(enabled=False)}, "console.enabled"),
    ],
)
def test_what_cannot_run_apart_is_told_with_its_cure(
    settings: Settings, only: str, name: str, change: dict[str, object], cure: str
) -> None:
    with pytest.raises(CommandError) as error:
        serve(settings.model_copy(update=change), None, only, name)
    assert cure in str(error.value)


def test_health_tells_what_does_not_live_listen_or_work(settings: Settings) -> None:
    folder = settings.data_dir
    of = {role: Presence.of(folder, worker_name(role, folder)) for role in ("receiver", "analyze", "reconciler")}
    assert ailing(settings, "analyze") == ["analyze: does not run on this machine"]
    with of["analyze"].held(), of["receiver"].held(), of["reconciler"].held():
        assert ailing(settings, "analyze") == ["analyze: has started and is not ready for work yet"]
        of["analyze"].ready()
        assert ailing(settings, "analyze") == []
        assert ailing(settings, "analyze", "2") == ["analyze: does not run on this machine"]
        of["reconciler"].ready()
        assert ailing(settings, "reconciler") == []
        hour_ago = time.time() - 3600
        os.utime(of["reconciler"].notice.path, (hour_ago, hour_ago))
        assert "has done nothing for 36" in ailing(settings, "reconciler")[0]
        assert ailing(settings, "receiver") == ["receiver: its port is not known"]
        port = free_port()
        dicom = settings.dicom.model_copy(update={"port": port})
        write_settings(settings.model_copy(update={"dicom": dicom}), settings_file(folder, "receiver"))
        assert ailing(settings, "receiver") == [f"receiver: does not listen on 127.0.0.1:{port}"]
        assert receiving_settings(folder) == settings_file(folder, "receiver")
        with locked(folder, "receiver"):
            assert port in running_ports(folder)
    assert ailing(settings, "analyze") == ["analyze: does not run on this machine"]
    with pytest.raises(CommandError):
        ailing(settings, "scanner")


class _Sick(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(500)

    def log_message(self, *_: object) -> None:
        pass


def test_health_asks_the_console(settings: Settings) -> None:
    folder = settings.data_dir
    with Presence.of(folder, worker_name("console", folder)).held(), Notice.of(folder).held() as notice:
        notice.write("cannot listen on 127.0.0.1:1: taken")
        assert ailing(settings, "console") == ["console: cannot listen on 127.0.0.1:1: taken"]
        with HTTPServer(("127.0.0.1", 0), _Sick) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            notice.write(f"http://127.0.0.1:{server.server_port}/")
            (found,) = ailing(settings, "console")
            assert "healthz" in found
            server.shutdown()
