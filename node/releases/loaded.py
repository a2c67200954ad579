"""The releases that an analyze worker holds in memory: at most two, the one in force and one that ends its studies."""

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from config import Reason
from node.analysis import PipelineError
from node.database import Records
from node.records import Job
from node.release import release_digest
from node.releases import registry

if TYPE_CHECKING:
    from node.pipeline import Pipeline  # torch

_log = structlog.get_logger(__name__)

MOST = 2
"""Releases in memory at once; one in the smaller configuration."""
Load = Callable[[str, bool], "Pipeline"]
"""Makes the pipeline of the release at a path, in the smaller configuration or not. Raises PipelineError."""


class LoadedReleases:
    """Pipelines by where their release lies, in the order of their last use."""

    def __init__(
        self, records: Records, configured: str, first: "Pipeline", first_path: str, load: Load | None
    ) -> None:
        """`configured`: `settings.model.release`; `load` None: `first` is all there is."""
        self._records, self._configured, self._load = records, configured, load
        self._loaded: dict[str, Pipeline] = {first_path: first}
        self._sealed = {first_path: _on_disk(first_path) if load is not None else ""}
        """Digest that lay at the path when it was loaded."""
        self._frugal = False

    @property
    def digests(self) -> list[str]:
        """Of the releases in memory, the one that was used last at the end."""
        return [pipeline.release_digest for pipeline in self._loaded.values()]

    def of(self, digest: str, frugal: bool, named: str = "") -> "Pipeline | None":
        """The pipeline of one release; None if no release of this digest is to be found any more.

        `named`: where it lies, for one that a routing rule names; empty: the registry knows.

        Raises PipelineError (MODEL_UNAVAILABLE) if it is there and cannot be loaded, sqlalchemy.exc.DBAPIError.
        """
        self._configure(frugal)
        held = next((path for path, one in self._loaded.items() if one.release_digest == digest), None)
        if held is not None:
            return self._use(held)
        if self._load is None:
            return None
        path = named
        if not path:
            with self._records.reading() as session:
                path = registry.path_of(session, digest) or self._configured
        if _on_disk(path) != digest or (path in self._loaded and self._sealed.get(path) == digest):
            return None
        self._loaded.pop(path, None)  # another release lies there by now
        pipeline = self._get(path)
        return pipeline if pipeline.release_digest == digest else None

    def of_job(self, job: Job) -> "Pipeline":
        """The pipeline that reads a job: of its own release; if that is gone, and no rule named it, of the one in
        force.

        Raises PipelineError (MODEL_UNAVAILABLE, RELEASE_GONE), sqlalchemy.exc.DBAPIError.
        """
        own = self.of(job.release_digest, job.frugal, job.release)
        if own is None and job.release:
            detail = f"the release that the rule named, {job.release_digest[:12]}, is not there any more"
            raise PipelineError(Reason.RELEASE_GONE, detail)
        return own or self.in_force(job.frugal)

    def in_force(self, frugal: bool) -> "Pipeline":
        """The pipeline of the release in force. Raises as `of` does."""
        self._configure(frugal)
        if self._load is None:
            return next(iter(self._loaded.values()))
        with self._records.reading() as session:
            path = registry.path_in_force(session, self._configured)
        return self._get(path)

    def drop_idle(self) -> None:
        """Forget releases that have nothing to read any more; the last one used stays in any case."""
        if len(self._loaded) < MOST:
            return
        with self._records.reading() as session:
            needed = registry.needed(session)
        for path in list(self._loaded)[:-1]:
            if self._loaded[path].release_digest not in needed:
                self._drop(path)

    def _configure(self, frugal: bool) -> None:
        """The smaller and the usual configuration are never in memory together."""
        if self._load is not None and frugal != self._frugal:
            self._loaded.clear()
            gc.collect()
            self._frugal = frugal

    def _get(self, path: str) -> "Pipeline":
        assert self._load is not None
        if path in self._loaded:
            return self._use(path)
        while len(self._loaded) >= (1 if self._frugal else MOST):
            self._drop(next(iter(self._loaded)))
        self._sealed[path] = _on_disk(path)
        self._loaded[path] = self._load(path, self._frugal)
        return self._loaded[path]

    def _use(self, path: str) -> "Pipeline":
        self._loaded[path] = self._loaded.pop(path)
        return self._loaded[path]

    def _drop(self, path: str) -> None:
        """Gone before another one comes."""
        digest = self._loaded.pop(path).release_digest
        gc.collect()
        _log.info("release_dropped", digest=digest)


def _on_disk(path: str) -> str:
    """Digest of the release that lies there now; empty: none can be read."""
    try:
        return release_digest(path)
    except OSError:
        return ""
