"""One study, from a 400-slice volume in memory to a Reading: ours against the naive way, in one run, in pairs.

The model has the size and layout of the public fVLM (ViT-B, BERT-base, 4 anatomies, 16 findings) and random weights, so
the figures are about speed and agreement only. Times are wall seconds; `_cpu_s` are seconds of all cores together,
which hold on a machine that does something else too. What each figure means: docs/operations/speed.md.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from node.processes import share_cores

share_cores()  # as a worker does, before torch is there

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402, N812
from bench_naive_fvlm import NaiveReader  # noqa: E402
from bench_official_study import chest_scan, official_release  # noqa: E402
from bench_result import Result  # noqa: E402

from config import Settings  # noqa: E402
from config.settings import ModelSettings  # noqa: E402
from ct.anatomy import AnatomyMap  # noqa: E402
from ct.volume import Volume  # noqa: E402
from fvlm import FVLM, Reader, load_release  # noqa: E402
from fvlm.kernels import linear  # noqa: E402
from fvlm.preprocess import prepare  # noqa: E402
from fvlm.reading import Reading  # noqa: E402
from fvlm.text_cache import text_features  # noqa: E402
from node.broker import EmbeddedBroker  # noqa: E402
from node.database import open_database  # noqa: E402
from node.migrations import upgrade  # noqa: E402
from node.worker import write_settings  # noqa: E402

AGREEMENT = 1e-4
"""Greatest difference of a probability between the two ways."""
OPTION_ERROR = 0.01
"""Greatest difference of a probability that bfloat16 or compiling may make."""
Study = tuple[Volume, AnatomyMap]
Made = TypeVar("Made")

_READY_WITHIN_S = 300.0


@dataclass
class Timed:
    """Samples of one thing."""

    wall: list[float]
    cpu: list[float]

    @classmethod
    def none(cls) -> "Timed":
        return cls([], [])

    def run(self, work: Callable[[], Made]) -> Made:
        wall, cpu = time.perf_counter(), time.process_time()
        made = work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="pairs of ours and naive per study")
    repeats = parser.parse_args().repeats
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    result = Result("inference", ("torch", "transformers", "safetensors"))
    result.conditions |= {"threads": threads, "repeats": repeats, "precision": "float32 unless named"}
    with TemporaryDirectory() as folder:
        release, cache = official_release(Path(folder)), Path(folder) / "cache"
        measure_loading(result, release, cache, repeats)
        model = load_release(release)
        reader, naive = Reader(model, cache), NaiveReader(model)
        prompts = measure_text(result, model, naive)
        together, apart = chest_scan(270.0), chest_scan(345.0)
        for name, study in (("", together), ("_own_windows", apart)):
            compare(result, name, reader, naive, prompts, study, repeats)
        measure_encoder(result, reader, together, repeats)
        error = measure_options(result, model, reader, cache, together, repeats)
    result.finish()
    if error >= OPTION_ERROR:
        sys.exit(f"An option moves a probability by {error}, more than {OPTION_ERROR}.")


def measure_loading(result: Result, release: Path, cache: Path, repeats: int) -> None:
    """Fresh worker processes, from their start until their log says that they are ready: the first encodes the prompts,
    the others find them. Then until the segmenter is there too, and a job would be taken.
    """
    model = ModelSettings(release=str(release), cache_dir=cache, device="cpu")
    with TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), model=model)
        write_settings(settings, settings.data_dir / "settings.json")
        upgrade(open_database(settings.database))
        broker = EmbeddedBroker(settings.data_dir)
        broker.start()
        try:
            starts = [_start_worker(settings.data_dir) for _ in range(repeats + 1)]
        finally:
            broker.stop()
    result.add("worker_ready_first_s", [starts[0]["worker_ready"]])
    result.add("worker_ready_s", [start["worker_ready"] for start in starts[1:]])
    result.add("worker_ready_cpu_s", [start["cpu_s"] for start in starts[1:]])
    result.add("worker_segmenter_loaded_s", [start["segmenter_loaded"] for start in starts[1:]])
    result.figures["weights_mib"] = round((release / "model.safetensors").stat().st_size / 2**20, 1)
    result.add("worker_memory_of_its_own_mib", [start["anonymous_mib"] for start in starts[1:]], 1)


def _start_worker(folder: Path) -> dict[str, float]:
    """Seconds from the start of an analyze worker to events of its log; CPU seconds and memory when it is ready."""
    log, found = folder / "worker.log", dict[str, float]()
    with log.open("wb") as out:
        started = time.perf_counter()
        worker = subprocess.Popen(
            [sys.executable, "-m", "node.worker", "analyze", str(folder / "settings.json")], stdout=out, stderr=out
        )
    try:
        for event in ("worker_ready", "segmenter_loaded"):
            while f'"{event}"' not in log.read_text():
                assert time.perf_counter() < started + _READY_WITHIN_S, log.read_text()
                assert worker.poll() is None, log.read_text()
                time.sleep(0.01)
            found[event] = time.perf_counter() - started
            if event == "worker_ready":
                found |= {"cpu_s": _cpu_s(worker.pid), "anonymous_mib": _anonymous_mib(worker.pid)}
    finally:
        worker.kill()
        worker.wait()
    return found


def _cpu_s(pid: int) -> float:
    """Of all threads so far, user and system (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _anonymous_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def measure_text(result: Result, model: FVLM, naive: NaiveReader) -> dict[str, torch.Tensor]:
    """32 prompts: padded to 384 tokens and finding by finding (these features are returned), or trimmed and at once."""
    assert model.release is not None
    texts = [text for f in model.release.findings for text in (f.negative, f.positive)]
    ours, theirs = Timed.none(), Timed.none()
    features = ours.run(lambda: text_features(model, texts, None))
    padded = theirs.run(naive.text)
    difference = float((features - torch.cat(list(padded.values()))).abs().max())
    assert difference < AGREEMENT, f"text features differ by {difference}"
    result.add("naive_text_s", theirs.wall)
    result.add("ours_text_s", ours.wall)
    return padded


def compare(
    result: Result,
    name: str,
    reader: Reader,
    naive: NaiveReader,
    prompts: dict[str, torch.Tensor],
    study: Study,
    repeats: int,
) -> None:
    """Read one study both ways in turn, the prompts' features at hand; figures with the suffix `name`."""
    ours, theirs = Timed.none(), Timed.none()
    preprocess: list[float] = []
    model: list[float] = []
    reader.read(*study)
    for _ in range(repeats):
        expected = theirs.run(lambda: naive.read(*study, prompts))
        reading = ours.run(lambda: reader.read(*study))
        found = probabilities(reading)
        assert len(found) == len(expected) == 16
        difference = max(abs(found[key] - expected[key]) for key in expected)
        assert difference < AGREEMENT, f"probabilities differ by {difference}"
        preprocess.append(reading.seconds["preprocess"])
        model.append(reading.seconds["model"])
    windows = prepare(*study, reader.release.config).windows
    result.conditions["windows" + name] = [f"{', '.join(w.anatomies)}: {w.box.shape}" for w in windows]
    result.figures["probability_difference" + name] = difference
    naive_s, ours_s = result.add(f"naive_study{name}_s", theirs.wall), result.add(f"ours_study{name}_s", ours.wall)
    result.figures["ratio_vs_naive_study" + name] = round(naive_s / ours_s, 2)
    with_text = naive_s + result.figures["naive_text_s"]
    result.figures[f"ratio_vs_naive_study{name}_with_text"] = round(with_text / ours_s, 2)
    naive_cpu = result.add(f"naive_study{name}_cpu_s", theirs.cpu)
    ours_cpu = result.add(f"ours_study{name}_cpu_s", ours.cpu)
    result.figures[f"ratio_vs_naive_study{name}_cpu"] = round(naive_cpu / ours_cpu, 2)
    result.add(f"ours_preprocess{name}_s", preprocess)
    result.add(f"ours_model{name}_s", model)


def probabilities(reading: Reading) -> dict[str, float]:
    return {f.key: f.probability for anatomy in reading.anatomies for f in anatomy.findings}


@torch.inference_mode()
def measure_encoder(result: Result, reader: Reader, study: Study, repeats: int) -> None:
    """One window through the encoder, against the multiplication rate of this machine at the encoder's own sizes."""
    config, prepared = reader.release.config.model, prepare(*study, reader.release.config)
    image, _ = prepared.tensors(prepared.windows[0])
    z, y, x = (size // patch for size, patch in zip(image.shape[2:], config.patch, strict=True))
    tokens, width = z * y * x, config.width
    patch = config.patch[0] * config.patch[1] * config.patch[2]
    per_block = 2 * tokens * width * width * (4 + 2 * config.mlp_ratio) + 4 * tokens**2 * width
    gflop = (config.depth * per_block + 2 * tokens * patch * width) / 1e9
    state, weight = torch.rand(tokens, width), torch.rand(config.mlp_ratio * width, width)
    bias, product = torch.zeros(len(weight)), 2 * tokens * weight.numel() / 1e9
    encoder, rates = Timed.none(), {"torch_linear_gflops": Timed.none(), "gemm_gflops": Timed.none()}
    reader.model.encode_tokens(image)
    for _ in range(max(3, repeats)):  # in turn, so that all see the same machine
        for _ in range(10):
            rates["torch_linear_gflops"].run(lambda: F.linear(state, weight, bias))
            rates["gemm_gflops"].run(lambda: linear(state, weight, bias))
        encoder.run(lambda: reader.model.encode_tokens(image))
    for name, timed in rates.items():
        result.add(name, [product / seconds for seconds in timed.wall], 1)
    rate, seconds = result.figures["gemm_gflops"], result.add("encoder_s", encoder.wall)
    result.figures["encoder_gflop"] = round(gflop, 1)
    result.figures["encoder_gflops"] = round(gflop / seconds, 1)
    result.figures["encoder_share_of_gemm"] = round(gflop / seconds / rate, 3)
    result.figures["encoder_bound_s"] = round(gflop / rate, 3)
    cpu_rate = product / statistics.median(rates["gemm_gflops"].cpu)
    result.figures["encoder_share_of_gemm_cpu"] = round(gflop / statistics.median(encoder.cpu) / cpu_rate, 3)


def measure_options(result: Result, model: FVLM, reader: Reader, cache: Path, study: Study, repeats: int) -> float:
    """bfloat16 and torch.compile: what they bring here, and how far the probabilities move (the most is returned)."""
    exact, errors = probabilities(reader.read(*study)), []
    for name, made in {
        "bfloat16": lambda: Reader(model, cache, precision="bfloat16"),
        "compiled": lambda: Reader(model, cache, compiled=True),
        "bfloat16_compiled": lambda: Reader(model, cache, precision="bfloat16", compiled=True),
    }.items():
        other, first, later = made(), Timed.none(), Timed.none()
        reading = first.run(lambda: other.read(*study))  # noqa: B023 - run at once
        found = probabilities(reading)
        errors.append(max(abs(found[key] - exact[key]) for key in exact))
        for _ in range(repeats):
            later.run(lambda: other.read(*study))  # noqa: B023
        result.figures[f"{name}_probability_error"] = round(errors[-1], 6)
        result.add(f"{name}_first_study_s", first.wall)
        result.add(f"{name}_study_s", later.wall)
    return max(errors)


if __name__ == "__main__":
    main()
