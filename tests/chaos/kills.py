"""Seeded random `kill -9` of a node at work: senders send, results go out, processes die. `make chaos` runs it longer.

`python tests/chaos/kills.py` takes CHAOS_KILLS and CHAOS_SEED from the environment.
"""

import itertools
import os
import random
import signal
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root), str(root / "tests" / "node"), str(root / "tests" / "e2e")]

from archives import OrthancView
from house import ChaosNode, pacs, wait_for
from ledger import Ledger, assert_one_result_set, doubled_or_missing, send_until_acknowledged, slices
from peers import Orthanc

from node.console.notice import Notice

VICTIMS = {"receiving": 10, "receiver": 1, "analyze": 3, "deliver": 3, "reconciler": 3, "console": 2}
"""Role -> how often it is chosen, relative to the others."""
_SENDERS = 3
_ROUND = 25
"""Kills in one go."""
_SETTLE_S = 400.0
"""Longest wait, after the last kill, for everything that was acknowledged to be read and delivered."""
_ENDED = {"SENT", "COMMITTED", "SUPERSEDED"}


@dataclass
class Summary:
    """What happened, in numbers."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    """Role -> processes killed."""
    images: int = 0
    """Acknowledged."""
    associations: int = 0
    series: int = 0
    results_while_killing: int = 0
    """Objects that had reached the archive when the last kill was done."""
    results: int = 0
    superseded: int = 0
    """Results over a part of their series: an earlier generation."""
    seconds: float = 0.0

    def line(self) -> str:
        """For a person, one line."""
        kills = ", ".join(f"{role} {count}" for role, count in sorted(self.kills.items()))
        return (
            f"seed {self.seed}: {self.kills.total()} kills ({kills}) in {self.seconds:.0f} s; {self.images} images of "
            f"{self.series} series acknowledged over {self.associations} associations, all kept; {self.results} "
            f"results in the archive, {self.superseded} of them of earlier generations; one set a series"
        )


def kill_at_random(folder: Path, kills: int, seed: int, say: Callable[[str], None] = lambda _: None) -> Summary:
    """Kill `kills` processes of one long-lived node, let it settle and check it. AssertionError names what is wrong."""
    rng, summary, ledger = random.Random(seed), Summary(seed), Ledger()
    started = time.monotonic()
    with Orthanc(folder / "orthanc") as orthanc:
        view = OrthancView(orthanc)
        node = ChaosNode(
            folder / "node",
            pacs("pacs", orthanc.ae_title, orthanc.port),
            completion={"quiet_s": 1.0},
            work={"reconcile_s": 0.5, "lease_s": 20.0, "max_attempts": 100},  # no series is to blame here
            delivery={"retry_first_s": 0.2, "retry_max_s": 1.0, "timeout_s": 5.0, "commitment_wait_s": 0.2},
        )
        with node:
            node.wait_until_ready()
            stop, numbers = threading.Event(), itertools.count(1)
            senders = [threading.Thread(target=_send, args=(node, ledger, numbers, stop)) for _ in range(_SENDERS)]
            for sender in senders:
                sender.start()
            try:
                _kill(node, view, rng, kills, summary, say)
                summary.results_while_killing = len(view.results())
            finally:
                stop.set()
                for sender in senders:
                    sender.join()
            say("no more kills; waiting until everything is read and delivered")
            wait_for(
                lambda: not doubled_or_missing(view.results(), ledger.series) and not _unsettled(node),
                "one result set a series, and nothing under way",
                node,
                _SETTLE_S,
            )
            _check(node, ledger, view, set(summary.kills))
            summary.results = len(view.results())
            assert node.stop() == 0
        summary.superseded = summary.results - 2 * len(ledger.series)
        summary.images, summary.series = len(ledger.acknowledged), len(ledger.series)
        summary.associations = ledger.associations
        summary.seconds = time.monotonic() - started
    return summary


def _send(node: ChaosNode, ledger: Ledger, numbers: "itertools.count[int]", stop: threading.Event) -> None:
    """One scanner: series after series, each sent again until all of it is acknowledged, also the last one."""
    while not stop.is_set():
        send_until_acknowledged(node, slices(next(numbers), 6), ledger, pause_s=0.15)
        stop.wait(0.5)


def _kill(
    node: ChaosNode, view: OrthancView, rng: random.Random, kills: int, summary: Summary, say: Callable[[str], None]
) -> None:
    """Rounds of kills, each begun when something was delivered since the last: the node is at work when it is hit."""
    roles, weights = list(VICTIMS), list(VICTIMS.values())
    while summary.kills.total() < kills:
        before = len(view.results())
        wait_for(lambda before=before: len(view.results()) > before, "something delivered", node, _SETTLE_S)
        until = min(kills, summary.kills.total() + _ROUND)
        while summary.kills.total() < until:
            time.sleep(rng.uniform(0.02, 0.3))
            role = rng.choices(roles, weights)[0]
            pids = sorted(node.processes().get(role, []))
            if not pids:
                continue  # dead, and not yet started again
            with suppress(ProcessLookupError):
                os.kill(rng.choice(pids), signal.SIGKILL)
                summary.kills[role] += 1
        say(f"{until} of {kills} processes killed; {len(view.results())} results delivered")


def _unsettled(node: ChaosNode) -> list[str]:
    """Series whose newest generation is not at its end."""
    return [uid for uid, state in node.all_states().items() if state not in _ENDED]


def _check(node: ChaosNode, ledger: Ledger, view: OrthancView, killed: set[str]) -> None:
    """The three promises, that nothing is left over, and that the log tells of a death in every role `killed`."""
    ledger.assert_kept(node)
    assert_one_result_set(view.results(), ledger.series)
    results = {str(result.SeriesInstanceUID) for result in view.results()}
    assert len(results) == len(view.results()), "a result was stored under another UID in the same series"
    assert node.lost_segments() == []
    seen = node.status()
    assert all(uid in seen for uid in list(ledger.series)[-20:]), "series that `status` does not show"
    deaths = [*node.events("process_died"), *node.events("receiver_process_died")]
    assert {event.get("role", "receiving") for event in deaths} == killed, "deaths that the log does not tell"
    assert max(event["seconds"] for event in deaths) <= node.settings.restart_max_s
    address = wait_for(lambda: _address(node), "the console's address", node)
    with urllib.request.urlopen(f"{address}healthz", timeout=30) as answer:
        assert answer.status == 200
    assert not any("Traceback" in file.read_text() for file in (node.data / "logs").glob("*.log"))


def _address(node: ChaosNode) -> str:
    """Of the console; empty while it does not run."""
    told = Notice.of(node.data).read()
    return told if told.startswith("http") else ""


def main() -> int:
    """A run with progress; the exit status."""
    kills, seed = int(os.environ.get("CHAOS_KILLS", "1000")), int(os.environ.get("CHAOS_SEED", "1"))
    folder = Path(tempfile.mkdtemp(prefix="fvlm-chaos-"))
    print(f"{kills} kills with seed {seed} in {folder}", flush=True)
    summary = kill_at_random(folder, kills, seed, lambda line: print(line, flush=True))
    print(summary.line())
    return 0


if __name__ == "__main__":
    sys.exit(main())
