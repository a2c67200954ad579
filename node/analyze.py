"""`fvlm-node analyze`: every CT series of a folder through the pipeline, without network."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID

from config import Reason, Settings
from ct.part10 import Unfit
from ct.series import Series
from ct.vetting import Vetted, vet
from node.analysis import STAGES, PipelineError
from node.errors import CommandError
from node.folder_scan import Problems, find_series, place_of, progress_bar
from node.logs import configure_logs
from node.processes import share_cores, without_collections
from node.results import remove_results, write_results
from node.show import reading_table, seconds_table


@dataclass(frozen=True)
class _Candidate:
    """A series of the folder under the name that its results get."""

    name: str
    series: Series
    where: str
    """For the person: how many images, beside which file."""


def analyze_folder(folder: Path, out: Path, settings: Settings, console: Console) -> int:
    """Analyse every good series below `folder`; results go to `out/series-N`. 0, or 2 if there was any problem.

    Results of an earlier run in `out` are removed first. Raises CommandError if the folder or the output cannot be
    used, or the model cannot be loaded.
    """
    if not folder.is_dir():
        raise CommandError(f"{folder} is no folder.", "Name a folder with DICOM files.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{out} cannot be made: {error.strerror}.", "Name a folder of yours with --out.") from error
    remove_results(out, "series")
    problems = Problems(console)
    with (out / "analyze.log").open("a", encoding="utf-8") as log:
        configure_logs("json", log)
        candidates = _candidates(folder, find_series(folder, console, problems))
        vetted = _vet(candidates, settings, problems)
        places = {candidate.name: candidate.where for candidate in candidates}
        read = _run(vetted, places, out, settings, console, problems) if vetted else 0
    console.print(f"Series read: {read} of {len(candidates)}. Problems: {problems.count}.", highlight=False)
    return 2 if problems.count else 0


def _candidates(folder: Path, found: list[Series]) -> list[_Candidate]:
    candidates = []
    for number, series in enumerate(found, 1):
        candidates.append(_Candidate(f"series-{number}", series, place_of(series, folder)))
    return candidates


def _vet(candidates: list[_Candidate], settings: Settings, problems: Problems) -> dict[str, Vetted]:
    vetted = {}
    for candidate in candidates:
        try:
            vetted[candidate.name] = vet(candidate.series, settings.routing.min_slices, settings.routing.max_slices)
        except Unfit as unfit:
            problems.report(f"{candidate.name} ({candidate.where})", unfit.reason, unfit.detail)
    return vetted


def _newest(series: Vetted) -> datetime:
    """When the newest file of a series was last written: the nearest that a folder knows to when its images came."""
    try:
        return datetime.fromtimestamp(max(header.source.path.stat().st_mtime for header in series.headers), UTC)
    except OSError as error:
        raise PipelineError(Reason.TRUNCATED, f"a file is gone: {error.strerror}") from error


def _run(
    vetted: dict[str, Vetted],
    places: dict[str, str],
    out: Path,
    settings: Settings,
    console: Console,
    problems: Problems,
) -> int:
    """Read each series, write its results and show them with its place in the folder; how many were read."""
    share_cores()
    with console.status("loading the model"), without_collections():
        from node.pipeline import Pipeline  # torch: only when there is something to read

        try:
            pipeline = Pipeline.from_settings(settings)
            pipeline.complete()
        except PipelineError as error:
            raise CommandError(f"{error.reason}: {error.detail}", error.reason.cure) from error
    seconds = {}
    for name, series in vetted.items():
        with progress_bar(console) as progress:
            bar = progress.add_task(name, total=len(STAGES) + 1)

            def stage(now: str, bar: TaskID = bar, name: str = name, progress: Progress = progress) -> None:
                progress.update(bar, description=f"{name}: {now}", completed=STAGES.index(now))

            try:
                analysis = pipeline.run(series, _newest(series), stage)
            except PipelineError as error:
                problems.report(name, error.reason, error.detail)
                continue
            progress.update(bar, description=f"{name}: files", completed=len(STAGES))
            files = write_results(out / name, analysis.objects)
        seconds[name] = analysis.seconds
        console.print(f"{name}: {escape(places[name])}", soft_wrap=True, highlight=False)
        console.print(reading_table(f"{name} ({len(series.headers)} slices)", analysis.reading))
        for note in series.notes:
            console.print(f"{name}: {escape(note)}", highlight=False)
        console.print(f"{name}: {', '.join(file.name for file in files)} in {out / name}\n", highlight=False)
    if seconds:
        console.print(seconds_table(seconds))
    return len(seconds)
