"""Runs many cases in a watched process: `python tests/fuzz/campaign.py [--seed S] [--cases N]`.

A case that ends the process, takes more than 5 s of processor time or raises what it may not is written to a file, with
the command that repeats it: `python tests/fuzz/campaign.py --repeat KIND FILE`.
"""

import argparse
import faulthandler
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import conftest  # noqa: F401 - the way to the other helpers

from node.logs import configure_logs

PROGRAM = __file__
"""What is run in the watched process."""
ROOT = Path(__file__).parents[2]
FINDINGS = ROOT / ".fuzz"
LONGEST_CPU_S = 5.0
LONGEST_WALL_S = 120.0
"""For what sleeps, a batch of cases at once; a busy machine must not fail a case."""
MEMORY = 1536 * 2**20
"""Address space of the process beyond what it has with everything imported; the bound on deflated data is 256 MiB."""
BATCH = 100
"""Cases between two looks at index and completion."""
MOST_FAILURES = 20


@dataclass
class Outcome:
    """What a campaign found."""

    cases: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    decoder_crashes: int = 0
    """Cases that ended the process inside a decoder; in the real decoding process they were refused."""
    failures: list[str] = field(default_factory=list)
    peak_mb: int = 0
    cpu_s: float = 0.0


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder, in memory where that exists: an fsync of 20,000 cases shall not wear a disk."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_campaign(seed: str, cases: int, first: int = 0) -> Outcome:
    """Cases `first` to `first + cases`, in as many processes as it takes."""
    outcome = Outcome()
    last = first + cases
    with workplace() as folder:
        position = folder / "position"
        while first < last and len(outcome.failures) < MOST_FAILURES:
            position.write_bytes(bytes(9))
            command = [sys.executable, PROGRAM, "--seed", seed, "--worker", str(first), str(last), str(folder)]
            with (folder / "errors").open("w+b") as errors:
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, stderr=errors, env=_environment(), check=False, cwd=ROOT
                )
                errors.seek(0)
                told = errors.read()[-6000:].decode(errors="replace")
            at = position.read_bytes()
            number, stage = int.from_bytes(at[:8], "little"), at[8:]
            for line in done.stdout.splitlines():
                _take_in(outcome, json.loads(line), seed)
            if done.returncode == 0:
                break
            from gauntlet import DECODING, make_case

            kind, data = make_case(seed, number)
            if stage == DECODING and _isolated_is_refused(kind, data, folder):
                outcome.decoder_crashes += 1
            else:
                outcome.failures.append(_keep(seed, number, f"status {done.returncode} in stage {stage!r}\n{told}"))
            outcome.cases += number + 1 - first
            first = number + 1
        outcome.cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    return outcome


def _take_in(outcome: Outcome, line: dict[str, object], seed: str) -> None:
    if "failure" in line:
        outcome.failures.append(_keep(seed, int(str(line["number"])), str(line["failure"])))
        return
    outcome.cases += int(str(line["cases"]))
    outcome.verdicts.update(line["verdicts"])
    outcome.peak_mb = max(outcome.peak_mb, int(str(line["peak_mb"])))


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _keep(seed: str, number: int, told: str) -> str:
    """Write the case to a file; what to tell."""
    from gauntlet import make_case

    kind, data = make_case(seed, number)
    FINDINGS.mkdir(exist_ok=True)
    file = FINDINGS / f"{kind}-{seed}-{number}.dcm"
    file.write_bytes(data)
    return f"case {number} of seed {seed}: {told}\nrepeat it: python tests/fuzz/campaign.py --repeat {kind} {file}"


def _isolated_is_refused(kind: str, data: bytes, folder: Path) -> bool:
    """The case once more, with the decoder in its own process."""
    file = folder / "isolated"
    file.write_bytes(data)
    command = [sys.executable, __file__, "--isolated", "--repeat", kind, str(file)]
    return subprocess.run(command, env=_environment(), cwd=ROOT, capture_output=True, check=False).returncode == 0


def work(seed: str, first: int, last: int, folder: Path) -> None:
    """Cases in this process; failures and, at the end, the verdicts as lines of JSON on standard output."""
    from gauntlet import Gauntlet, make_case

    position = os.open(folder / "position", os.O_WRONLY)
    number = first

    def stage(letter: bytes) -> None:
        os.pwrite(position, number.to_bytes(8, "little") + letter, 0)

    gauntlet = Gauntlet(Path(tempfile.mkdtemp(dir=folder)), stage)
    _watch()
    verdicts: Counter[str] = Counter()
    failures = 0
    for number in range(first, last):
        stage(b"m")
        if number == first or number % BATCH == 0:
            faulthandler.dump_traceback_later(LONGEST_WALL_S, exit=True)
        kind, data = make_case(seed, number)
        with _deadline():
            try:
                verdicts[f"{kind} {gauntlet.run(kind, data)}"] += 1
                if number % BATCH == BATCH - 1 or number == last - 1:
                    gauntlet.settle()
            except Exception:  # whatever it is, it is what this looks for
                failures += 1
                print(json.dumps({"number": number, "failure": traceback.format_exc()[-4000:]}), flush=True)
                if failures >= MOST_FAILURES:
                    break
                gauntlet.close()  # what it holds must not spoil the cases that follow
                gauntlet = Gauntlet(Path(tempfile.mkdtemp(dir=folder)), stage)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"cases": number + 1 - first, "verdicts": verdicts, "peak_mb": _peak_mb()}), flush=True)


def _peak_mb() -> int:
    """Most resident memory of this program. `ru_maxrss` would be that of the process that started it, if larger."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def repeat(kind: str, file: Path, isolated: bool) -> None:
    """One case of a file; its verdict is printed, a failure is raised."""
    from gauntlet import Gauntlet

    with workplace() as folder:
        gauntlet = Gauntlet(folder, isolated=isolated)
        _watch()
        with _deadline():
            print(kind, gauntlet.run(kind, file.read_bytes()))
            gauntlet.settle()


def corpus_verdicts() -> dict[str, str]:
    """The verdict on each seed as it is, with the real decoding process."""
    from gauntlet import Gauntlet, corpus

    verdicts = {}
    with workplace() as folder:
        gauntlet = Gauntlet(folder, isolated=True)
        for name, data in corpus():
            verdicts[name] = gauntlet.run("sr" if name.startswith("sr") else "file", data)
        gauntlet.settle()
    return verdicts


def _watch() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, all_threads=False, chain=True)


@contextmanager
def _deadline() -> Iterator[None]:
    signal.setitimer(signal.ITIMER_PROF, LONGEST_CPU_S)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> int:
    """The exit status: 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", default=os.environ.get("FUZZ_SEED", "1"))
    parser.add_argument("--cases", type=int, default=int(os.environ.get("FUZZ_CASES", "20000")))
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--repeat", nargs=2, metavar=("KIND", "FILE"), help="run one case again")
    parser.add_argument(
        "--isolated", action="store_true", help="decode pixels in a process of its own, as the node does"
    )
    parser.add_argument("--corpus", action="store_true", help="run the seeds as they are; print their verdicts")
    parser.add_argument("--worker", nargs=3, metavar=("FIRST", "LAST", "FOLDER"), help=argparse.SUPPRESS)
    told = parser.parse_args()
    configure_logs()  # to standard error
    if told.worker:
        work(told.seed, int(told.worker[0]), int(told.worker[1]), Path(told.worker[2]))
        return 0
    if told.corpus:
        print(json.dumps(corpus_verdicts(), indent=1))
        return 0
    if told.repeat:
        repeat(told.repeat[0], Path(told.repeat[1]), told.isolated)
        return 0
    outcome = run_campaign(told.seed, told.cases, told.first)
    for verdict, count in outcome.verdicts.most_common():
        print(f"{count:7d} {verdict}")
    for failure in outcome.failures:
        print(failure)
    print(f"{outcome.cases} cases, {len(outcome.failures)} failures, {outcome.decoder_crashes} decoder crashes,"
          f" {outcome.cpu_s:.0f} s, {outcome.peak_mb} MB")  # fmt: skip
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
