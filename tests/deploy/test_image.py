"""The container image, really built and really run: a phantom in, SR and SEG out, the worker without any network."""

import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from containers import IMAGE, ORTHANC, ROOT, USER, Container, as_root, image_sh, require_engine
from peers import Orthanc, Postgres, Redis, storescu, until

from node.children import free_port

pytestmark = [pytest.mark.peers, pytest.mark.image, pytest.mark.timeout(2400)]

_WITHIN = """
import json, os, socket
def tried(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.errno
    return 0
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
    if os.path.exists(limit):
        memory = int(open(limit).read())
try:
    socket.create_connection(("127.0.0.1", PORT), 2).close()
    out = True
except OSError:
    out = False
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "root": tried("/x"), "code": tried("/opt/fvlm/x"), "tmp": tried("/tmp/x"),
    "data": tried("/data/x"), "capabilities": int(status["CapEff"], 16), "no_new_privs": int(status["NoNewPrivs"]),
    "interfaces": sorted(os.listdir("/sys/class/net")), "out": out, "memory": memory,
}))
"""
"""What a process in a container can do; `out`: whether it reaches a port of the machine."""
_EROFS = 30


@pytest.fixture(scope="module")
def image() -> dict[str, Any]:
    """The image's description."""
    require_engine()
    built = image_sh("build", "cpu")
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    (described,) = json.loads(image_sh("podman", "image", "inspect", IMAGE).stdout)
    assert isinstance(described, dict)
    return described


@pytest.fixture
def folder() -> Iterator[Path]:
    """Reachable by the users of database and containers."""
    made = Path(tempfile.mkdtemp(prefix="fvlm-image-"))
    made.chmod(0o755)
    yield made
    subprocess.run([*as_root(), "rm", "-rf", str(made)], check=True)


def test_the_image_says_who_it_runs_as_and_how_it_is_checked(image: dict[str, Any]) -> None:
    assert image["Config"]["User"] == f"{USER}:{USER}"
    assert image["Config"]["Entrypoint"] == ["fvlm-node"]
    assert image["Config"]["Volumes"] == {"/data": {}}
    assert image["Healthcheck"]["Test"] == ["CMD", "fvlm-node", "health"]
    assert not any("PASSWORD" in name or "CERT" in name for name in image["Config"]["Env"])


def test_a_phantom_goes_in_and_comes_back_as_sr_and_seg(image: dict[str, Any], folder: Path) -> None:  # noqa: ARG001
    data, phantom, config = folder / "data", folder / "phantom", folder / "node.yaml"
    port = free_port()
    with ExitStack() as running:
        orthanc = running.enter_context(Orthanc(folder / "orthanc"))
        postgres = running.enter_context(Postgres(folder / "postgres"))
        redis = Redis(folder / "redis")
        redis.command += ["--unixsocket", str(folder / "redis" / "sock"), "--unixsocketperm", "777"]
        running.enter_context(redis)
        settings = {
            "dicom": {"port": port, "accept_from": ["STORESCU"], "min_free_mb": 64},
            "database_url": f"postgresql+psycopg://node@/postgres?host={folder}/postgres&port={postgres.port}",
            "broker_url": f"redis+socket://{folder}/redis/sock",
            "routing": {"destinations": ["pacs"]},
            "destinations": {
                "pacs": {"ae_title": orthanc.ae_title, "host": "127.0.0.1", "port": orthanc.port, "commitment": False}
            },
            "work": {"reconcile_s": 0.5},
            "console": {"enabled": False},
        }
        config.write_text(yaml.safe_dump(settings))
        for made in (data, phantom):
            made.mkdir()
            subprocess.run([*as_root(), "chown", f"{USER}:{USER}", str(made)], check=True)

        def part(role: str, network: str, memory: str) -> Container:
            binds = (f"--volume={data}:/data", f"--volume={folder}/postgres:{folder}/postgres")
            binds += (f"--volume={folder}/redis:{folder}/redis", f"--volume={config}:/node.yaml:ro")
            check = f"fvlm-node health {role} --config /node.yaml"
            options = (*binds, f"--memory={memory}", f"--hostname={role}", f"--health-cmd={check}")
            command = ("serve", "--config", "/node.yaml", "--only", role)
            return running.enter_context(Container(role, *command, options=options, network=network))

        limits = ("--memory=2g", f"--volume={phantom}:/out")
        maker = Container("phantom", "phantom", "--seed", "23", "--out", "/out/made", options=limits, network="none")
        running.enter_context(maker)
        parts = {role: part(role, "host", "512m") for role in ("receiver", "reconciler", "deliver")}
        parts["analyze"] = part("analyze", "none", "4g")
        for container in parts.values():
            container.wait_until_healthy()

        assert _within(parts["receiver"], orthanc.port) == _EXPECTED | {"out": True, "memory": 2**29}
        apart = {"out": False, "interfaces": ["lo"], "memory": 4 * 2**30}
        assert _within(parts["analyze"], orthanc.port) == _EXPECTED | apart

        assert image_sh("podman", "wait", maker.name).stdout.strip() == "0", maker.logs()
        subprocess.run([*as_root(), "chmod", "-R", "a+rX", str(phantom)], check=True)
        storescu(phantom / "made" / "dicom", port, "FVLM")
        until(lambda: _modalities(orthanc) >= {"SR", "SEG"}, 600, "SR and SEG in the archive")
        assert [container.stop() for container in parts.values()] == [0] * 4
        assert "Traceback" not in "".join(container.logs() for container in parts.values())


@pytest.mark.skipif(not (ROOT / "node" / "orthanc_plugin.py").exists(), reason="the plugin is not there yet")
def test_the_orthanc_of_the_compose_file_runs_with_the_plugin(image: dict[str, Any], folder: Path) -> None:  # noqa: ARG001
    built = image_sh("build", "orthanc")
    assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]
    settings = json.loads((ROOT / "deploy" / "compose" / "orthanc.json").read_text())
    settings |= {"HttpPort": free_port(), "DicomPort": free_port(), "RemoteAccessAllowed": False}
    for name, content in (("orthanc.json", json.dumps(settings)), ("token", "of-the-test")):
        (folder / name).write_text(content)
    binds = (
        f"--volume={folder}/orthanc.json:/run/orthanc.json:ro",
        f"--volume={folder}/token:/run/secrets/orthanc_token",
    )
    check = f"curl --fail --silent http://127.0.0.1:{settings['HttpPort']}/fvlm/status"
    options = (*binds, "--memory=1g", f"--health-cmd={check}")
    with Container("orthanc", "/run/orthanc.json", options=options, image=ORTHANC) as running:
        running.wait_until_healthy()
        assert running.exec("id", "-un").stdout == "orthanc\n"
        assert running.stop() == 0


_EXPECTED = {
    "uid": USER, "gid": USER, "root": _EROFS, "code": _EROFS, "tmp": 0, "data": 0, "capabilities": 0, "no_new_privs": 1,
}  # fmt: skip


def _within(container: Container, port: int) -> dict[str, Any]:
    """What is possible there; interfaces only where there is no network."""
    told = container.exec("python3", "-c", _WITHIN.replace("PORT", str(port)))
    found: dict[str, Any] = json.loads(told.stdout)
    return found if found["interfaces"] == ["lo"] else {name: found[name] for name in found if name != "interfaces"}


def _modalities(orthanc: Orthanc) -> set[str]:
    with urllib.request.urlopen(f"{orthanc.url}/series?expand", timeout=30) as answer:
        return {series["MainDicomTags"]["Modality"] for series in json.load(answer)}
