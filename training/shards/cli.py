"""`fvlm-node train shards` and `train check-shards`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from config.settings import Settings, SettingsError

if TYPE_CHECKING:
    from training.shards.build import Built
    from training.shards.plan import ShardPlan
    from training.shards.texts import Engine
    from training.sources.listing import Listing

Source = Literal["collection", "ct-rate", "radgenome", "merlin", "phantom"]
_PRESET = {"collection": "ct-rate", "ct-rate": "ct-rate", "radgenome": "ct-rate", "merlin": "medvl-54"}
_console = Console(stderr=True)


def shards(
    source: Annotated[Source, typer.Option("--from", help="Where the studies come from.")],
    out: Annotated[Path, typer.Option(help="Folder of the shards; an interrupted run goes on from there.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the collection or data set; not for phantoms.", show_default=False)
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="A release that says anatomies and preprocessing, instead of --preset.")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Preset of the vocabulary; none: ct-rate; medvl-54 for merlin; phantoms as the bundled model."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder with TotalSegmentator's multilabel files NAME.nii.gz; none: the data set's own masks "
            "(radgenome), else the configured segmenter."
        ),
    ] = None,
    language_model: Annotated[
        Path | None,
        typer.Option(
            help="Local causal language model that takes the reports apart instead of the rules; its answers are kept "
            "in report-cache of the folder."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each loads the segmenter for itself.")] = 1,
    device: Annotated[str, typer.Option(help="Where segmenter and language model run: cpu, cuda, cuda:1, …")] = "cpu",
    count: Annotated[int, typer.Option(min=1, help="How many phantoms.")] = 100,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom.")] = 0,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The node's configuration: its segmenter.")
    ] = None,
) -> None:
    """Preprocess studies with their reports into shards, which the trainer reads at the speed of the disk.

    Interrupted, the same command goes on where it stopped. What is skipped is told with its reason, and listed in
    index.json of the folder.
    """
    with _told(out):
        settings = Settings.load(config)
        from training.shards.build import build

        plan = _plan(source, release, preset)
        listing = _listing(source, data, masks, settings, device, count, first_seed)
        engine = None if language_model is None else _engine(language_model, device, out / "report-cache")
        with _bars() as bars:
            task = bars.add_task(source, total=None, skipped="")

            def update(done: int, skipped: int, total: int) -> None:
                bars.update(task, completed=done + skipped, total=total, skipped=f"{skipped} skipped")

            built = build(listing.studies, listing.dropped, plan, out, workers, update, engine)
    _show(built, out)


def check_shards(folder: Annotated[Path, typer.Argument(help="Folder of the shards.")]) -> None:
    """Read every shard of a folder whole and compare its checksum; ends with status 2 if one is damaged."""
    with _told(folder):
        from training.shards.folder import ShardFolder

        found = ShardFolder.open(folder)
        with _bars() as bars:
            task = bars.add_task("checking", total=len(found.index.studies), skipped="")
            problems = found.verify(lambda done, total: bars.update(task, completed=done, total=total))
    for problem in problems:
        _console.print(f"[red]Problem:[/red] {escape(problem)}", soft_wrap=True, highlight=False)
    if problems:
        raise typer.Exit(2)
    _console.print(f"{len(found.index.studies)} shards are as they were written.")


def _plan(source: Source, release: Path | None, preset: str | None) -> "ShardPlan":
    from training.shards.plan import ShardPlan

    if release is not None and preset is not None:
        _fail("--release and --preset: give one of them")
    if preset is None and source != "phantom":
        preset = _PRESET[source]
    if release is None and preset is not None:
        try:
            return ShardPlan.of_preset(preset)
        except KeyError as error:
            _fail(f"--preset {preset}: {error.args[0]}")
    import fvlm
    from fvlm.release import read_release

    found = read_release(release or Path(fvlm.__file__).parent / "releases" / "phantom")
    return ShardPlan.of_release(found.config, tuple(finding.finding for finding in found.findings))


def _listing(
    source: Source, data: Path | None, masks: Path | None, settings: Settings, device: str, count: int, first_seed: int
) -> "Listing":
    from training.sources.masks import TotalSegmentatorMaps, masks_of

    if source == "phantom":
        from training.sources.phantom import phantoms

        return phantoms(count, first_seed)
    if data is None:
        _fail(f"--data: name the folder of the {source} studies")
    if source == "ct-rate":
        from training.sources.ct_rate import ct_rate

        return ct_rate(data, masks_of(settings, masks, device))
    if source == "radgenome":
        from training.sources.radgenome import radgenome

        return radgenome(data, None if masks is None else TotalSegmentatorMaps(masks))
    if source == "merlin":
        from training.sources.merlin import merlin

        return merlin(data, masks_of(settings, masks, device))
    from training.sources.collected import collected

    return collected(data, masks_of(settings, masks, device))


def _engine(folder: Path, device: str, cache: Path) -> "Engine":
    from config import load_vocabulary
    from training.report_text.language_model import LanguageModelEngine, TransformersGenerator
    from training.shards.texts import Engine

    try:
        generator = TransformersGenerator(folder, device)
    except ValueError as error:
        _fail(str(error))
    model = LanguageModelEngine(generator, load_vocabulary(), cache)
    return Engine(f"language model {generator.identity}", model)


def _show(built: "Built", out: Path) -> None:
    reasons = built.reasons()
    if reasons:
        table = Table(title="Skipped", title_justify="left")
        for heading in ("Reason", "Studies", "What it means", "The first one"):
            table.add_column(heading, justify="right" if heading == "Studies" else "left")
        for reason, count, first in reasons:
            table.add_row(reason.value, str(count), reason.meaning, escape(first))
        _console.print(table)
    usable = sum(entry.usable for entry in built.index.studies)
    _console.print(
        f"{len(built.index.studies)} shards in {out} ({built.made} of them new), {len(built.index.skipped)} studies "
        f"skipped, {usable} usable anatomies",
        soft_wrap=True,
        highlight=False,
    )


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[skipped]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_console,
    )


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """User errors become one line and exit status 2."""
    from ct.anatomy import SegmenterWeightsError
    from fvlm.release import ReleaseError
    from training.collection import CollectionError
    from training.evaluation.data_set import DataError
    from training.shards.format import ShardError

    try:
        yield
    except (CollectionError, DataError, ReleaseError, SettingsError, ShardError, SegmenterWeightsError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or folder}: {error.strerror or error}; give room or another folder")


def _fail(text: str) -> NoReturn:
    _console.print(f"[red]Problem:[/red] {escape(text)}", soft_wrap=True, highlight=False)
    raise typer.Exit(2)
