"""What every benchmark writes: the machine, the figures, the single measurements, as JSON and as a table.

A benchmark is a script `benchmarks/NAME.py` that calls `Result(NAME)`; its file is `benchmarks/results/NAME.json`.
"""

import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def machine(*packages: str) -> dict[str, Any]:
    """What the figures were measured on: processor, cores, memory, load now, system, commit, versions of `packages`."""
    return {
        "cpu": _proc_field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _first_line(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "commit": _first_line(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average_1min": round(os.getloadavg()[0], 2),
    }


@dataclass
class Result:
    """One benchmark's outcome. Fill `figures` (and `samples`), then `finish`."""

    name: str
    packages: tuple[str, ...] = ()
    """Distributions whose versions matter."""
    conditions: dict[str, Any] = field(default_factory=dict)
    """How it was measured: sizes, repeats, settings of the peers, what else the machine did."""
    figures: dict[str, float] = field(default_factory=dict)
    """What counts, by name; the unit is in the name."""
    samples: dict[str, list[float]] = field(default_factory=dict)
    """The single measurements behind the figures."""

    def __post_init__(self) -> None:
        self.machine = machine(*self.packages)

    def add(self, figure: str, values: list[float], digits: int = 3) -> float:
        """Keep the measurements and their median as a figure; returns the median."""
        self.samples[figure] = [round(value, digits) for value in values]
        self.figures[figure] = round(median(values), digits)
        return self.figures[figure]

    def finish(self, folder: Path = RESULTS) -> Path:
        """Write `folder/NAME.json`, print the same as a table, return the file."""
        self.machine["load_average_1min_at_end"] = round(os.getloadavg()[0], 2)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.name}.json"
        content = {
            "machine": self.machine,
            "conditions": self.conditions,
            "figures": self.figures,
            "samples": self.samples,
        }
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self._print(file)
        return file

    def _print(self, file: Path) -> None:
        console = Console()
        table = Table(title=f"{self.name}: median (lowest to highest)", title_justify="left")
        for heading, side in (("figure", "left"), ("value", "right"), ("spread", "right"), ("n", "right")):
            table.add_column(heading, justify=side)  # type: ignore[arg-type]
        for figure, value in self.figures.items():
            values = self.samples.get(figure, [])
            spread = f"{min(values):g} to {max(values):g}" if values else ""
            table.add_row(figure, f"{value:g}", spread, str(len(values) or ""))
        console.print(table)
        facts = {**self.machine, **self.conditions}
        console.print("\n".join(f"{key}: {value}" for key, value in facts.items()), markup=False, highlight=False)
        console.print(f"written: {file}", markup=False, highlight=False, soft_wrap=True)


def _proc_field(file: str, name: str) -> str:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().split("\n")[0] if done.returncode == 0 else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
