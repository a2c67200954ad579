"""A collection: de-identified pairs of a CT series and its report, as `fvlm-node train collect` writes them.

On disk, below one folder:

- `pairs.jsonl`: one `Pair` a line; a pair is in the collection once its line is there, whole;
- `images/<pair>/NNNN.dcm`: its images, foot to head, CT Image Storage, de-identified; `ct.load_series` reads them;
- `reports/<pair>.txt`: its report, scrubbed, each section under its heading (`FINDINGS:` on a line of its own);
- `feedback.jsonl`: what radiologists said of the node's findings in these studies, where there is any;
- `dropped.csv`: what was not taken, and why.

No name, number, date or UID of the archive is in any of them; the ledger, which knows them, lies elsewhere.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

Split = Literal["train", "validate", "test"]
SPLITS: tuple[Split, ...] = ("train", "validate", "test")

_UNTITLED = "REPORT"


class CollectionError(ValueError):
    """The folder is no collection, or a damaged one. The text names the file and the cure."""


@dataclass(frozen=True)
class Provenance:
    """Where the images come from, as far as subgroups need it. What the images do not say is None or empty."""

    manufacturer: str = ""
    model: str = ""
    slice_thickness_mm: float | None = None
    """As the images say; the step between slices may differ."""
    kernel: str = ""
    contrast: bool | None = None
    """Contrast medium was given."""
    sex: Literal["F", "M", "O", ""] = ""
    age_years: int | None = None
    """At the time of the study; 90 stands for everybody older."""
    study_year: int | None = None
    """Of the shifted date."""


@dataclass(frozen=True)
class Pair:
    """One CT series and the report of its study."""

    pair_id: str
    """Pseudonym of the series: 32 hexadecimal digits."""
    subject_id: str
    """Pseudonym of the patient: 32 hexadecimal digits."""
    split: Split
    """Of the subject: all pairs of a subject are in the same split."""
    slices: int
    headings: tuple[str, ...]
    """Of the sections of the report, upper case, in its order, each once."""
    language: str = ""
    """Of the report, as its source says, such as `en` or `de-DE`."""
    report_source: str = ""
    """What the report came as: sr, pdf, cda, hl7, fhir or csv."""
    provenance: Provenance = Provenance()

    @property
    def images(self) -> str:
        """Folder of the images, relative to the collection."""
        return f"images/{self.pair_id}"

    @property
    def report(self) -> str:
        """File of the report, relative to the collection."""
        return f"reports/{self.pair_id}.txt"


@dataclass(frozen=True)
class ReportSection:
    """Scrubbed text under a heading (upper case)."""

    heading: str
    text: str


class Collection:
    """Pairs in a folder. Any number of readers; one writer at a time, which holds `writing()`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = folder / "pairs.jsonl"
        self._known: set[str] = set()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """An existing collection. Raises CollectionError."""
        if not (folder / "pairs.jsonl").is_file():
            raise CollectionError(f"{folder} is no collection; make one with: fvlm-node train collect")
        return cls(folder)

    def __iter__(self) -> Iterator[Pair]:
        """The pairs in the order in which they came; a line that was never finished is none. Raises CollectionError."""
        with self._index.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith("\n"):
                    yield _pair(line, f"{self._index}, line {number}")

    def images(self, pair: Pair) -> Path:
        """Folder of its DICOM files."""
        return self.folder / pair.images

    def text(self, pair: Pair) -> str:
        """The whole report."""
        return (self.folder / pair.report).read_text(encoding="utf-8")

    def sections(self, pair: Pair) -> tuple[ReportSection, ...]:
        """The report by sections, in its order. Raises CollectionError if the file is not as it was written."""
        text, found = self.text(pair), list[ReportSection]()
        if not text.startswith(_heading_line(pair.headings[0])):
            raise CollectionError(f"{self.folder / pair.report}: it does not begin with {pair.headings[0]}")
        for at, heading in enumerate(pair.headings):
            rest = text.removeprefix(_heading_line(heading))
            if at + 1 == len(pair.headings):
                found.append(ReportSection(heading, rest.strip()))
                continue
            body, mark, after = rest.partition("\n" + (next_line := _heading_line(pair.headings[at + 1])))
            if not mark:
                raise CollectionError(f"{self.folder / pair.report}: the section {pair.headings[at + 1]} is missing")
            found.append(ReportSection(heading, body.strip()))
            text = next_line + after
        return tuple(found)

    @contextmanager
    def writing(self) -> Iterator[Self]:
        """Only inside may pairs be added. Makes the folder; takes away what a killed writer left half done.

        Raises CollectionError if another process writes, or the folder holds something else.
        """
        if not self._index.exists() and any((self.folder / name).is_dir() for name in ("images", "reports")):
            raise CollectionError(f"{self.folder} holds images or reports that are no collection; name a new folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._index.touch()
        for folder in ("images", "reports"):
            (self.folder / folder).mkdir(exist_ok=True)
        with self._index.open("a+b") as index:
            try:
                fcntl.flock(index, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CollectionError(
                    f"{self.folder}: another process writes to it; wait until it has ended"
                ) from error
            index.seek(0)
            whole = sum(len(line) for line in index if line.endswith(b"\n"))
            os.truncate(self._index, whole)
            self._known = {pair.pair_id for pair in self}
            self._sweep()
            try:
                yield self
            finally:
                self._sweep()
                self._known = set()

    def __contains__(self, pair_id: str) -> bool:
        """Whether `writing()` knows the pair."""
        return pair_id in self._known

    def draft(self, pair_id: str) -> Path:
        """A new empty folder to write the images of a pair into, before `add`."""
        folder = self.folder / "images" / f".{pair_id}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def add(self, pair: Pair, sections: Sequence[ReportSection]) -> None:
        """Take the drafted images and the report; all of it is there afterwards, or nothing. Known pairs stay.

        Raises ValueError if the sections are not those that the pair names, or there are none.
        """
        if pair.pair_id in self._known:
            return
        if not sections or pair.headings != tuple(one.heading for one in sections):
            raise ValueError("headings and sections differ")
        text = "\n".join(f"{_heading_line(one.heading)}{one.text}\n" for one in sections)
        draft, images = self.folder / "images" / f".{pair.pair_id}", self.images(pair)
        _write_durably(self.folder / pair.report, text)
        for file in draft.iterdir():
            _sync(file)
        shutil.rmtree(images, ignore_errors=True)
        draft.rename(images)
        for folder in (images, images.parent, self.folder / "reports"):
            _sync(folder)
        with self._index.open("ab") as index:
            index.write((json.dumps(asdict(pair), ensure_ascii=False) + "\n").encode())
            index.flush()
            os.fsync(index.fileno())
        self._known.add(pair.pair_id)

    def _sweep(self) -> None:
        """Take away images and reports without a line in the index."""
        for path in (self.folder / "images").iterdir():
            if path.name not in self._known:
                shutil.rmtree(path)
        for path in (self.folder / "reports").iterdir():
            if path.suffix != ".txt" or path.stem not in self._known:
                path.unlink()


def merged(sections: Sequence[tuple[str, str]]) -> tuple[ReportSection, ...]:
    """Sections (title, text) as reports are kept: headings upper case, each once, texts under the same one joined.

    A line of a text that reads like one of the headings loses its colon.
    """
    found: dict[str, list[str]] = {}
    for title, text in sections:
        if text.strip():
            heading = " ".join(title.upper().split()).rstrip(":") or _UNTITLED
            found.setdefault(heading, []).append(text.strip())
    marks = {_heading_line(heading).strip() for heading in found}
    return tuple(
        ReportSection(
            heading,
            "\n".join(line.rstrip(":") if line in marks else line for text in texts for line in text.split("\n")),
        )
        for heading, texts in found.items()
    )


def _heading_line(heading: str) -> str:
    return f"{heading}:\n"


def _pair(line: str, where: str) -> Pair:
    try:
        values: dict[str, Any] = json.loads(line)
        provenance = Provenance(**values.pop("provenance"))
        return Pair(**values | {"headings": tuple(values["headings"]), "provenance": provenance})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CollectionError(f"{where}: not a pair ({type(error).__name__}); restore the file") from error


def _write_durably(file: Path, text: str) -> None:
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, encoding="utf-8")
    _sync(part)
    part.replace(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
