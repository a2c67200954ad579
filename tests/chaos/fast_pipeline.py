"""The pipeline of the chaos tests: real vetting, real loading, real SEG and SR, a drawn anatomy instead of networks.

It names its objects as the real one does (same images, same UIDs) and needs no torch. Files in `DATA_DIR/control` are
its strings: `hold` makes it wait, `fail` (a reason code) makes it fail, `die` makes it die as from a CUDA error.
`DATA_DIR/control/seconds` is how long the model thinks.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from config import Reason, Settings
from ct.anatomy import AlgorithmIdentity, AnatomyMap
from ct.load import load_volume
from ct.measure import measure
from ct.part10 import Unfit
from ct.series import group, read_data_set, read_header
from ct.vetting import Vetted, vet
from ct.volume import SourceSlice, Volume
from dicom_sr.identity import Predecessor, WriteContext
from dicom_sr.prior import Prior
from dicom_sr.writer import write
from fvlm.reading import AnatomyReading, Finding, Reading, Verdict
from node.analysis import Analysis, PipelineError
from node.release import release_digest
from node.whose import Whose, whose


class FastPipeline:
    """Made from the settings, as `node.pipeline.Pipeline` is; a release that is damaged is refused as there."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.control = settings.data_dir / "control"
        self.control.mkdir(exist_ok=True)
        self.release_digest = release_digest(settings.model.release)
        self._who = AlgorithmIdentity("Chaos model", "1", self.release_digest, test_only=True)

    def complete(self) -> None:
        """Nothing else is needed."""

    def vet(self, slices: Sequence[SourceSlice], *_: Any) -> Vetted:
        limits = self._settings.routing
        try:
            (series,) = group(read_header(source) for source in slices)
            return vet(series, limits.min_slices, limits.max_slices)
        except Unfit as unfit:
            raise PipelineError(unfit.reason, unfit.detail) from unfit

    def whose(self, series: Vetted) -> Whose | None:
        return whose(read_data_set(series.headers[0].source), self._settings.data_dir)

    def run(
        self,
        series: Vetted,
        images_at: datetime,
        on_stage: Callable[[str], None] = lambda _: None,
        predecessor: Predecessor | None = None,
        prior: Prior | None = None,
        *_: object,
    ) -> Analysis:
        (self.control / f"run-{time.time_ns()}").touch()
        self._obey(on_stage)
        started = time.monotonic()
        on_stage("load")
        volume = load_volume(series)
        headers = [read_data_set(source) for source in volume.sources]
        on_stage("segment")
        anatomy_map, reading = self._told(volume, images_at)
        on_stage("encode")
        context = WriteContext(images_at, predecessor=predecessor, prior=prior)
        objects = tuple(write(reading, anatomy_map, headers, context))
        return Analysis(volume, anatomy_map, reading, objects, {"read": time.monotonic() - started})

    def read(self, series: Vetted, _preset: str = "") -> tuple[Reading, dict[str, float]]:
        """As `node.pipeline.Pipeline.read`; obeys nobody."""
        return self._told(load_volume(series), datetime.now(UTC))[1], {"read": 0.5}

    def _told(self, volume: Volume, at: datetime) -> tuple[AnatomyMap, Reading]:
        labels = np.zeros(volume.hu.shape, np.uint8)
        side = volume.hu.shape[1] // 4
        labels[:, side : 2 * side, side : 2 * side] = 1
        anatomy_map = AnatomyMap(labels, volume.grid, ("lung",), self._who, measure(volume, labels, ("lung",)))
        found = anatomy_map.measures["lung"]
        finding = Finding("lung.nodule", 0.75, Verdict.PRESENT, 0.5)
        lung = AnatomyReading("lung", found.volume_ml, found.mean_hu, (finding,), np.array([1, 0], np.float16))
        reading = Reading(self._who, self._who, (lung,), (), at)
        return anatomy_map, reading

    def _obey(self, on_stage: Callable[[str], None]) -> None:
        thinks = self.control / "seconds"
        if thinks.exists():
            time.sleep(float(thinks.read_text()))
        while (self.control / "hold").exists():
            time.sleep(0.02)
            on_stage("read")
        if (self.control / "die").exists():
            os.kill(os.getpid(), signal.SIGABRT)
        if (self.control / "fail").exists():
            raise PipelineError(Reason((self.control / "fail").read_text()), "as the test wants it")
