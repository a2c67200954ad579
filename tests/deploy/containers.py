"""Images and containers without a Docker engine: what `deploy/image.sh` builds, and podman runs."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMAGE = "localhost/fvlm-node:cpu"
ORTHANC = "localhost/fvlm-node:orthanc"
USER = 10001
"""Who the node's processes are in a container."""
_PACKAGES = "buildah podman runc mmdebstrap netavark uidmap"
_HARDENED = (
    "--pull=never", "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp:size=1g", "--cap-drop=all",
    "--security-opt=no-new-privileges", "--pids-limit=256",
)  # fmt: skip


def as_root() -> list[str]:
    """What to put before a command that only root may do."""
    return [] if os.getuid() == 0 else ["sudo", "-n"]


def image_sh(*arguments: str, seconds: float = 1200) -> subprocess.CompletedProcess[str]:
    """`deploy/image.sh`, with buildah also where there is a Docker engine."""
    return subprocess.run(
        [str(ROOT / "deploy" / "image.sh"), *arguments], env=os.environ | {"ENGINE": "buildah"}, capture_output=True,
        text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def require_engine() -> None:
    """Skip, with the reason, where this machine can run no container at all or has no way to packages."""
    missing = [name for name in ("buildah", "podman", "runc", "mmdebstrap") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install {_PACKAGES}")
    if as_root() and subprocess.run([*as_root(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("images are built by root, and sudo asks for a password")
    base = image_sh("base")
    if base.returncode:
        pytest.skip(f"no base image can be made here: {base.stderr[-600:]}")
    limits = ("--rm", "--network=none", "--memory=64m", *_HARDENED)
    tried = image_sh("podman", "run", *limits, "docker.io/library/debian:bookworm-slim", "true")
    if tried.returncode:
        pytest.skip(f"no container can be run here: {tried.stderr[-600:]}")
    wheels = image_sh("wheels", "cpu")
    assert "DO NOT MATCH THE HASHES" not in wheels.stderr, wheels.stderr
    if wheels.returncode:
        pytest.skip(f"the packages cannot be fetched: {wheels.stderr[-600:]}")


class Container:
    """A running container of the image; a context manager that ends and removes it."""

    def __init__(
        self, name: str, *command: str, options: tuple[str, ...] = (), network: str = "host", image: str = IMAGE
    ) -> None:
        self.image = image
        self.name = f"fvlm-test-{os.getpid()}-{name}"
        self._options = ("--detach", f"--name={self.name}", f"--network={network}", *_HARDENED, *options)
        self._command = command

    def __enter__(self) -> "Container":
        started = image_sh("podman", "run", *self._options, self.image, *self._command)
        assert started.returncode == 0, started.stderr
        return self

    def __exit__(self, *_: object) -> None:
        image_sh("podman", "rm", "--force", "--time=5", self.name)

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command within it."""
        return image_sh("podman", "exec", self.name, *command)

    def logs(self) -> str:
        """What it wrote."""
        told = image_sh("podman", "logs", self.name)
        return told.stdout + told.stderr

    def wait_until_healthy(self, seconds: float = 300) -> None:
        """Call its health check until it is well: without systemd nobody else does."""
        deadline = time.monotonic() + seconds
        while (checked := image_sh("podman", "healthcheck", "run", self.name)).returncode:
            assert time.monotonic() < deadline, f"{self.name}: {checked.stdout}{checked.stderr}\n{self.logs()[-3000:]}"
            time.sleep(0.5)

    def stop(self) -> int:
        """End it as `docker stop` does; the exit status."""
        image_sh("podman", "stop", "--time=30", self.name)
        told = image_sh("podman", "inspect", "--format={{.State.ExitCode}}", self.name)
        return int(told.stdout)
