"""One case on its way through the node: intake, index, vetting, volume, SR, network, console, encoders. Every way ends
in a verdict.

A verdict is a reason code or what was made of the case; any exception that is not documented is a failure.
"""

import random
import socket
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import conftest  # noqa: F401 - the way to the other helpers
import encoder_case
import mutate_dicom
import mutate_http
import mutate_pdu
import tiny_series
from pynetdicom import _config
from spool_data import Bench, read_until_closed
from sqlalchemy import delete, select
from web_peer import WebPeer, broken, statuses

import ct.load
import dicom_sr
import node.association
import node.segment_writer
from config import Reason
from config.settings import CompletionSettings, RoutingSettings
from ct.frame_decoder import Frame, UndecodableError, decode
from ct.load import load_volume
from ct.part10 import Unfit
from ct.series import Header, Series, read_header
from ct.vetting import Vetted, vet
from ct.volume import SourceSlice
from dicom_sr.errors import ReadError
from node import check_sr, upper_layer
from node.completion import complete_due
from node.errors import CommandError
from node.file_meta import Origin
from node.intake import IntakeSession, Refused, Stored
from node.negotiation import Negotiator
from node.records import Instance, SpoolSegment, Unreadable, now
from node.records import Series as SeriesRow
from node.spool import Record, scan
from node.states import State

CORPUS = Path(__file__).with_name("corpus")
DECODING = b"d"
"""Mark of the stage in which C code decodes pixels."""


class BrokenPromiseError(AssertionError):
    """The node did something that it does not promise."""


def corpus() -> list[tuple[str, bytes]]:
    """Names and contents of all seeds, in a fixed order."""
    return [(str(path.relative_to(CORPUS)), path.read_bytes()) for path in sorted(CORPUS.rglob("*.dcm"))]


def make_case(seed: str, number: int) -> tuple[str, bytes]:
    """Kind and bytes of a case, from the seed and its number alone."""
    rng = random.Random(f"{seed}/{number}")
    kind, files = _kind(number), corpus_by_kind()
    if kind == "http":
        return kind, mutate_http.mutate(rng)
    if kind == "pdu":
        return kind, mutate_pdu.mutate(rng.choice(files["file"])[-1800:], rng)
    if kind == "write":
        return kind, mutate_dicom.mutate(rng.choice(files["write"]), rng, encoder_case.MUTATIONS, encoder_case.SPARED)
    return kind, mutate_dicom.mutate(rng.choice(files[kind]), rng)


def _kind(number: int) -> str:
    """What a case is: `file`, a data set by C-STORE or from a folder; `sr`, a report that is read; `pdu`, what a DICOM
    peer sends; `http`, what a client of the console sends; `write`, a header that our results are made from (dear).
    """
    if number % 5 == 1:
        return "pdu"
    if number % 20 == 13:
        return "http"
    return {8: "write", 20: "sr", 50: "sr", 80: "sr", 120: "sr", 150: "sr", 180: "sr"}.get(number % 200, "file")


@lru_cache(maxsize=1)
def corpus_by_kind() -> dict[str, list[bytes]]:
    """Seeds that are reports, those that results are made from, and all."""
    seeds = [(name, data) for name, data in corpus() if not name.startswith("regressions/pdu")]
    chosen = {"sr": ("sr",), "write": ("ct-rich", "ct-nested", "ct-japanese"), "file": ("",)}
    return {
        kind: [data for name, data in seeds if Path(name).name.startswith(starts)] for kind, starts in chosen.items()
    }


@lru_cache(maxsize=1)
def _sound_heads() -> frozenset[bytes]:
    """Preamble and meta information of the seeds that have them."""
    return frozenset(
        data[: mutate_dicom.meta(data).data_set] for data in corpus_by_kind()["file"] if data[128:132] == b"DICM"
    )


class Gauntlet:
    """A node's ways in around one temporary folder. Cases are indexed and vetted in batches: call `settle`."""

    def __init__(self, folder: Path, stage: Callable[[bytes], None] = lambda _: None, isolated: bool = False) -> None:
        """`stage` hears a letter for each stage entered; `isolated`: pixels go through the real decoding process."""
        self._stage, self._folder = stage, folder
        self._bench = Bench(folder / "node")
        self._bench.settings = self._bench.settings.model_copy(
            update={"completion": CompletionSettings(quiet_s=60), "routing": RoutingSettings(min_slices=2)}
        )
        self._file = folder / "case.dcm"
        self._companions = [
            read_header(tiny_series.write(tiny_series.make_slice(index), folder / f"{index}.dcm"))
            for index in (1, 2, 4)
        ]
        self._stored: list[Record] = []
        self._session: IntakeSession | None = None
        self._web: WebPeer | None = None
        dicom = self._bench.settings.dicom.model_copy(update={"network_timeout_s": 2.0})
        self._dicom, self._negotiator = dicom, Negotiator(dicom)
        self._listener = socket.create_server(("127.0.0.1", 0))
        node.association._REJECTION_S = 0.0
        node.segment_writer._PREALLOCATE = 65536
        _config.LOG_HANDLER_LEVEL = "none"
        check_sr.validate = lambda _: _NOTHING_FOUND  # type: ignore[assignment] # dciodvfy is not what is tested
        ct.load.decode_frames = _REAL_DECODER if isolated else self._decode_here  # type: ignore[assignment]

    def close(self) -> None:
        self._listener.close()
        self._bench.records.engine.dispose()
        if self._session is not None:
            self._session.close()
        if self._web is not None:
            self._web.close()

    def run(self, kind: str, data: bytes) -> str:
        """The verdict. Raises BrokenPromiseError, and whatever the node raises against its promise."""
        ways = {
            "file": self._one_file, "sr": self._report, "pdu": self._peer, "http": self._browser, "write": self._encode,
        }  # fmt: skip
        return ways[kind](data)

    # --- a data set

    def _one_file(self, data: bytes) -> str:
        self._stage(b"i")
        head = data[: mutate_dicom.meta(data).data_set]
        spooled = self._through_intake(data)
        self._stage(b"h")
        if spooled is not None and head in _sound_heads():
            return self._read(spooled)  # the file is the same but for the meta information, which is sound
        self._file.write_bytes(data)  # completion looks at what is in the spool
        return self._read(self._file)

    def _through_intake(self, data: bytes) -> SourceSlice | None:
        """Into the spool, as a sender would announce it."""
        origin, start = _origin(data)
        if self._session is None:
            self._session = self._bench.intake.open("STORESCU", "FVLM")
        answer = self._session.store(
            origin.sop_class_uid, origin.sop_instance_uid, origin.transfer_syntax_uid, data[start:]
        )
        if isinstance(answer, Refused):
            if answer.status not in (0xA700, 0xC000) or len(answer.comment) > 64:
                raise BrokenPromiseError(f"refused with {answer}")
            return None
        return self._note(answer)

    def _note(self, answer: Stored) -> SourceSlice:
        record = answer.record
        path = self._bench.settings.spool_dir / record.segment
        if path.parent != self._bench.settings.spool_dir or not path.is_file() or path.is_symlink():
            raise BrokenPromiseError("a segment outside the spool")
        self._stored.append(record)
        return SourceSlice(record.origin.sop_instance_uid, path, record.offset, record.length)

    def _read(self, source: Path | SourceSlice) -> str:
        """Header, vetting among three sound slices, volume."""
        try:
            header = read_header(source)
            self._stage(b"v")
            vetted = self._vet(header)
            self._stage(b"l")
            volume = load_volume(vetted)
        except Unfit as unfit:
            return _check_reason(unfit)
        if volume.hu.shape != vetted.grid.shape:
            raise BrokenPromiseError("a volume of another shape")
        return "VOLUME"

    def _vet(self, header: Header) -> Vetted:
        """Among the others; alone, if it is of another series, so that its own checks are reached as well."""
        try:
            return vet(Series(header.study_instance_uid, header.series_instance_uid, (*self._companions, header)), 2)
        except Unfit as unfit:
            _check_reason(unfit)
            if unfit.reason in (Reason.MIXED_PATIENT, Reason.MIXED_STUDY, Reason.MIXED_SIZE):
                vet(Series(header.study_instance_uid, header.series_instance_uid, (header,)), 1)
            raise

    def _decode_here(self, frames: Sequence[Frame]) -> Generator[Any]:
        """What `ct.decoding` does, but in this very process: fast, and a crash is seen by who watches it."""
        for frame in frames:
            with Path(frame.path).open("rb") as file:
                file.seek(frame.offset)
                data = file.read(frame.length)
            self._stage(DECODING)
            try:
                words = decode(data, frame)
            except (UndecodableError, MemoryError) as error:
                raise Unfit(Reason.UNDECODABLE, str(error)) from error
            self._stage(b"l")
            yield words

    # --- a report

    def _report(self, data: bytes) -> str:
        self._stage(b"r")
        self._file.write_bytes(data)
        try:
            text = check_sr.check(self._file).text
        except CommandError:
            verdict = "NOT_SR"
        else:
            verdict = "SR_TEXT"
            if len(text) > 50 * len(data) + 10000:
                raise BrokenPromiseError("the text of a report is out of proportion")
        try:
            dicom_sr.read(dicom_sr.open_report(self._file))
        except ReadError:
            return verdict
        return "SR"

    # --- a peer

    def _peer(self, data: bytes) -> str:
        self._stage(b"p")
        spool = self._bench.settings.spool_dir
        before = set(spool.glob("*.seg"))
        with socket.create_connection(self._listener.getsockname()) as peer:
            connection, _ = self._listener.accept()
            with suppress(OSError):
                peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            association = node.association.Association(
                connection, False, self._dicom, self._negotiator, self._bench.intake, on_rejected=lambda _: None
            )
            association.run(lambda: None)
            heard = read_until_closed(peer)
        answers = _pdus(heard)
        successes = sum(kind == upper_layer.P_DATA and _is_store_success(body) for kind, body in answers)
        stored = [record for path in sorted(set(spool.glob("*.seg")) - before) for record in scan(path)]
        if successes > len(stored):
            raise BrokenPromiseError(f"{successes} C-STORE answered with success, {len(stored)} records in the spool")
        self._stored += stored
        kinds = {kind for kind, _ in answers}
        for kind, name in ((7, "ABORTED"), (3, "REJECTED"), (6, "RELEASED")):
            if kind in kinds:
                return name
        return "GONE"

    # --- a client of the console, and the encoders

    def _browser(self, data: bytes) -> str:
        self._stage(b"w")
        if self._web is None:
            self._web = WebPeer(self._folder / "web", [_as_sent(seed) for _, seed in corpus()])
        answer = self._web.send(data)
        if broken(answer):
            raise BrokenPromiseError(f"the console answers with {answer[:2000]!r}")
        found = statuses(answer)
        return str(found[0]) if found else "GONE"

    def _encode(self, data: bytes) -> str:
        self._stage(b"e")
        self._file.write_bytes(data)
        return encoder_case.encode(self._file)

    # --- the index and completion

    def settle(self) -> None:
        """Everything that was stored has a row or repeats one, every series gets a verdict; then all is forgotten."""
        self._stage(b"x")
        if self._session is not None:
            self._session.close()
            self._session = None
        self._bench.indexer.catch_up()
        records = self._bench.records
        with records.reading() as session:
            rows = set(session.execute(select(Instance.segment, Instance.offset)).tuples())
            broken = session.execute(select(Unreadable.segment, Unreadable.offset, Unreadable.reason)).all()
            known = set(session.scalars(select(Instance.sop_instance_uid)))
        places = rows | {(segment, offset) for segment, offset, _ in broken}
        lost = [
            record for record in self._stored
            if (record.segment, record.offset) not in places and record.origin.sop_instance_uid not in known
        ]  # fmt: skip
        if lost or any(reason in (None, Reason.INTERNAL) for *_, reason in broken):
            raise BrokenPromiseError(f"{len(lost)} stored records are in no table")
        self._stage(b"c")
        complete_due(records, self._bench.settings, now() + timedelta(hours=1))
        with records.session() as session:
            for row in session.scalars(select(SeriesRow)):
                if row.state not in (State.VETTED, State.REJECTED) or (row.state == State.REJECTED and not row.reason):
                    raise BrokenPromiseError(f"a series stays {row.state}")
                if row.reason == Reason.INTERNAL:
                    raise BrokenPromiseError("vetting met something that it does not know; see the log")
            for table in (Instance, Unreadable, SeriesRow, SpoolSegment):
                session.execute(delete(table))
        for path in self._bench.settings.spool_dir.glob("*.seg"):
            path.unlink()
        self._stored.clear()
        with closing(self._bench.records.engine.raw_connection()) as raw:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")


_REAL_DECODER = ct.load.decode_frames
_NOTHING_FOUND = dicom_sr.Validation((), ())


def _origin(data: bytes) -> tuple[Origin, int]:
    """What a sender would announce, taken from the (damaged) meta information, and where the data set starts."""
    try:
        head = mutate_dicom.meta(data)
    except IndexError:
        head = mutate_dicom.Meta((), 0, b"")
    found = {e.tag: data[e.value : e.end].decode("latin-1").rstrip("\0 ") for e in head.elements}
    names = [found.get(tag) or default for tag, default in _MEDIA_STORAGE.items()]
    return Origin(*names, "STORESCU", "FVLM"), min(head.data_set, max(0, len(data) - 1))


def _as_sent(data: bytes) -> tuple[str, str, str, bytes]:
    """SOP class, instance, transfer syntax and data set."""
    origin, start = _origin(data)
    return origin.sop_class_uid, origin.sop_instance_uid, origin.transfer_syntax_uid, data[start:]


_MEDIA_STORAGE = {0x00020002: "1.2.840.10008.5.1.4.1.1.2", 0x00020003: "1.2.3", 0x00020010: "1.2.840.10008.1.2.1"}


def _check_reason(unfit: Unfit) -> str:
    if not isinstance(unfit.reason, Reason) or not unfit.detail or len(unfit.detail) > 1000:
        raise BrokenPromiseError(f"refused without a good reason: {unfit}")
    if unfit.reason is Reason.INTERNAL:
        raise BrokenPromiseError(f"refused for no fault of the case: {unfit}")
    return str(unfit.reason)


def _pdus(data: bytes) -> list[tuple[int, bytes]]:
    """What the node sent must be whole PDUs of known kinds."""
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at + 2 : at + 6], "big")
        if not 2 <= data[at] <= 7 or at + 6 + length > len(data):
            raise BrokenPromiseError(f"the node answers with what is no PDU: {data[at : at + 20].hex()}")
        found.append((data[at], data[at + 6 : at + 6 + length]))
        at += 6 + length
    return found


def _is_store_success(body: bytes) -> bool:
    field, status = body.find(b"\0\0\0\x01\x02\0\0\0"), body.find(b"\0\0\0\x09\x02\0\0\0")
    return body[field + 8 : field + 10] == b"\x01\x80" and body[status + 8 : status + 10] == b"\0\0"
