"""The file of one study: a safetensors file that is mapped or read in parts, never loaded whole.

Tensors `image` (int16 HU) and `labels` (uint8), both [z, y, x] in C order: the rows that a crop needs of an axial slice
are one run of bytes, and nothing is decompressed. docs/researcher/shards.md describes all of it.
"""

import hashlib
import json
import mmap
import os
import struct
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from config import load_vocabulary
from ct.anatomy import UInt8Array
from ct.volume import Int16Array
from fvlm.preprocess import Box
from training.shards.plan import ShardPlan, vocabulary_digest
from training.shards.record import StudyRecord

FORMAT, VERSION = "fvlm-node-shard", "1"
SUFFIX = ".safetensors"
_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 16 * 2**20
_DTYPES: dict[str, np.dtype[Any]] = {"I16": np.dtype("<i2"), "U8": np.dtype("u1")}
_TENSORS = {"image": "I16", "labels": "U8"}


class ShardError(ValueError):
    """A shard cannot be used. The text names the file, what is wrong and the cure."""


@dataclass(frozen=True)
class Fit:
    """What shards must have been made for, to be read together."""

    voxels: str
    vocabulary: str

    @classmethod
    def of(cls, plan: ShardPlan) -> "Fit":
        return cls(plan.voxel_digest, vocabulary_digest(load_vocabulary()))


@dataclass(frozen=True)
class Shard:
    """One study on disk, mapped."""

    path: Path
    record: StudyRecord
    image: Int16Array
    """HU int16 [z, y, x], read-only, mapped: pages come from the disk when they are touched."""
    labels: UInt8Array
    """uint8 [z, y, x]."""
    sha256: str
    """Of record and voxels, as the file says."""
    _study: str
    _handle: int
    _offsets: dict[str, int]

    def slices(self, name: Literal["image", "labels"], box: Box) -> Iterator[npt.NDArray[Any]]:
        """The slices [y, x] of a box in the shard, one after another; each is valid until the next one is asked for.

        They are read, not mapped: a third faster, and the system reads ahead. Raises ShardError if the file ends early.
        """
        whole = self.image if name == "image" else self.labels
        _, rows, columns = box.slices((0, 0, 0))
        buffer = np.empty((rows.stop - rows.start, whole.shape[2]), whole.dtype)
        shown, row = buffer[:, columns], whole.strides[1]
        for z in range(box.start[0], box.stop[0]):
            at = self._offsets[name] + z * whole.strides[0] + rows.start * row
            if os.preadv(self._handle, [buffer.data], at) != buffer.nbytes:
                raise ShardError(f"{self.path}: it became shorter while it was read; run train shards again")
            yield shown

    def verify(self) -> None:
        """Read all of it and compare the checksum. Raises ShardError."""
        if _checksum(self._study, self.image, self.labels) != self.sha256:
            raise ShardError(f"{self.path}: damaged: its checksum is another; remove it and run train shards again")


def write_shard(path: Path, record: StudyRecord, image: Int16Array, labels: UInt8Array, fit: Fit) -> None:
    """Write one study in one move: at any moment there is the whole file or none. Raises OSError."""
    study = record.model_dump_json()
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "voxel_digest": fit.voxels,
        "vocabulary_digest": fit.vocabulary,
        "study": study,
        "study_sha256": hashlib.sha256(study.encode()).hexdigest(),
        "sha256": _checksum(study, image, labels),
    }
    data = save({"image": np.ascontiguousarray(image), "labels": np.ascontiguousarray(labels)}, metadata)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def open_shard(path: Path, fit: Fit | None = None) -> Shard:
    """Map a shard. With `fit`, one that was made for something else is refused.

    Structure, lengths and the text's checksum are looked at each time; `Shard.verify` reads the voxels as well.
    Raises ShardError.
    """
    try:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            handle = os.dup(file.fileno())
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be opened ({error}); run train shards again") from error
    try:
        shard = _parsed(path, mapped, handle, fit)
    except ShardError:
        os.close(handle)
        raise
    weakref.finalize(shard, os.close, handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return shard


def _parsed(path: Path, mapped: mmap.mmap, handle: int, fit: Fit | None) -> Shard:
    header, start = _header(path, mapped)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise ShardError(f"{path}: no shard of fVLM Node; name a folder that train shards made")
    if metadata.get("version") != VERSION:
        raise ShardError(f"{path}: version {metadata.get('version')} of the format, this program reads {VERSION}")
    if fit is not None:
        if metadata.get("voxel_digest") != fit.voxels:
            raise ShardError(
                f"{path}: made with other preprocessing or anatomies; remove it and run train shards again"
            )
        if metadata.get("vocabulary_digest") != fit.vocabulary:
            raise ShardError(f"{path}: made with another vocabulary; remove it and run train shards again")
    study = str(metadata.get("study"))
    if hashlib.sha256(study.encode()).hexdigest() != metadata.get("study_sha256"):
        raise ShardError(f"{path}: damaged: the checksum of its text is another; remove it and run train shards again")
    try:
        record = StudyRecord.parse(study)
        image, labels = (_tensor(mapped, header[name], start, kind) for name, kind in _TENSORS.items())
        offsets = {name: start + int(header[name]["data_offsets"][0]) for name in _TENSORS}
        if image.shape != labels.shape:
            raise ValueError(f"image {image.shape}, labels {labels.shape}")
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path}: damaged ({type(error).__name__}); remove it and run train shards again") from error
    sha256 = str(metadata.get("sha256"))
    return Shard(path, record, image, labels, sha256, study, handle, offsets)


def _header(path: Path, mapped: mmap.mmap) -> tuple[dict[str, Any], int]:
    """The JSON at the start of a safetensors file, and where its tensors begin."""
    try:
        length = _LENGTH.unpack_from(mapped)[0]
        start = _LENGTH.size + length
        if length > _LONGEST_HEADER or start > len(mapped):
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(mapped[_LENGTH.size : start])
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
        if max(ends) != len(mapped) - start:
            raise ValueError(f"{len(mapped) - start} bytes of voxels instead of {max(ends)}")
    except (struct.error, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise ShardError(f"{path}: damaged, or no shard ({error}); remove it and run train shards again") from error
    return header, start


def _tensor(mapped: mmap.mmap, entry: dict[str, Any], start: int, kind: str) -> npt.NDArray[Any]:
    first, stop = (int(offset) for offset in entry["data_offsets"])
    dtype, shape = _DTYPES[kind], tuple(int(size) for size in entry["shape"])
    if entry["dtype"] != kind or len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"{entry['dtype']} {shape}")
    count = (stop - first) // dtype.itemsize
    voxels: npt.NDArray[Any] = np.frombuffer(mapped, dtype, count, start + first)
    return voxels.reshape(shape)


def _checksum(study: str, image: Int16Array, labels: UInt8Array) -> str:
    digest = hashlib.sha256(study.encode())
    digest.update(np.ascontiguousarray(image).data.cast("B"))
    digest.update(np.ascontiguousarray(labels).data.cast("B"))
    return digest.hexdigest()
