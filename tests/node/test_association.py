"""One association at a time, by hand: what is legal in any form is kept byte for byte, what is not ends cleanly."""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)
from pynetdicom import AE
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.presentation import build_role
from pynetdicom.sop_class import Verification
from raw_pdu import (
    ABORT,
    COMMAND,
    LAST,
    RELEASE,
    abort_reason,
    answer,
    command,
    connect,
    context,
    data,
    dial,
    item,
    pdu,
    pdv,
    read_pdu,
    request,
    status_in,
    store,
)
from spool_data import Receiver, ct_slice, encode, read_until_closed, receiver, settings_for

from node.spool import Damage, SegmentReader, scan, segments

pytestmark = pytest.mark.timeout(900)  # a safety net on a busy machine, not an expectation

_UNRECOGNIZED, _UNEXPECTED, _INVALID = (2, 1), (2, 2), (2, 6)
"""A-ABORT by the provider (PS3.8 table 9-26)."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """Two receiving processes; 4 s network time-out; one class more than usual."""
    settings = settings_for(
        tmp_path_factory.mktemp("association") / "node",
        network_timeout_s=4.0,
        receivers=2,
        more_storage_classes=[UltrasoundImageStorage],
    )
    with receiver(settings) as started:
        yield started
        assert started.events("association_failed") == [], "an exception that nobody expected"


def _kept(running: Receiver) -> dict[str, tuple[str, bytes]]:
    """Transfer syntax and data set by SOP Instance UID. Nothing in the spool may look damaged."""
    found = {}
    for path in segments(running.settings.spool_dir):
        damages: list[Damage] = []
        with SegmentReader(path) as reader:
            for record in scan(path, on_damage=damages.append):
                origin = record.origin
                found[origin.sop_instance_uid] = (origin.transfer_syntax_uid, bytes(reader.data_set(record)))
        assert damages == []
    return found


def _still_serves(running: Receiver) -> None:
    with connect(running, context(1, Verification)) as connection:
        connection.sendall(data(COMMAND | LAST, command(b"", Verification.encode(), 0x0101, 0x0030)))
        assert answer(connection) == 0x0000


def _pieces(rng: random.Random, content: bytes, kind: int, longest: int) -> list[bytes]:
    """A message part as PDVs of 0 to `longest` bytes; the last one may be empty."""
    cuts = []
    left = content
    while left or rng.random() < 0.3:
        size = rng.choice([0, 1, rng.randint(0, longest)])
        cuts.append(left[:size])
        left = left[size:]
    cuts = cuts or [b""]
    return [pdv(kind | LAST * (n == len(cuts)), cut) for n, cut in enumerate(cuts, 1)]


@pytest.mark.parametrize("longest", [8000, 64000])
def test_random_fragments_of_any_size_are_put_together_exactly(running: Receiver, longest: int) -> None:
    rng = random.Random(longest)
    sent = {}

    def send(number: int) -> None:
        own = random.Random(f"{longest} {number}")
        with connect(running) as connection:
            for image in range(10):
                uid, content = f"1.9.{longest}.{number}.{image}", own.randbytes(own.randint(1, 300_000))
                pdvs = _pieces(own, command(uid.encode()), COMMAND, 40) + _pieces(own, content, 0, longest)
                while pdvs:  # 1 to 5 PDVs a PDU: command and data set share some
                    together, pdvs = pdvs[: (n := own.randint(1, 5))], pdvs[n:]
                    connection.sendall(pdu(0x04, b"".join(together)))
                assert answer(connection) == 0x0000
                sent[uid] = (str(ExplicitVRLittleEndian), content)
            connection.sendall(RELEASE)
            assert read_pdu(connection).kind == 0x06  # type: ignore[union-attr]
            assert read_until_closed(connection) == b""

    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(send, rng.randrange(10**6)) for _ in range(3)]:
            done.result(300)
    kept = _kept(running)
    assert len(sent) == 30
    assert {uid: kept.get(uid) for uid in sent} == sent


def test_a_data_set_much_longer_than_the_buffer_in_the_longest_pdus(running: Receiver) -> None:
    content = random.Random(1).randbytes(5_000_000)
    cut = 1_048_570
    with connect(running) as connection:
        for uid in ("1.8.1", "1.8.2"):
            connection.sendall(data(COMMAND | LAST, command(uid.encode())))
            for at in range(0, len(content), cut):
                connection.sendall(data(LAST * (at + cut >= len(content)), content[at : at + cut]))
            assert answer(connection) == 0x0000
    kept = _kept(running)
    assert kept["1.8.1"][1] == kept["1.8.2"][1] == content


def test_messages_that_come_without_waiting_for_answers_are_answered_in_order(running: Receiver) -> None:
    content = {f"1.8.3.{n}": encode(ct_slice(number=n)) for n in range(1, 21)}
    with connect(running) as connection:
        connection.sendall(b"".join(store(uid, one) for uid, one in content.items()) + RELEASE)
        got = [read_pdu(connection) for _ in content]
        assert [status_in(one.body) for one in got if one] == [0x0000] * 20
        assert [uid.encode() in one.body for uid, one in zip(content, got, strict=True) if one] == [True] * 20
        assert read_pdu(connection).kind == 0x06  # type: ignore[union-attr]
    kept = _kept(running)
    assert {uid: kept[uid][1] for uid in content} == content


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, HTJ2KLossless]
)
def test_every_transfer_syntax_is_taken_and_stored_as_sent(running: Receiver, syntax: str) -> None:
    uid, content = f"1.7.{len(syntax)}.{syntax}"[:64].rstrip("."), b"not even " + syntax.encode()
    with connect(running, context(5, CTImageStorage, syntax)) as connection:
        connection.sendall(store(uid, content, 5))
        assert answer(connection) == 0x0000
    assert _kept(running)[uid] == (syntax, content)


def test_uids_lose_their_padding_in_the_spool_and_keep_it_in_the_answer(running: Receiver) -> None:
    with connect(running) as connection:
        for padded in (b"1.6.11 ", b"1.6.111\0"):
            connection.sendall(data(COMMAND | LAST, command(padded)) + data(LAST, b"data"))
            got = read_pdu(connection)
            assert got is not None
            assert status_in(got.body) == 0x0000
            assert padded in got.body
    assert {"1.6.11", "1.6.111"} <= _kept(running).keys()


def test_a_class_of_the_settings_is_taken(running: Receiver) -> None:
    with connect(running, context(1, UltrasoundImageStorage)) as connection:
        connection.sendall(store("1.6.2", b"data", cls=UltrasoundImageStorage))
        assert answer(connection) == 0x0000
    assert "1.6.2" in _kept(running)


def test_services_on_the_wrong_context_are_refused_and_the_association_goes_on(running: Receiver) -> None:
    with connect(running, context(1), context(3, Verification)) as connection:
        connection.sendall(store("1.6.3", b"data", 3, Verification))
        assert answer(connection) == 0x0122
        connection.sendall(data(COMMAND | LAST, command(b"", Verification.encode(), 0x0101, 0x0030), 1))
        assert answer(connection) == 0x0122
        connection.sendall(data(COMMAND | LAST, command(b"1.2", field=0x0020)) + data(LAST, b"identifier"))
        assert answer(connection) == 0x0211
        connection.sendall(data(COMMAND | LAST, command(b"1.2", data_set=0x0101, field=0x0150)))
        assert answer(connection) == 0x0211
        cancel = struct.pack("<HHIHHHIHHHIH", 0, 0x0100, 2, 0x0FFF, 0, 0x0120, 2, 7, 0, 0x0800, 2, 0x0101)
        connection.sendall(data(COMMAND | LAST, cancel) + store("1.6.4", b"data"))
        assert answer(connection) == 0x0000, "a cancel request has no answer"
    kept = _kept(running)
    assert "1.6.3" not in kept
    assert "1.6.4" in kept


def test_an_answer_respects_the_pdu_length_of_the_peer(running: Receiver) -> None:
    with connect(running, longest=50) as connection:
        connection.sendall(store("1.6.5", b"data"))
        joined, flags = b"", 0
        while not flags & LAST:
            got = read_pdu(connection)
            assert got is not None
            assert len(got.body) <= 50
            flags = got.body[5]
            joined += got.body[6:]
    assert status_in(joined) == 0x0000


def test_what_we_take_in_a_pdu_is_what_the_settings_say(running: Receiver) -> None:
    with dial(running) as connection:
        connection.sendall(request())
        got = read_pdu(connection)
    assert got is not None
    assert item(0x51, struct.pack(">I", running.settings.dicom.max_pdu)) in got.body


def test_a_requestor_with_identity_roles_and_a_wide_window_is_served_plainly(running: Receiver) -> None:
    ae = AE(ae_title="STORESCU")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    identity = UserIdentityNegotiation()
    identity.user_identity_type = 1
    identity.primary_field = b"PLANTED^NAME"
    identity.positive_response_requested = True
    association = ae.associate(
        "127.0.0.1", running.port, ae_title="FVLM", ext_neg=[identity, build_role(CTImageStorage, True, True)]
    )
    assert association.acceptor.asynchronous_operations == (1, 1)
    assert association.send_c_store(ct_slice(series=77)).Status == 0x0000
    association.release()
    assert "PLANTED^NAME" not in "".join(running.log)


# --- ends in the middle


@pytest.mark.parametrize("how", ["cut", "reset", "abort", "release"])
def test_what_was_not_finished_leaves_nothing_and_what_was_before_stays(running: Receiver, how: str) -> None:
    with connect(running) as connection:
        connection.sendall(store(f"1.5.{len(how)}.1", b"whole"))
        assert answer(connection) == 0x0000
        connection.sendall(data(COMMAND | LAST, command(f"1.5.{len(how)}.2".encode())))
        for _ in range(30):
            connection.sendall(data(0, b"x" * 100_000))
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif how == "abort":
            connection.sendall(ABORT)
            assert read_until_closed(connection) == b""
        elif how == "release":
            connection.sendall(RELEASE)
            assert read_pdu(connection).kind == 0x06  # type: ignore[union-attr]
    _still_serves(running)
    kept = _kept(running)
    assert kept[f"1.5.{len(how)}.1"][1] == b"whole"
    assert f"1.5.{len(how)}.2" not in kept


def test_the_same_instance_over_two_associations_at_once_is_kept_whole_from_both(running: Receiver) -> None:
    content = random.Random(5).randbytes(400_000)
    with connect(running) as one, connect(running) as two:
        for at in range(0, len(content), 10_000):
            for connection in (one, two):
                head = data(COMMAND | LAST, command(b"1.5.99")) if at == 0 else b""
                last = LAST * (at + 10_000 >= len(content))
                connection.sendall(head + data(last, content[at : at + 10_000]))
        assert [answer(one), answer(two)] == [0x0000, 0x0000]
    found = []
    for path in segments(running.settings.spool_dir):
        with SegmentReader(path) as reader:
            found += [bytes(reader.data_set(r)) == content for r in scan(path) if r.origin.sop_instance_uid == "1.5.99"]
    assert found == [True, True]


# --- what is against the protocol

_STORE = data(COMMAND | LAST, command(b"1.4.1"))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (pdu(0x04, struct.pack(">IBB", 1, 1, 3)), _INVALID),
        (pdu(0x04, struct.pack(">IBB", 0xFFFFFFFF, 1, 3) + b"abc"), _INVALID),
        (pdu(0x04, pdv(COMMAND | LAST, command(b"1.4.1")) + b"\0\0\0"), _INVALID),
        (pdu(0x04, b""), _INVALID),
        (struct.pack(">BxI", 0x04, 2**20 + 1), _INVALID),
        (data(COMMAND | LAST, command(b"1.4.1"), 9), _INVALID),
        (data(COMMAND | LAST, command(b"1.4.1"), 3), _INVALID),
        (_STORE + data(LAST, b"data", 5), _INVALID),
        (data(COMMAND, command(b"1.4.1")[:20]) + data(COMMAND | LAST, command(b"1.4.1")[20:], 5), _INVALID),
        (data(LAST, b"data"), _UNEXPECTED),
        (_STORE + data(0, b"da") + _STORE, _UNEXPECTED),
        (data(COMMAND, bytes(40_000)) + data(COMMAND, bytes(40_000)), _INVALID),
        (data(COMMAND | LAST, b""), _INVALID),
        (data(COMMAND | LAST, command(b"1.4.1")[:-3]), _INVALID),
        (data(COMMAND | LAST, struct.pack("<HHI", 0, 0x0100, 0xFFFFFFFF) + b"ab"), _INVALID),
        (data(COMMAND | LAST, struct.pack("<HHI", 8, 0x0100, 2) + b"ab"), _INVALID),
        (data(COMMAND | LAST, command(b"1.4.1", field=0x8001)), _UNEXPECTED),
        (pdu(0x09, b"what"), _UNRECOGNIZED),
        (pdu(0x00, b"what"), _UNRECOGNIZED),
        (request(), _UNEXPECTED),
        (pdu(0x06, bytes(4)), _UNEXPECTED),
        (b"GET / HTTP/1.1\r\n\r\n", _UNRECOGNIZED),
    ],
)
def test_a_breach_of_the_protocol_is_answered_with_abort_and_its_reason(
    running: Receiver, sent: bytes, reason: tuple[int, int]
) -> None:
    contexts = (context(1), context(3, "1.2.3.4"), context(5, SecondaryCaptureImageStorage))
    with connect(running, *contexts) as connection:
        connection.sendall(sent)
        assert abort_reason(connection) == reason
    assert "1.4.1" not in _kept(running)


@pytest.mark.parametrize(
    "sent",
    [
        request(context(2)),
        request(context(1), context(1)),
        request(item(0x20, b"\1\0\0\0" + item(0x30, CTImageStorage.encode()))),
        request(item(0x20, b"\1\0\0\0")),
        request(item(0x77, b"what is this")),
        request(b"\x20\0\xff\xff"),
        request(context(1, "x" * 70)),
        request(context(1, "\xe4".encode("latin1").decode("latin1"))),
        pdu(0x01, b""),
        pdu(0x01, bytes(68)),
        struct.pack(">BxI", 0x01, 2**31),
        request()[:-4] + b"\xff\xff\xff\xff",
        data(COMMAND | LAST, command(b"1.4.1")),
        pdu(0x05, bytes(4)),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_request_that_makes_no_sense_is_aborted(running: Receiver, sent: bytes) -> None:
    with dial(running) as connection:
        connection.sendall(sent)
        got = read_pdu(connection)
        assert got is not None
        assert got.kind == 0x07
    _still_serves(running)


def test_a_protocol_version_that_does_not_exist_is_rejected(running: Receiver) -> None:
    with dial(running) as connection:
        connection.sendall(request(version=2))
        got = read_pdu(connection)
    assert got is not None
    assert (got.kind, got.body) == (0x03, bytes((0, 1, 2, 2)))


def test_who_only_looks_whether_the_port_is_open_is_not_mentioned(running: Receiver) -> None:
    before = len(running.events("association_lost") + running.events("association_aborted"))
    for _ in range(5):
        dial(running).close()
    _still_serves(running)
    assert len(running.events("association_lost") + running.events("association_aborted")) == before


# --- too slow


def _drip(connection: socket.socket, piece: bytes, ended: threading.Event) -> None:
    with suppress(OSError):
        while not ended.wait(0.1):
            connection.sendall(piece)


@pytest.mark.parametrize("place", ["request", "command", "data set", "empty fragments"])
def test_a_trickle_does_not_hold_an_association_for_ever(running: Receiver, place: str) -> None:
    with dial(running) if place == "request" else connect(running) as connection:
        if place in ("data set", "empty fragments"):
            connection.sendall(_STORE)
        pieces = {"request": b"\1", "command": data(COMMAND, b"\0"), "data set": data(0, b"x")}
        piece = pieces.get(place, data(0, b""))
        ended = threading.Event()
        dripping = threading.Thread(target=_drip, args=(connection, piece, ended))
        if place == "request":
            connection.sendall(request()[:20])
        dripping.start()
        read_until_closed(connection)
        ended.set()
        dripping.join()
    assert "1.4.1" not in _kept(running)


def test_a_peer_that_does_not_read_is_put_out(running: Receiver) -> None:
    echo = data(COMMAND | LAST, command(b"", Verification.encode(), 0x0101, 0x0030))
    before = len(running.events("association_aborted"))
    with connect(running, context(1, Verification)) as connection:
        connection.settimeout(2)
        with suppress(OSError):
            while True:  # until its answers and our questions are stuck
                connection.sendall(echo * 1000)
        deadline = time.monotonic() + 60
        while len(running.events("association_aborted")) == before:
            assert time.monotonic() < deadline, "it waits for ever"
            time.sleep(0.1)
    _still_serves(running)
