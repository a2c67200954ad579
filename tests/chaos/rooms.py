"""A node with a real Orthanc behind it, kept for all tests of a module, and what each of them ends with."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archives import OrthancView
from house import ChaosNode, pacs, wait_for
from ledger import Ledger, assert_one_result_set, doubled_or_missing
from peers import Orthanc


@dataclass
class Room:
    """One node and its archive. `ledger` is the book of the present test."""

    node: ChaosNode
    archive: OrthancView
    ledger: Ledger = field(default_factory=Ledger)

    def settle(self, *without_result: str) -> None:
        """Wait for the results of this test's series, then check the promises; but not for series that are refused."""
        expected = {uid: images for uid, images in self.ledger.series.items() if uid not in without_result}
        wait_for(
            lambda: not doubled_or_missing(self.archive.results(), expected), f"results of {expected.keys()}", self.node
        )
        wait_for(lambda: not self.ledger.missing(self.node.indexed()), "everything in the index", self.node)
        self.ledger.assert_kept(self.node)
        assert_one_result_set(self.archive.results(), expected)
        seen = self.node.status()
        assert all(uid in seen for uid in self.ledger.series), seen


@contextmanager
def room(
    folder: Path, *more: dict[str, Any], environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[Room]:
    """Orthanc and a node that delivers to it (`pacs`), and to `more` destinations."""
    with Orthanc(folder / "orthanc") as orthanc:
        destinations = pacs("pacs", orthanc.ae_title, orthanc.port)
        for other in more:
            destinations |= other
        with ChaosNode(folder / "node", destinations, environment, **settings) as node:
            node.wait_until_ready()
            yield Room(node, OrthancView(orthanc))
