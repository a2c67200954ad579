"""A folder of shards with its index `index.json`."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from config import Reason
from training.shards.format import Fit, Shard, ShardError, open_shard
from training.shards.plan import ShardPlan
from training.study import Split

INDEX = "index.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Frozen):
    """One shard of the folder."""

    file: str
    source: str
    key: str
    scan: str
    subject: str
    split: Split
    usable: int
    """Anatomies that may be read where a crop holds them whole."""
    abnormal: int
    """Anatomies that the report calls abnormal."""
    sha256: str

    @classmethod
    def of(cls, shard: Shard) -> Self:
        record = shard.record
        return cls(
            file=shard.path.name,
            source=record.source,
            key=record.key,
            scan=record.scan,
            subject=record.subject,
            split=record.split,
            usable=sum(anatomy.usable for anatomy in record.anatomies),
            abnormal=sum(not anatomy.normal for anatomy in record.anatomies),
            sha256=shard.sha256,
        )


class Skipped(_Frozen):
    """One study of which there is no shard."""

    source: str
    key: str
    reason: Reason
    text: str


class Index(_Frozen):
    """`index.json`: everything a reader needs before it opens a shard."""

    format: Literal["fvlm-node-shards"] = "fvlm-node-shards"
    version: Literal[1] = 1
    complete: bool
    """False: the run that makes the folder has not ended yet."""
    plan: ShardPlan
    voxel_digest: str
    vocabulary_digest: str
    studies: tuple[Entry, ...]
    skipped: tuple[Skipped, ...]

    @property
    def fit(self) -> Fit:
        return Fit(self.voxel_digest, self.vocabulary_digest)

    def write(self, folder: Path) -> None:
        """Replace the folder's index in one move."""
        partial = folder / f".{INDEX}.part"
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / INDEX)


def read_index(folder: Path) -> Index:
    """The index of a folder. Raises ShardError."""
    path = folder / INDEX
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("format") != "fvlm-node-shards" or found.get("version") != 1:
            raise ShardError(f"{path}: format {found.get('format')} {found.get('version')}, not fvlm-node-shards 1")
        return Index.model_validate(found)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); make shards with train shards") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ShardError(f"{path}: damaged at {where}; run train shards again") from error
    except (ValueError, AttributeError) as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"{path}: damaged, no JSON object; run train shards again") from error


@dataclass(frozen=True)
class ShardFolder:
    """A finished folder of shards, to read."""

    path: Path
    index: Index

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the index. Raises ShardError: not finished, damaged, or made with another vocabulary than today's."""
        index = read_index(path)
        if not index.complete:
            raise ShardError(f"{path}: the run that made it has not ended; run the same train shards command again")
        if index.fit != Fit.of(index.plan):
            raise ShardError(f"{path}: made with another vocabulary than this program has; make the shards again")
        return cls(path, index)

    @property
    def plan(self) -> ShardPlan:
        return self.index.plan

    def shard(self, entry: Entry) -> Shard:
        """Map one of its shards. Raises ShardError, also where the file is that of another study."""
        shard = open_shard(self.path / entry.file, self.index.fit)
        if (shard.record.source, shard.record.key, shard.sha256) != (entry.source, entry.key, entry.sha256):
            raise ShardError(f"{shard.path}: not the shard that the index names; run train shards again")
        return shard

    def verify(self, progress: Callable[[int, int], None]) -> tuple[str, ...]:
        """Read every shard whole; what is wrong, one line a shard."""
        return tuple(self._problems(progress))

    def _problems(self, progress: Callable[[int, int], None]) -> Iterable[str]:
        for done, entry in enumerate(self.index.studies, start=1):
            try:
                self.shard(entry).verify()
            except ShardError as error:
                yield str(error)
            progress(done, len(self.index.studies))
