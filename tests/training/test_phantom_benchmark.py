"""The phantom benchmark: its patients, its short cuts, its figures, and the whole of it at a small size."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from training.benchmark import size as sizes
from training.benchmark.data import Scans, prepare
from training.benchmark.encode import encode
from training.benchmark.figures import STEPS, Ablation, Figures, Interval, Method, resampled_aucs
from training.benchmark.page import NOTES, write_page
from training.benchmark.patients import ANATOMIES, FINDINGS, case_of, diseases_of, draw, load_syndromes
from training.benchmark.run import prepared, run
from training.benchmark.scores import aucs
from training.benchmark.size import Size
from training.benchmark.trainees import METHODS, gathered
from training.benchmark.why import BOTH, CONTRAST, READOUTS, TRIALS, ablations, as_contrast_is_told, first_patients
from training.benchmark.why_page import write_why
from training.cli import app

TINY = Size(
    patients=40,
    validation=8,
    test=16,
    stem_steps=2,
    text_steps=2,
    epochs=1,
    batch=20,
    width=16,
    seeds=(0,),
    channels=(8, 16),
)


@contextmanager
def _quiet(title: str) -> Iterator[Callable[[int, int, float | None], None]]:
    assert title
    yield lambda *_: None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmark")


@pytest.fixture(scope="module")
def figures(folder: Path) -> Figures:
    torch.set_num_threads(1)
    return run(folder, TINY, 2, _quiet, torch.device("cpu"))


def test_diseases_come_in_company() -> None:
    drawn = [set(diseases_of(seed, 60)) for seed in range(3000)]

    def share(finding: str, among: str = "") -> float:
        chosen = [found for found in drawn if not among or among in found]
        return sum(finding in found for found in chosen) / len(chosen)

    assert len(FINDINGS) >= 30
    assert {finding.split(".")[0] for finding in FINDINGS} == set(ANATOMIES)
    assert all(0.04 < share(finding) < 0.25 for finding in FINDINGS)
    for cause, effect in (
        ("liver.cirrhosis", "spleen.splenomegaly"),
        ("liver.cirrhosis", "portal_vein.dilatation"),
        ("heart.cardiomegaly", "lung.pleural_effusion"),
        ("lung.emphysema", "heart.coronary_calcification"),
    ):
        assert share(effect, cause) > 1.8 * share(effect)
    assert 0.05 < sum(not found for found in drawn) / len(drawn) < 0.3
    named = {key for syndrome in load_syndromes().all.values() for key in syndrome.findings}
    assert named == set(FINDINGS)


def test_reports_are_noisy_in_the_ways_that_are_promised() -> None:
    cases = [case_of(draw(seed)) for seed in range(80)]
    silent = ill = ill_called_normal = 0
    for case in cases:
        for index, name in enumerate(ANATOMIES):
            here = [i for i, finding in enumerate(FINDINGS) if finding.startswith(f"{name}.")]
            mentioned = not case.captions[index].startswith(f"{name.replace('_', ' ')} shows no significant")
            truth, labels = [case.truth[i] for i in here], [case.labels[i] for i in here]
            assert labels == (truth if mentioned else [None] * len(here))
            if any(truth):
                assert mentioned
                ill += 1
                ill_called_normal += case.normal[index]
            else:
                assert case.normal[index]
                silent += not mentioned
    assert 0.25 < silent / (80 * 15 - ill) < 0.45
    assert 0.02 < ill_called_normal / ill < 0.2


def test_rendering_goes_on_where_it_stopped(folder: Path, figures: Figures, tmp_path: Path) -> None:
    assert figures
    whole = prepare(folder / "data" / "validation", range(sizes.VALIDATION_SEED, sizes.VALIDATION_SEED + 8), 1, _never)
    images, labels = np.array(whole.images), np.array(whole.labels)
    (tmp_path / "set").mkdir()
    for name, array in (("images", images), ("labels", labels)):
        array = array.copy()
        array[6:] = 0
        np.save(tmp_path / "set" / f"{name}.npy", array)
    lines = (folder / "data" / "validation" / "cases.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "set" / "cases.jsonl").write_bytes(b"".join(lines[:6]) + lines[6][:40])
    seen: list[int] = []
    again = prepare(
        tmp_path / "set", range(sizes.VALIDATION_SEED, sizes.VALIDATION_SEED + 8), 1, lambda done, _: seen.append(done)
    )
    assert seen == [7, 8]
    assert again.cases == whole.cases
    assert np.array_equal(again.images, images)
    assert np.array_equal(again.labels, labels)
    with pytest.raises(ValueError, match="other patients"):
        prepare(tmp_path / "set", range(8), 1, _never)


def _never(done: int, total: int) -> None:
    raise AssertionError(f"{done} of {total}: nothing had to be rendered")


def test_kept_cells_give_what_the_whole_model_gives(folder: Path, figures: Figures, tmp_path: Path) -> None:
    """The encoded scans through `gathered`, and the scans through the model as it is released."""
    from fvlm.model import FVLM

    assert figures
    scans = prepare(folder / "data" / "validation", range(sizes.VALIDATION_SEED, sizes.VALIDATION_SEED + 8), 1, _never)
    few = Scans(scans.images[:3], scans.labels[:3], scans.cases[:3])
    config = TINY.model(100)
    torch.manual_seed(1)
    model = FVLM(config, text=False).eval()
    torch.nn.init.normal_(model.query_tokens)
    assert model.visual_encoder.cells is not None
    encoded = encode(model.visual_encoder.cells, config, few, tmp_path, lambda *_: None)
    batch = encoded.batch([2, 0])
    plain = few.batch([2, 0])
    with torch.inference_mode():
        found = gathered(model, batch, whole=False)
        expected = model.attention(
            model.query_tokens,
            torch.cat(model.encode_tokens(plain.image), 1),
            torch.cat(model.select(plain.labels, model.levels), -1),
        )
    assert batch.usable.all()
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-2)  # cells are kept as float16
    assert torch.equal(batch.usable, plain.usable)
    torch.testing.assert_close(batch.findings, plain.findings, equal_nan=True)


def test_resampled_auc_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, answers = rng.random((60, 2)) < 0.3, rng.integers(0, 8, (60, 2)).astype(float)
    answers[:5, 1] = np.nan
    weights = rng.multinomial(60, np.full(60, 1 / 60), size=4)
    found = resampled_aucs(truth, answers, weights)
    for row, weight in zip(found, weights, strict=True):
        for column in range(2):
            seen = ~np.isnan(answers[:, column])
            labels, scores = (
                np.repeat(truth[seen, column], weight[seen]),
                np.repeat(answers[seen, column], weight[seen]),
            )
            assert row[column] == pytest.approx(roc_auc_score(labels, scores))
    assert resampled_aucs(truth, answers, np.ones((1, 60), int))[0] == pytest.approx(aucs(truth, answers))
    assert np.isnan(resampled_aucs(np.zeros((60, 1), bool), answers[:, :1], weights)).all()


def test_all_methods_and_a_second_call_that_trains_nothing(folder: Path, figures: Figures) -> None:
    assert tuple(figures.methods) == METHODS
    files = sorted((folder / "runs").glob("*.npz"))
    assert len(files) == len(METHODS)
    before = {file: file.stat().st_mtime_ns for file in files}
    lost = folder / "runs" / "fvlm+normal+jaccard-0.npz"
    lost.unlink()
    again = run(folder, TINY, 1, _quiet, torch.device("cpu"))
    assert {file: file.stat().st_mtime_ns for file in files if file != lost} == {
        file: time for file, time in before.items() if file != lost
    }
    assert json.dumps(again.differences, default=vars) == json.dumps(figures.differences, default=vars)
    for method in METHODS:
        with np.load(folder / "runs" / f"{method}-0.npz") as kept:
            assert kept["test"].shape == (16, len(FINDINGS))
            assert np.isfinite(kept["test"]).mean() > 0.9
    with pytest.raises(ValueError, match="another size"):
        run(folder, replace(TINY, epochs=2), 1, _quiet, torch.device("cpu"))


def test_why_changes_one_thing_at_a_time(folder: Path, figures: Figures, tmp_path: Path) -> None:
    ground = prepared(folder, TINY, 1, _quiet, torch.device("cpu"))
    rows = {(row.change, row.method): row for row in ablations(ground, tmp_path, _quiet)}
    for method in BOTH:
        unchanged = rows["unchanged", method]
        assert unchanged.seeds == figures.methods[method].seeds  # the very training of the benchmark
        changed = [row for (change, name), row in rows.items() if name == method and row.unchanged is not None]
        assert all(row.seeds != unchanged.seeds for row in changed)
    assert {change for change, _ in rows} == {
        "unchanged",
        *(trial.change for trial in TRIALS),
        *(change for change, _ in READOUTS.values()),
    }
    assert all(row.supervised is None for (_, method), row in rows.items() if method != CONTRAST)
    few = first_patients(ground.train, 3)
    one, other = few.batch([2, 0]), ground.train.batch([2, 0])
    assert len(few) == 3
    assert torch.equal(one.cells, other.cells)
    assert torch.equal(one.of_tokens, other.of_tokens)


def test_labels_as_the_contrast_is_told() -> None:
    hidden = 0
    for case in (case_of(draw(seed)) for seed in range(40)):
        told = as_contrast_is_told(case).labels
        for index, finding in enumerate(FINDINGS):
            normal = case.normal[ANATOMIES.index(finding.split(".")[0])]
            assert told[index] == (case.truth[index] and not normal)
            hidden += case.truth[index] and not told[index]
    assert hidden > 0


def _figures() -> Figures:
    """Made-up figures: one difference is sure, one is sure the other way, the others are not decided."""
    one = Interval(0.7, 0.6, 0.8)
    rows = dict.fromkeys(FINDINGS, one)
    places = dict.fromkeys(ANATOMIES, one)
    seeds = {"clip": (0.6, 0.6), "supervised": (0.9, 0.9), "fvlm+normal+jaccard": (0.68, 0.72)}
    methods = {name: Method(one, seeds.get(name, (0.7, 0.7)), (0.7, 0.7), places, rows, 3.0) for name in METHODS}
    differences = {f"{a} - {b}": Interval(0.0, -0.1, 0.1) for a, b in STEPS}
    differences["fvlm - clip"] = Interval(0.1, 0.05, 0.15)
    differences["fvlm - supervised"] = Interval(-0.1, -0.15, -0.05)
    differences["fvlm+normal+jaccard - fvlm+normal"] = Interval(0.01, 0.001, 0.02)
    nothing = replace(methods["clip"], macro=Interval(float("nan"), float("nan"), float("nan")))
    return Figures(methods | {"clip": nothing}, differences, dict.fromkeys(FINDINGS, 5))


def test_page_keeps_notes_and_says_what_came_out(tmp_path: Path) -> None:
    about = {"preset": "cpu", "out": "runs/x", "machine": "here"}
    page = write_page(tmp_path, _figures(), TINY, about)
    text = page.read_text(encoding="utf-8")
    page.write_text(text + "It was a rainy day.\n", encoding="utf-8")
    again = write_page(tmp_path, _figures(), TINY, about).read_text(encoding="utf-8")
    assert again == text + "It was a rainy day.\n"
    assert again.count(NOTES) == 1
    verdicts = {line.split(" | ")[0][2:]: line.split(" | ")[-1][:-2] for line in again.splitlines() if " to " in line}
    assert verdicts["fVLM is better than CLIP"] == "yes"
    assert verdicts["fVLM without correction is better than supervised"] == "**no**"
    assert verdicts["co-teaching adds"] == "not decided"
    assert verdicts["label overlap adds"] == "not decided"  # the seeds do not agree
    data = json.loads((tmp_path / "phantom-benchmark.json").read_text(encoding="utf-8"))
    assert list(data["macro_auc"]) == list(METHODS)
    assert data["macro_auc"]["clip"] is None
    assert data["macro_auc"]["fvlm"] == 0.7
    row = Ablation("other", "fvlm+normal", Interval(0.7, 0.6, 0.8), (0.7,), (0.6,), None, Interval(0.1, -0.1, 0.2))
    write_why(tmp_path, [row], TINY, about)
    both = page.read_text(encoding="utf-8")
    assert "| other | fvlm+normal | **0.700** | 0.700 | 0.600 |  | +0.100 (-0.100 to +0.200) |" in both
    assert both.endswith("It was a rainy day.\n")
    write_page(tmp_path, _figures(), TINY, about)
    assert page.read_text(encoding="utf-8") == both
    published = json.loads((tmp_path / "phantom-benchmark.json").read_text(encoding="utf-8"))
    assert published["macro_auc"] == data["macro_auc"]
    assert published["ablations"]["rows"][0]["supervised"]["value"] == 0.1
    for name in ("phantom-benchmark-methods.png", "phantom-benchmark-anatomies.png"):
        assert name in again
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_command_refuses_the_folder_of_another_size(folder: Path, figures: Figures) -> None:
    assert figures
    done = CliRunner().invoke(app, ["phantom-benchmark", "--out", str(folder), "--preset", "cpu"])
    assert done.exit_code == 2
    assert "batch 20" in done.output
    assert "choose another --out" in done.output
