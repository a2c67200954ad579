"""A worker is ready once its release is loaded; the rest comes while it waits, and no job is taken before."""

import subprocess
import sys
from pathlib import Path

import pytest
from fake_pipeline import FakePipeline
from rows import add_job, job, open_records, settings_for
from running import Processes, running_broker, wait_for
from tiny_release import make_release, text_cache

from config import Reason, Settings
from config.settings import ModelSettings
from node.database import Records
from node.states import State
from node.status import problems
from node.tasks import ANALYZE, Dispatcher, make_app


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path / "data")


@pytest.fixture
def records(settings: Settings) -> Records:
    return open_records(settings)


def _tiny(tmp_path: Path) -> ModelSettings:
    release = tmp_path / "model" / "release"
    make_release(release)
    return ModelSettings(release=str(release), cache_dir=text_cache(release), device="cpu")


def test_the_first_job_waits_for_the_rest(settings: Settings, records: Records) -> None:
    pipeline, job_id = FakePipeline(settings), add_job(records)
    (pipeline.control / "hold-rest").touch()
    with running_broker(settings.data_dir), Processes(settings) as processes:
        processes.analyze()
        wait_for(lambda: "worker_ready" in processes.log.read_text(), "the worker to be ready")
        dispatcher = Dispatcher(make_app(settings))
        dispatcher.send(ANALYZE, job_id)
        wait_for(lambda: dispatcher.waiting(ANALYZE) == 0, "the message to be taken")
        waiting = job(records, job_id)
        assert (waiting.state, waiting.attempts, pipeline.runs) == (State.QUEUED, 0, 0)
        assert "segmenter_loaded" not in processes.log.read_text()
        (pipeline.control / "hold-rest").unlink()
        wait_for(lambda: job(records, job_id).state == State.SENT, "the job to be done")


def test_a_rest_that_cannot_be_had_ends_the_worker_with_the_reason_and_takes_no_job(
    settings: Settings, records: Records
) -> None:
    pipeline, job_id = FakePipeline(settings), add_job(records)
    for mark in ("hold-rest", "fail-rest"):
        (pipeline.control / mark).touch()
    with running_broker(settings.data_dir), Processes(settings) as processes:
        worker = processes.analyze()
        wait_for(lambda: "worker_ready" in processes.log.read_text(), "the worker to be ready")
        Dispatcher(make_app(settings)).send(ANALYZE, job_id)
        (pipeline.control / "hold-rest").unlink()
        assert worker.wait(60) == 3
    left = job(records, job_id)
    assert (left.state, left.attempts, pipeline.runs) == (State.QUEUED, 0, 0)
    (line,) = [line for line in problems(settings) if line.startswith("Worker ")]
    assert Reason.MODEL_UNAVAILABLE in line
    assert "no segmenter, as the test wants it" in line


def test_a_segmenter_without_weights_ends_a_worker_that_waits(tmp_path: Path) -> None:
    model = _tiny(tmp_path).model_copy(
        update={"segmenter": "totalsegmentator", "totalsegmentator_weights": tmp_path / "none"}
    )
    settings = settings_for(tmp_path / "data", model=model)
    open_records(settings)
    with running_broker(settings.data_dir), Processes(settings) as processes:
        assert processes.role("analyze").wait(100) == 3
        assert '"model_loaded"' in processes.log.read_text()
    (line,) = [line for line in problems(settings) if line.startswith("Worker ")]
    assert "TotalSegmentator" in line


def test_a_reader_whose_prompts_are_cached_needs_torch_and_little_else(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from node.pipeline import Pipeline; from node.worker import read_settings\n"
        "Pipeline.from_settings(read_settings(Path(sys.argv[1])))\n"
        "loaded = {'transformers', 'monai', 'scipy', 'highdicom', 'pandas', 'torch._dynamo'} & sys.modules.keys()\n"
        "assert 'torch' in sys.modules and not loaded, loaded"
    )
    settings = Processes(settings_for(tmp_path / "data", model=_tiny(tmp_path))).file
    done = subprocess.run([sys.executable, "-c", code, settings], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
