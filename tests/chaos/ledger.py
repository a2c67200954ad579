"""What senders sent and what was acknowledged, and the two things that must be true of it at the end of every fault."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress

from house import ChaosNode
from pydicom import Dataset
from raw_pdu import RELEASE, answer, connect, read_pdu, store
from spool_data import ct_slice, encode

SUCCESS = 0x0000


class Ledger:
    """One sender's book. Many threads may write into it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.associations = 0
        """Accepted ones."""
        self.acknowledged: dict[str, set[str]] = {}
        """SOP Instance UID -> SHA-256 of each data set that was answered with success."""
        self.series: dict[str, set[str]] = {}
        """Series Instance UID -> SOP Instance UIDs answered with success."""

    def note(self, dataset: Dataset, data: bytes) -> None:
        """This data set was answered with success."""
        with self._lock:
            uid = str(dataset.SOPInstanceUID)
            self.acknowledged.setdefault(uid, set()).add(hashlib.sha256(data).hexdigest())
            self.series.setdefault(str(dataset.SeriesInstanceUID), set()).add(uid)

    def note_association(self) -> None:
        """An association was accepted."""
        with self._lock:
            self.associations += 1

    def missing(self, found: dict[str, set[str]]) -> set[str]:
        """Acknowledged instances that are not among the found ones, or only with other bytes."""
        return {uid for uid, digests in self.acknowledged.items() if not digests <= found.get(uid, set())}

    def assert_kept(self, node: ChaosNode) -> None:
        """Every acknowledged instance is on the disk and in the index, with the bytes that were sent."""
        assert self.acknowledged, "nothing was acknowledged: the test shows nothing"
        assert self.missing(node.stored()) == set(), "acknowledged, and not in the spool as it was sent"
        assert self.missing(node.indexed()) == set(), "acknowledged, and not in the index as it was sent"


def slices(series: int, count: int = 4, **more: object) -> list[Dataset]:
    """A small series. `more` goes to each data set as attributes."""
    made = [ct_slice(series, number, side=16) for number in range(1, count + 1)]
    for dataset in made:
        for keyword, value in more.items():
            setattr(dataset, keyword, value)
    return made


def send(node: ChaosNode, datasets: Iterable[Dataset], ledger: Ledger, pause_s: float = 0.0) -> list[int | None]:
    """One association with these data sets and a release; the answers (None: none came). Raises OSError.

    `pause_s`: time that the scanner takes for each image, seconds.
    """
    answers: list[int | None] = []
    with connect(node) as connection:
        ledger.note_association()
        for dataset in datasets:
            time.sleep(pause_s)
            data = encode(dataset)
            connection.sendall(store(str(dataset.SOPInstanceUID), data))
            answers.append(answer(connection))
            if answers[-1] == SUCCESS:
                ledger.note(dataset, data)
            elif answers[-1] is None:
                return answers
        connection.sendall(RELEASE)
        read_pdu(connection)
    return answers


def send_until_acknowledged(node: ChaosNode, datasets: Sequence[Dataset], ledger: Ledger, pause_s: float = 0.0) -> None:
    """Send a series as a stubborn scanner does: what got no success is sent again. Waits for ever."""
    left = list(datasets)
    while left:
        answers: list[int | None] = []
        with suppress(OSError, AssertionError):  # refused, reset, or closed before it was accepted
            answers = send(node, left, ledger, pause_s)
        left = [d for n, d in enumerate(left) if n >= len(answers) or answers[n] != SUCCESS]
        if left:
            time.sleep(0.1)


# --- results


def sources(result: Dataset) -> set[str]:
    """SOP Instance UIDs of the images that an SR or SEG names as its source."""
    if result.Modality == "SEG":
        groups = result.ReferencedSeriesSequence
        return {str(item.ReferencedSOPInstanceUID) for one in groups for item in one.ReferencedInstanceSequence}
    studies = result.CurrentRequestedProcedureEvidenceSequence
    evidence = [series for study in studies for series in study.ReferencedSeriesSequence]
    return {str(item.ReferencedSOPInstanceUID) for series in evidence for item in series.ReferencedSOPSequence}


def current_set(results: Sequence[Dataset], images: set[str]) -> dict[str, list[Dataset]]:
    """Kind -> results over all the images of a series; what is over a part of them is an older generation."""
    found: dict[str, list[Dataset]] = {"SR": [], "SEG": []}
    for result in results:
        if images <= sources(result):
            found[str(result.Modality)].append(result)
    return found


def doubled_or_missing(results: Sequence[Dataset], series: dict[str, set[str]]) -> dict[str, dict[str, int]]:
    """Series that have not exactly one SR and one SEG over all their images, and how many of each they have."""
    wrong = {}
    for uid, images in series.items():
        counts = {kind: len(found) for kind, found in current_set(results, images).items()}
        if counts != {"SR": 1, "SEG": 1}:
            wrong[uid] = counts
    return wrong


def assert_one_result_set(results: Sequence[Dataset], series: dict[str, set[str]]) -> None:
    """Exactly one SR and one SEG over all images of each series, and the SR names that SEG.

    Nor were the images of an earlier generation read into two objects of one kind.
    """
    assert doubled_or_missing(results, series) == {}
    known = set().union(*series.values())
    read = Counter((str(result.Modality), frozenset(sources(result) & known)) for result in results)
    assert [images for (_, images), count in read.items() if images and count > 1] == [], "the same images read twice"
    for images in series.values():
        found = current_set(results, images)
        assert str(found["SEG"][0].SOPInstanceUID) in sources(found["SR"][0]), "the SR belongs to another SEG"
