"""One series in, DICOM objects out: load, segment, read, encode, validate. Files only: no network, no database."""

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Lock
from traceback import extract_tb
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import structlog
import torch
from pydicom import Dataset

from config import Reason, Settings, load_vocabulary
from config.settings import ModelSettings
from ct.anatomy import AnatomyMap, Segmenter
from ct.load import load_volume
from ct.part10 import Unfit
from ct.segment import load_segmenter
from ct.series import group, read_data_set, read_header
from ct.vetting import Vetted, vet
from ct.volume import SourceSlice, Volume
from dicom_sr.errors import WriteError
from dicom_sr.outputs import output_of
from dicom_sr.validate import ToolMissingError, validate
from fvlm.checkpoint import load_release
from fvlm.reader import Reader
from fvlm.reading import Reading
from fvlm.text_cache import user_cache
from node.analysis import STAGES, Analysis, PipelineError, Wanted
from node.release import release_folder
from node.whose import Whose, whose

if TYPE_CHECKING:
    from dicom_sr.identity import Predecessor  # highdicom
    from dicom_sr.prior import Prior

_log = structlog.get_logger(__name__)

__all__ = ["STAGES", "Analysis", "Pipeline", "PipelineError"]

_DEVICE_ERRORS = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN error")
"""How errors of the GPU read where a library raises them as a plain RuntimeError."""


@dataclass
class _Stages:
    """Times the stages and turns whatever goes wrong in one into a PipelineError."""

    announce: Callable[[str], None] | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        if self.announce is not None:
            self.announce(name)
        started = time.perf_counter()
        try:
            yield
        except PipelineError:
            raise
        except (Unfit, WriteError) as error:
            raise PipelineError(error.reason, error.detail) from error
        except ToolMissingError as error:
            raise PipelineError(Reason.INTERNAL, str(error)) from error
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise PipelineError(Reason.OUT_OF_MEMORY, f"while the stage `{name}` ran") from error
        except torch.AcceleratorError as error:
            raise PipelineError(Reason.DEVICE_ERROR, f"while the stage `{name}` ran") from error
        except Exception as error:  # networks and encoders raise nearly anything; no series may take the worker down
            # The texts of such errors may quote the input: only the frames are logged.
            if "allocate memory" in str(error) or "not enough memory" in str(error):
                raise PipelineError(Reason.OUT_OF_MEMORY, f"while the stage `{name}` ran") from error
            if any(sign in str(error) for sign in _DEVICE_ERRORS):
                raise PipelineError(Reason.DEVICE_ERROR, f"while the stage `{name}` ran") from error
            where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
            _log.error("stage_failed", detail=name, error=type(error).__name__, where=" > ".join(where))
            raise PipelineError(Reason.INTERNAL, f"{type(error).__name__} in the stage `{name}`") from error
        self.seconds[name] = time.perf_counter() - started


class Pipeline:
    """A model release and a segmenter, loaded once, ready for any number of series."""

    def __init__(self, reader: Reader, make_segmenter: Callable[[], Segmenter], settings: Settings) -> None:
        """`make_segmenter` is called once, by whoever comes first to `complete`, `segmenter` or `run`."""
        self.reader = reader
        self._make_segmenter = make_segmenter
        self._segmenter: Segmenter | None = None
        self._loading = Lock()
        self._settings = settings

    @classmethod
    def from_settings(cls, settings: Settings) -> "Pipeline":
        """Load the release; `complete` loads the rest. Raises PipelineError (MODEL_UNAVAILABLE) with cause and cure."""
        torch.cuda.empty_cache()  # of a pipeline that was here before
        torch.set_num_threads(settings.model.threads or len(os.sched_getaffinity(0)))
        device = settings.model.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            reader = Reader(
                load_release(release_folder(settings.model.release), device, text=False),
                settings.model.cache_dir or user_cache(),
                settings.model.precision,
                settings.model.compiled,
                1 if settings.model.frugal else None,
            )
        # What is wrong with a folder of weights comes as many types (OS, safetensors, torch).
        except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
            raise PipelineError(Reason.MODEL_UNAVAILABLE, str(error)) from error
        return cls(reader, partial(_shared_segmenter, settings.model, device), settings)

    def complete(self) -> None:
        """Load all that a first series needs beside the release: segmenter and encoders, seconds of imports.

        From any thread; who comes while another loads waits for it. Raises PipelineError (MODEL_UNAVAILABLE).
        """
        _ = self.segmenter

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter, loaded. Raises as `complete` does."""
        with self._loading:
            if self._segmenter is None:
                try:
                    import dicom_sr.writer  # noqa: F401 - over half a second, needed by the first series

                    self._segmenter = self._make_segmenter()
                except (
                    Exception
                ) as error:  # nnU-Net, MONAI and their imports raise nearly anything; a worker has to say so
                    raise PipelineError(Reason.MODEL_UNAVAILABLE, str(error) or type(error).__name__) from error
            return self._segmenter

    @property
    def release_digest(self) -> str:
        """SHA-256 that identifies the model release, hex."""
        return self.reader.release.digest

    def vet(self, slices: Sequence[SourceSlice]) -> Vetted:
        """Vet the instances of one series by the limits of the settings. Raises PipelineError."""
        limits = self._settings.routing
        with _Stages(None).stage("vet"):
            series = group(read_header(source) for source in slices)
            if len(series) != 1:
                raise PipelineError(Reason.BAD_UID, f"{len(slices)} instances of {len(series)} series, not of one")
            return vet(series[0], limits.min_slices, limits.max_slices)

    def whose(self, series: Vetted) -> Whose | None:
        """Of whom the study is. Raises PipelineError."""
        with _Stages(None).stage("vet"):
            return whose(read_data_set(series.headers[0].source), self._settings.data_dir)

    def run(
        self,
        series: Vetted,
        images_at: datetime,
        on_stage: Callable[[str], None] | None = None,
        predecessor: "Predecessor | None" = None,
        prior: "Prior | None" = None,
        ask: Callable[[Sequence[str]], Wanted] | None = None,
    ) -> Analysis:
        """Analyse one vetted series; `on_stage(name)` is called before each of STAGES, and may raise to stop.

        `images_at` (with time zone) is when the last of its images came; it dates the objects. `predecessor` is the
        delivered report on the same series that the new one takes the place of, `prior` the patient's earlier reading.
        `ask`, called with the anatomies that were segmented whole, tells what is wanted of them, and may raise to stop;
        None: all that the release asks, in what the destinations of the settings get.

        Raises PipelineError, and whatever `on_stage` and `ask` raise.
        """
        run = _Stages(on_stage)
        volume, anatomy_map = self._segmented(series, run)
        wanted = Wanted(self._settings.plan) if ask is None else ask(anatomy_map.whole)
        reading = self._reading(volume, anatomy_map, wanted.preset, run)
        with run.stage("encode"):
            from dicom_sr.identity import WriteContext
            from dicom_sr.writer import write
            from node.installation import device_uid

            headers = [read_data_set(source) for source in volume.sources]
            context = WriteContext(
                images_at=images_at,
                device_uid=device_uid(self._settings.spool_dir),
                institution=self._settings.institution,
                predecessor=predecessor,
                prior=prior,
                preset=wanted.preset,
            )
            objects = tuple(write(reading, anatomy_map, headers, context, wanted.plan, volume))
        with run.stage("validate"):
            for dataset in objects:
                _check(dataset)
        return Analysis(volume, anatomy_map, reading, objects, run.seconds)

    def read(self, series: Vetted, preset: str = "") -> tuple[Reading, dict[str, float]]:
        """What the release says about one vetted series, and wall seconds per stage; no object is made.

        `preset`: as in `Wanted`. Raises PipelineError.
        """
        run = _Stages(None)
        reading = self._reading(*self._segmented(series, run), preset, run)
        return reading, run.seconds

    def _segmented(self, series: Vetted, run: _Stages) -> tuple[Volume, AnatomyMap]:
        with run.stage("load"):
            volume = load_volume(series)
        with run.stage("segment"):
            return volume, self.segmenter.segment(volume, self.reader.release.config.model.anatomies)

    def _reading(self, volume: Volume, anatomy_map: AnatomyMap, preset: str, run: _Stages) -> Reading:
        with run.stage("read"):
            reading = self.reader.read(volume, anatomy_map)
            if not preset:
                return reading
            try:
                return reading.only(load_vocabulary().preset(preset))
            except (KeyError, ValueError) as error:
                raise PipelineError(Reason.PRESET_UNFIT, f"preset {preset}") from error


_segmenters: WeakValueDictionary[str, Segmenter] = WeakValueDictionary()


def _shared_segmenter(model: ModelSettings, device: str) -> Segmenter:
    """One for all pipelines of this process that want the same: releases differ, the segmenter does not."""
    settings = model.model_dump_json(
        include={"segmenter", "totalsegmentator_weights", "totalsegmentator_fast", "frugal"}
    )
    found = _segmenters.get(f"{device} {settings}")
    if found is None:
        found = _segmenters[f"{device} {settings}"] = load_segmenter(model, device)
    return found


def _check(dataset: Dataset) -> None:
    """Raises PipelineError (INVALID_OBJECT) if dciodvfy finds an error. Values are not told: they may be personal."""
    found = validate(dataset)
    for warning in found.warnings:
        _log.warning("object_warning", kind=output_of(dataset), detail=_attributes(warning))
    if not found.ok:
        where = "; ".join(sorted({_attributes(line) for line in found.errors}))
        raise PipelineError(Reason.INVALID_OBJECT, f"{output_of(dataset)}: {len(found.errors)} errors: {where}"[:1000])


def _attributes(line: str) -> str:
    """Which attributes a validator's line is about, without their values."""
    return " ".join(_ATTRIBUTE.findall(line)) or "an attribute that the validator does not name"


_ATTRIBUTE = re.compile(r"\(0x[0-9a-fA-F]{4},0x[0-9a-fA-F]{4}\)|Element=<\w+>|attribute <[\w' ]+>")
"""How dciodvfy names attributes; everything else in its lines may be a value."""
