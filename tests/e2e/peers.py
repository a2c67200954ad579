"""Real peers for the end-to-end tests: the node, Orthanc, Redis, PostgreSQL, dcmtk. Each on free loopback ports."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import yaml

from node.children import free_port, listens

MakeSeries = Callable[..., Path]
"""The fixture `make_series`."""
NO_NAGLE = {"TCP_NODELAY": "1"}
"""dcmtk and Orthanc lose 50 ms an image without it."""
_DICOMWEB = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


def until(condition: Callable[[], Any], seconds: float, what: str, log: Path | None = None) -> Any:
    """Wait for a true value and return it; fails with the end of the log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-3000:] if log is not None and log.is_file() else ""
    raise AssertionError(f"not within {seconds:.0f} s: {what}\n{tail}")


class Process:
    """A server; a context manager that ends it by its process id."""

    def __init__(
        self, command: list[str], log: Path, environment: dict[str, str] | None = None, user: str | None = None
    ) -> None:
        """`user`: who it runs as; None: whoever this is."""
        self.command, self.log, self.environment, self.user = command, log, environment or {}, user
        self.process: subprocess.Popen[bytes] | None = None

    def ready(self) -> bool:
        """Whether it can be used."""
        raise NotImplementedError

    def start(self, seconds: float = 120) -> Self:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment,
                user=self.user,
            )
        process = self.process
        until(lambda: process.poll() is not None or self.ready(), seconds, f"{self.command[0]} ready", self.log)
        assert process.poll() is None, self.log.read_text(errors="replace")[-3000:]
        return self

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """The exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Orthanc(Process):
    """Orthanc with the DICOMweb plug-in and an empty storage."""

    ae_title = "ORTHANC"

    def __init__(
        self, folder: Path, knows: dict[str, tuple[str, int]] | None = None, plugins: tuple[str, ...] = ()
    ) -> None:
        """`knows`: AE titles that it may open associations to, with address and port; `plugins`: libraries."""
        self.port, self.http_port, self.knows = free_port(), free_port(), knows or {}
        folder.mkdir()
        config = folder / "orthanc.json"
        config.write_text(
            json.dumps(
                {
                    "Plugins": [_DICOMWEB, *plugins],
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "index"),
                    "HttpPort": self.http_port,
                    "DicomPort": self.port,
                    "DicomAet": self.ae_title,
                    "DicomCheckCalledAet": True,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "OverwriteInstances": True,
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                    "DicomModalities": {title: [title, *where] for title, where in self.knows.items()},
                }
            )
        )
        super().__init__(["Orthanc", str(config)], folder / "orthanc.log", NO_NAGLE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> str:
        """URL of the DICOMweb service."""
        return f"{self.url}/dicom-web"

    def series_of(self, modality: str) -> str:
        """Orthanc's own name of the first series of a modality."""
        query = json.dumps({"Level": "Series", "Query": {"Modality": modality}}).encode()
        with urllib.request.urlopen(f"{self.url}/tools/find", query, timeout=60) as answer:
            return str(json.load(answer)[0])

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/system", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


class Redis(Process):
    """A Redis that keeps nothing."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        folder.mkdir()
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        super().__init__([*command, "--save", "", "--appendonly", "no"], folder / "redis.log")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def ready(self) -> bool:
        return listens(self.port)


class _Epmd(Process):
    """Erlang's port mapper, which RabbitMQ would otherwise leave behind as a daemon."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self.port = free_port()
        command = ["epmd", "-port", str(self.port), "-address", "127.0.0.1"]
        super().__init__(command, folder / "epmd.log", user=user)

    def ready(self) -> bool:
        return listens(self.port)


class RabbitMQ(Process):
    """A RabbitMQ of its own, never as root; takes about ten seconds to start."""

    program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    """Not the one on the PATH, which changes the user and lives in /var."""

    def __init__(self, folder: Path) -> None:
        """`folder` must be new; the user `rabbitmq` has to reach it if this is root."""
        self.port = free_port()
        user = "rabbitmq" if os.getuid() == 0 else None
        folder.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(folder, user, user)
        self._epmd = _Epmd(folder, user)
        environment = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}",
            "RUNNING_UNDER_SYSTEMD": "1",  # the server takes this very process, so that it can be ended by its id
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._epmd.port),
        }
        super().__init__([str(self.program)], folder / "rabbitmq.log", environment, user)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def ready(self) -> bool:
        return listens(self.port)

    def __enter__(self) -> Self:
        self._epmd.start()
        try:
            return self.start()
        except BaseException:
            self._epmd.stop()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._epmd.stop()


class Postgres(Process):
    """A PostgreSQL cluster of its own, which may be stopped and started again. The server refuses to run as root."""

    def __init__(self, folder: Path) -> None:
        """`folder` must be new; the user `postgres` has to reach it if this is root."""
        self.port = free_port()
        self._user = "postgres" if os.getuid() == 0 else None
        folder.mkdir()
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._data = folder / "data"
        initdb = self.programs()[-1]
        make = [str(initdb), "-D", str(self._data), "-U", "node", "--auth=trust", "--no-sync"]
        subprocess.run(make, user=self._user, cwd=folder, check=True, capture_output=True, timeout=120)
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), "fsync": "off"}
        command = [str(initdb.with_name("postgres")), "-D", str(self._data), "-p", str(self.port)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        super().__init__(command, folder.with_suffix(".log"), user=self._user)

    @staticmethod
    def programs() -> list[Path]:
        """`initdb` of every version that is installed, the newest last."""
        return sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))

    @property
    def url(self) -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://node@127.0.0.1:{self.port}/postgres"

    def ready(self) -> bool:
        return listens(self.port) and "ready to accept connections" in self.log.read_text(errors="replace")

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGINT)  # fast: clients are cut off


class Node(Process):
    """`fvlm-node serve` with a short quiet time."""

    def __init__(self, folder: Path, destinations: dict[str, Any], port: int | None = None, **settings: Any) -> None:
        self.port = port or free_port()
        self.data = folder / "data"
        folder.mkdir()
        config = folder / "node.yaml"
        config.write_text(
            yaml.safe_dump(
                {
                    "data_dir": str(self.data),
                    "dicom": {"port": self.port, "accept_from": ["STORESCU", Orthanc.ae_title], "min_free_mb": 64},
                    "completion": {"quiet_s": 1.0},
                    "routing": {"destinations": list(destinations)},
                    "destinations": destinations,
                    "work": {"reconcile_s": 0.5},
                    "delivery": {"retry_first_s": 0.5},
                    "console": {"port": 0},
                }
                | settings
            )
        )
        self.config = config
        command = [sys.executable, "-m", "node", "serve", "--config", str(config)]
        super().__init__(command, folder / "node.log")

    def ready(self) -> bool:
        return listens(self.port)


def storescu(folder: Path, port: int, called: str, calling: str = "STORESCU") -> None:
    """Send a folder with dcmtk."""
    subprocess.run(
        ["storescu", "-aet", calling, "-aec", called, "+sd", "+r", "127.0.0.1", str(port), str(folder)],
        env=os.environ | NO_NAGLE,
        check=True,
        timeout=120,
        capture_output=True,
    )


def fvlm_node(*arguments: str | Path, seconds: float = 400) -> subprocess.CompletedProcess[str]:
    """Run a command of ours as a process of its own."""
    command = [sys.executable, "-m", "node", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
