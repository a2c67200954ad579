"""The soak: a node under load for a long time, and whether its memory, threads and handles stay flat. `make soak`.

The rate: one GPU reads its studies one after another. At best a study of 300 slices takes it 0.7 s to load, 1 s to
segment, 0.05 s in the model and 0.7 s to encode: 2.5 s, 0.4 studies/s. Twice that is 0.8 series/s. The series here are
small and the model is fast, so that two cores carry this rate: what is watched is the node's book-keeping, whose load
goes with the number of series, associations and results, not with their size.
"""

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root), str(root / "tests" / "node"), str(root / "tests" / "e2e")]

from archives import OrthancView
from house import ChaosNode, all_pids, pacs, wait_for
from ledger import Ledger, assert_one_result_set, doubled_or_missing, send_until_acknowledged, slices
from peers import Orthanc
from rich.console import Console
from rich.table import Table

from config import Settings

SERIES_PER_S = 0.8
_SLICES = 8
_SAMPLE_S = 2.0
_MOST_GROWTH_MB = 16.0
"""Of resident memory between the second and the last quarter of the run."""
_SLACK = 3
"""Threads and handles that come and go: associations, connections of the pools."""


@dataclass(frozen=True)
class Sample:
    """What one process held at one moment."""

    at_s: float
    rss_mb: float
    handles: int
    threads: int


@dataclass(frozen=True)
class Trend:
    """What became of one process from the second quarter of the run to its last."""

    process: str
    rss_mb: float
    """Median of the last quarter."""
    growth_mb: float
    """Of the medians."""
    slope_mb_per_h: float
    """Least squares over the last three quarters."""
    handles: int
    more_handles: int
    threads: int
    more_threads: int
    """Greatest number in the last quarter, and how much more than in the second."""

    @property
    def flat(self) -> bool:
        return (
            self.growth_mb <= _MOST_GROWTH_MB and self.more_handles <= _SLACK and self.more_threads <= _SLACK
        )  # fmt: skip


@dataclass
class Report:
    """The whole run."""

    minutes: float
    series_per_s: float
    series: int = 0
    images: int = 0
    results: int = 0
    slowest_s: float = 0.0
    """Longest time that senders lagged behind their plan."""
    drained_s: float = 0.0
    """From the last image until every result was in the archive."""
    trends: list[Trend] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    """Processes that did not live through it."""
    errors: list[str] = field(default_factory=list)
    """Events of level error in the log."""
    unexplained: list[str] = field(default_factory=list)
    """States that series ended in, other than sent."""

    @property
    def problems(self) -> list[str]:
        """Empty if all is well."""
        grown = [f"{trend.process} is not flat: {trend}" for trend in self.trends if not trend.flat]
        return [*grown, *self.died, *self.errors, *self.unexplained]

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self) | {"problems": self.problems}, indent=2) + "\n")

    def table(self) -> Table:
        title = (
            f"Soak of {self.minutes:g} min at {self.series_per_s:g} series/s: {self.series} series, "
            f"{self.images} images, {self.results} results; drained in {self.drained_s:.1f} s"
        )
        table = Table(title=title, title_justify="left")
        for column in ("Process", "RSS, MB", "growth, MB", "slope, MB/h", "handles", "threads", ""):
            table.add_column(column, justify="left" if column in ("Process", "") else "right", no_wrap=True)
        for one in self.trends:
            table.add_row(
                one.process, f"{one.rss_mb:.1f}", f"{one.growth_mb:+.1f}", f"{one.slope_mb_per_h:+.1f}",
                f"{one.handles} ({one.more_handles:+d})", f"{one.threads} ({one.more_threads:+d})",
                "flat" if one.flat else "GROWS",
            )  # fmt: skip
        return table


def soak(folder: Path, minutes: float, series_per_s: float, say: Callable[[str], None] = lambda _: None) -> Report:
    """Run it. AssertionError if anything was lost or doubled; what grew is in the report."""
    report, ledger = Report(minutes, series_per_s), Ledger()
    samples: dict[tuple[str, int], list[Sample]] = {}
    with Orthanc(folder / "orthanc") as orthanc:
        view = OrthancView(orthanc)
        # The reconciler looks as often as in a hospital.
        node = ChaosNode(
            folder / "node",
            pacs("pacs", orthanc.ae_title, orthanc.port),
            work={"reconcile_s": Settings().work.reconcile_s, "lease_s": 60.0},
        )
        with node:
            node.wait_until_ready()
            count, started = round(minutes * 60 * series_per_s), time.monotonic()
            sender = threading.Thread(target=_send, args=(node, ledger, report, count, series_per_s))
            sender.start()
            told = started
            while sender.is_alive():
                sender.join(_SAMPLE_S)
                for process, pid in all_pids(node):
                    taken = _sample(pid, time.monotonic() - started)
                    if taken is not None:
                        samples.setdefault((process, pid), []).append(taken)
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    say(f"{(told - started) / 60:.0f} of {minutes:g} min: {len(ledger.series)} series acknowledged")
            ended = time.monotonic()
            wait_for(lambda: not doubled_or_missing(view.results(), ledger.series), "the last results", node, 600.0)
            report.drained_s = time.monotonic() - ended
            ledger.assert_kept(node)
            assert_one_result_set(view.results(), ledger.series)
            report.series, report.images = len(ledger.series), len(ledger.acknowledged)
            report.results = len(view.results())
            living = {pid for _, pid in all_pids(node)}
            report.died = [f"{process} ({pid}) died" for process, pid in samples if pid not in living]
            report.errors = sorted({str(event) for event in _errors(node)})
            wait_for(lambda: not _unexplained(node, ledger), "no unexplained state", node)
            report.unexplained = _unexplained(node, ledger)
            assert node.stop() == 0
    report.trends = [_trend(process, taken) for (process, _), taken in sorted(samples.items()) if len(taken) >= 8]
    return report


def _send(node: ChaosNode, ledger: Ledger, report: Report, count: int, series_per_s: float) -> None:
    """Series after series, each at its time."""
    started = time.monotonic()
    for number in range(count):
        late = time.monotonic() - started - number / series_per_s
        report.slowest_s = max(report.slowest_s, late)
        if late < 0:
            time.sleep(-late)
        send_until_acknowledged(node, slices(number + 1, _SLICES), ledger)


def _sample(pid: int, at_s: float) -> Sample | None:
    """None if the process has just ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        handles = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines)
    if "VmRSS" not in values:
        return None
    return Sample(at_s, int(values["VmRSS"].split()[0]) / 1024, handles, int(values["Threads"]))


def _trend(process: str, samples: Sequence[Sample]) -> Trend:
    quarter = len(samples) // 4
    second, last, later = samples[quarter : 2 * quarter], samples[-quarter:], samples[quarter:]
    rss = statistics.median(one.rss_mb for one in last)
    return Trend(
        process=process,
        rss_mb=round(rss, 2),
        growth_mb=round(rss - statistics.median(one.rss_mb for one in second), 2),
        slope_mb_per_h=round(
            3600 * statistics.linear_regression([o.at_s for o in later], [o.rss_mb for o in later]).slope, 2
        ),
        handles=max(one.handles for one in last),
        more_handles=max(one.handles for one in last) - max(one.handles for one in second),
        threads=max(one.threads for one in last),
        more_threads=max(one.threads for one in last) - max(one.threads for one in second),
    )


def _errors(node: ChaosNode) -> set[str]:
    """Names of the events of level error, of all processes."""
    names = set()
    for file in (*(node.data / "logs").glob("*.log"), node.log):
        for line in file.read_text(errors="replace").splitlines():
            if line.startswith("{") and (entry := json.loads(line)).get("level") in ("error", "critical"):
                names.add(f"{file.stem}: {entry['event']}")
    return names


def _unexplained(node: ChaosNode, ledger: Ledger) -> list[str]:
    """Nothing is wrong with these series: each must have been sent."""
    states = node.all_states()
    wrong = {uid: states.get(uid) for uid in ledger.series if states.get(uid) not in ("SENT", "COMMITTED")}
    return [f"{uid} is {state}" for uid, state in wrong.items()]


def main() -> int:
    """A run with progress and a report; the exit status."""
    minutes = float(os.environ.get("SOAK_MINUTES", "120"))
    rate = float(os.environ.get("SOAK_SERIES_PER_S", str(SERIES_PER_S)))
    out = Path(os.environ.get("SOAK_REPORT", "runs/soak.json"))
    folder = Path(tempfile.mkdtemp(prefix="fvlm-soak-"))
    print(f"{minutes:g} minutes at {rate:g} series/s in {folder}", flush=True)
    report = soak(folder, minutes, rate, lambda line: print(line, flush=True))
    report.write(out)
    Console(width=140).print(report.table())
    print("\n".join([*report.problems, f"The report is in {out}"]))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
