"""What lies in deploy/: linted, verified, and in line with the node that it starts."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from config import Settings
from node.roles import MANY, ROLES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
_PINNED = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+) \\$", re.MULTILINE)


OPTIONAL = ("inlets", "messenger", "shadow")
"""Roles that only some settings want, or only at times: there, and not started by themselves."""


def _run(*command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)  # type: ignore[call-overload,no-any-return]


def _compose() -> dict[str, dict[str, dict[str, object]]]:
    found = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(found, dict)
    return found


def _linter() -> Path:
    """dclint, fetched by npm as the OHIF viewer is; it holds the schema of compose files."""
    if shutil.which("npm") is None:
        pytest.skip("no npm: apt-get install npm")
    folder = ROOT / ".test-data" / "dclint-3.1.0"
    program = folder / "node_modules" / ".bin" / "dclint"
    if not program.exists():
        fetched = _run("npm", "install", "--no-audit", "--no-fund", "--prefix", folder, "dclint@3.1.0")
        if fetched.returncode:
            pytest.skip(f"dclint cannot be fetched: {fetched.stderr[-300:]}")
    return program


def test_the_dockerfile_has_no_warning() -> None:
    done = _run(Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_fits_the_schema_and_a_misspelt_key_does_not(tmp_path: Path) -> None:
    rules = DEPLOY / "dclintrc.yaml"
    done = _run(_linter(), "--config", rules, DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "compose.yaml"
    bad.write_text((DEPLOY / "compose.yaml").read_text().replace("hostname:", "hostnam:", 1))
    assert "invalid-schema" in _run(_linter(), "--config", rules, bad).stdout


def test_every_container_is_hardened_and_bounded() -> None:
    compose = _compose()
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert "healthcheck" in service, name
        assert service["restart"] == ("no" if name == "phantom" else "unless-stopped"), name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", [])), name  # type: ignore[attr-defined]
        assert not [key for key in service.get("environment", {}) if key.endswith("PASSWORD")], name  # type: ignore[attr-defined]
    assert compose["services"]["analyze"]["networks"] == ["work"]
    assert compose["networks"]["work"] == {"internal": True}


def test_the_compose_file_starts_every_role() -> None:
    services = _compose()["services"]
    for role in ROLES:
        assert services[role]["command"] == ["serve", "--config", "/etc/fvlm-node.yaml", "--only", role]
        check = services[role]["healthcheck"]["test"]  # type: ignore[index]
        assert check == ["CMD", "fvlm-node", "health", role, "--config", "/etc/fvlm-node.yaml"]
        assert services[role].get("profiles") == ([role] if role in OPTIONAL else None)


def test_its_settings_are_settings_and_passwords_come_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deploy").mkdir()
    shutil.copy(DEPLOY / "secrets.sh", tmp_path / "deploy")
    made = [_run(tmp_path / "deploy" / "secrets.sh") for _ in range(2)]
    assert [one.returncode for one in made] == [0, 0], made[0].stderr
    secrets = tmp_path / "deploy" / "secrets"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    named = {Path(str(secret["file"])).name for secret in _compose()["secrets"].values()}
    assert {file.name for file in secrets.iterdir()} == named
    monkeypatch.setenv("FVLM_SECRETS_DIR", str(secrets))
    monkeypatch.setenv("FVLM_DATA_DIR", "/data")
    settings = Settings.load(DEPLOY / "compose" / "node.yaml")
    password = (secrets / "postgres_password").read_text().strip()
    assert len(password) == 32
    assert settings.database_url == f"postgresql+psycopg://node:{password}@postgres/node"
    assert re.fullmatch(r"redis://:[\w-]{32}@redis:6379/0", settings.broker_url)
    assert settings.data_dir == Path("/data")
    monkeypatch.setenv("FVLM_BROKER_URL", "redis://localhost/1")
    assert Settings.load(DEPLOY / "compose" / "node.yaml").broker_url == "redis://localhost/1"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_images_hold_the_versions_of_the_project_by_hash(target: str) -> None:
    text = (ROOT / "requirements" / f"image-{target}.txt").read_text()
    locked = dict(_PINNED.findall(text))
    assert text.count("--hash=sha256:") >= len(locked) > 100
    wanted = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    local = "+cpu" if target == "cpu" else ""
    assert locked["torch"] == wanted["torch"] + local, "run deploy/lock.sh"
    differs = {name for name in locked.keys() & wanted.keys() - {"torch"} if locked[name] != wanted[name]}
    assert not differs, "run deploy/lock.sh"
    project = (ROOT / "pyproject.toml").read_text()
    needs = project[project.index("dependencies = [") : project.index("[project.optional-dependencies]")]
    names = {name.lower() for name in re.findall(r'^    "([A-Za-z0-9._-]+)', needs, re.MULTILINE)}
    assert not names - locked.keys(), "run deploy/lock.sh"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="apt-get install systemd")
def test_units_are_clean_and_hardened(tmp_path: Path) -> None:
    program = tmp_path / "fvlm-node"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/fvlm-node/.venv/bin/fvlm-node", str(program))
        (tmp_path / unit.name).write_text(re.sub(r"^(User|Group)=fvlm$", r"\1=root", text, flags=re.MULTILINE))
    target = _run("systemd-analyze", "verify", tmp_path / "fvlm-node.target", env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:"})
    assert (target.returncode, target.stdout + target.stderr) == (0, "")
    for role in ROLES:
        name = f"fvlm-node-{role}@1.service" if role == "analyze" else f"fvlm-node-{role}.service"
        assert (name in (DEPLOY / "systemd" / "fvlm-node.target").read_text()) == (role not in OPTIONAL)
        file = tmp_path / name
        if not file.exists():
            shutil.copy(tmp_path / name.replace("@1", "@"), file)
        checked = _run("systemd-analyze", "verify", file)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, ""), name
        scored = _run("systemd-analyze", "security", "--offline=true", "--threshold=30", file)
        assert scored.returncode == 0, scored.stdout
        text = file.read_text()
        assert f"--only {role}" in text
        assert ("--name %i" in text) == ("@" in name)
    assert "analyze" in MANY
