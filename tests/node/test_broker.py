"""The embedded broker: private, empty-handed, and gone with its owner."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from config import Settings
from node.broker import BrokerError, EmbeddedBroker, broker_folder, broker_url


def _wait_gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_answers_on_a_private_socket_and_listens_on_no_port(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    broker.start()
    try:
        client = redis.Redis(unix_socket_path=str(broker.socket))
        assert client.ping()
        assert client.info("server")["tcp_port"] == 0
        assert client.config_get("save")["save"] == ""
        assert stat.S_IMODE(broker.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(broker.socket.stat().st_mode) == 0o700
    finally:
        broker.stop()
    assert not broker.answers()


def test_starts_again_on_the_socket_of_a_killed_one(tmp_path: Path) -> None:
    first = EmbeddedBroker(tmp_path)
    first.start()
    assert first.process is not None
    first.process.kill()
    first.process.wait()
    second = EmbeddedBroker(tmp_path)
    second.start()
    assert second.answers()
    second.stop()


def test_a_second_one_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path)
    broker.start()
    try:
        with pytest.raises(BrokerError, match="already"):
            EmbeddedBroker(tmp_path).start()
        assert broker.answers()
    finally:
        broker.stop()


def test_long_data_folders_get_a_short_private_socket(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 30)
    broker = EmbeddedBroker(deep)
    assert len(os.fsencode(broker.socket)) <= 100
    assert broker_folder(deep) == broker.folder != broker_folder(tmp_path / ("lang" * 30))
    broker.start()
    try:
        assert broker.answers()
    finally:
        broker.stop()
        for left in broker.folder.iterdir():
            left.unlink()
        broker.folder.rmdir()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "broker").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BrokerError, match="somebody else"):
        EmbeddedBroker(tmp_path).start()


def test_url_of_the_settings_wins(tmp_path: Path) -> None:
    assert broker_url(Settings(data_dir=tmp_path, broker_url="redis://h:1/0")) == "redis://h:1/0"
    assert broker_url(Settings(data_dir=tmp_path)).startswith("redis+socket:///")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux")
def test_dies_when_its_owner_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from node.broker import EmbeddedBroker\n"
        "b = EmbeddedBroker(Path(sys.argv[1])); b.start(); sys.stdout.write(f'{b.process.pid}\\n')\n"
        "sys.stdout.flush(); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    broker = int(owner.stdout.readline())
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert _wait_gone(broker)
