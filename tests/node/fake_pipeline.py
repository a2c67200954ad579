"""A pipeline that a test holds in its hands: it waits, fails and counts as files in its control folder say.

Also a worker process around it: `python fake_pipeline.py SETTINGS WORKER`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rows import DIGEST, small_object

from config import Reason, Settings
from ct.anatomy import AlgorithmIdentity
from ct.volume import SourceSlice
from fvlm.reading import AnatomyReading, Finding, Reading, Verdict
from node.analysis import Analysis, PipelineError, Wanted
from node.whose import Whose


class FakePipeline:
    """Makes a small SEG and SR. `hold` in the control folder makes it wait, `fail` (a reason code) makes it fail;
    so does `fail-usual`, but not in the smaller configuration.
    """

    release_digest = DIGEST

    def __init__(self, settings: Settings) -> None:
        self.control = settings.data_dir / "control"
        self.control.mkdir(parents=True, exist_ok=True)
        self.frugal = settings.model.frugal
        self.anatomies: tuple[str, ...] = ("lung",)
        self.wanted: list[Wanted] = []

    @property
    def runs(self) -> int:
        """Runs begun, in all processes."""
        return len(list(self.control.glob("run-*")))

    def complete(self) -> None:
        """`hold-rest` makes it wait, `fail-rest` makes it fail."""
        while (self.control / "hold-rest").exists():
            time.sleep(0.02)
        if (self.control / "fail-rest").exists():
            raise PipelineError(Reason.MODEL_UNAVAILABLE, "no segmenter, as the test wants it")

    def vet(self, slices: Sequence[SourceSlice]) -> Any:
        return slices

    def whose(self, _: Any) -> Whose | None:
        """`whose` in the control folder says it: patient and time of the study."""
        file = self.control / "whose"
        return Whose(*file.read_text().split()) if file.exists() else None

    def run(
        self,
        _: Any,
        images_at: datetime,
        on_stage: Callable[[str], None] | None = None,
        _former: Any = None,
        _prior: Any = None,
        ask: Callable[[Sequence[str]], Wanted] | None = None,
    ) -> Any:
        (self.control / f"run-{time.monotonic_ns()}{'-frugal' * self.frugal}").touch()
        while (self.control / "hold").exists():
            time.sleep(0.02)
        if on_stage is not None:
            on_stage("read")
        if ask is not None:
            self.wanted.append(ask(self.anatomies))
        for name in ("fail", *(["fail-usual"] * (not self.frugal))):
            if (self.control / name).exists():
                raise PipelineError(Reason((self.control / name).read_text()), "as the test wants it")
        objects = (small_object("SEG", "2.25.71"), small_object("SR", "2.25.81"))
        for made in objects:
            made.ContentDate, made.ContentTime = images_at.strftime("%Y%m%d"), images_at.strftime("%H%M%S.%f")
        nodule = Finding("lung.nodule", 0.75, Verdict.PRESENT, 0.5)
        lung = AnatomyReading("lung", 4000.0, -800.0, (nodule,), np.array([1, 0, 0, 0.25], np.float16))
        who = AlgorithmIdentity("fake", "1", DIGEST, test_only=True)
        reading = Reading(who, who, (lung,), (), images_at)
        return Analysis(None, None, reading, objects, {"read": 0.25})  # type: ignore[arg-type]


if __name__ == "__main__":
    from node.logs import configure_logs
    from node.worker import read_settings, run_analyze

    configure_logs()
    sys.exit(run_analyze(read_settings(Path(sys.argv[1])), sys.argv[2], FakePipeline))
