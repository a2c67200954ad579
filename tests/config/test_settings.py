"""Settings: file, environment, defaults; and what a wrong file is told."""

from pathlib import Path

import pytest
import yaml

from config.settings import Settings, SettingsError
from node.init import default_configuration, write_default


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "node.yaml"


def test_the_written_default_is_the_default(file: Path) -> None:
    write_default(file)
    loaded = Settings.load(file).model_dump()
    assert loaded.pop("data_dir") == file.parent / "fvlm-data"
    assert loaded == Settings().model_dump(exclude={"data_dir"})


def test_the_data_folder_is_found_from_any_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("data_dir: here\n")
    monkeypatch.chdir(file.parent.parent)
    assert Settings.load(Path(file.parent.name, file.name)).data_dir == file.parent.resolve() / "here"
    file.write_text("data_dir: /there\n")
    assert Settings.load(file).data_dir == Path("/there")


def test_every_setting_is_explained_in_the_written_default() -> None:
    lines = default_configuration().splitlines()
    settings = [i for i, line in enumerate(lines) if line and not line.lstrip().startswith("#")]
    assert len(settings) > 25
    assert [lines[i] for i in settings if not lines[i - 1].lstrip().startswith("# ")] == []


def test_the_commented_examples_of_sources_and_destinations_are_valid(file: Path) -> None:
    lines = default_configuration().splitlines()
    for section in ("sources", "destinations"):
        start = lines.index(f"{section}: {{}}")
        lines[start : start + 2] = [f"{section}:"]
        end = lines.index("", start)
        lines[start + 1 : end] = [line.removeprefix("# ") for line in lines[start + 1 : end]]
    file.write_text("\n".join(lines))
    settings = Settings.load(file)
    assert settings.destinations["pacs"].port == 104
    source = settings.source_of("CT1")
    assert source is not None
    assert source.quiet_s == 30
    assert settings.source_of("CT2") is None


def test_the_commented_example_of_messages_is_valid(file: Path) -> None:
    lines = default_configuration().splitlines()
    start = lines.index("  destinations: {}", lines.index("messages:"))
    lines[start : start + 2] = ["  destinations:"]
    end = next(i for i in range(start + 1, len(lines)) if not lines[i].startswith("  #   "))
    lines[start + 1 : end] = [line.replace("# ", "", 1) for line in lines[start + 1 : end]]
    file.write_text("\n".join(lines))
    assert set(Settings.load(file).messages.destinations) == {"ris", "hook"}


def test_a_name_is_of_one_destination(file: Path) -> None:
    """Breaker, log and console know a destination by its name alone."""
    file.write_text(
        "destinations: {a: {ae_title: A, host: a, port: 104}}\n"
        "messages: {destinations: {a: {kind: hl7, host: a, port: 2575}}}\n"
    )
    with pytest.raises(SettingsError, match=r"messages\.destinations: a stands under `destinations` too"):
        Settings.load(file)


def test_a_source_stands_there_once(file: Path) -> None:
    file.write_text("sources: {a: {ae_title: CT1}, b: {ae_title: CT1}}\n")
    with pytest.raises(SettingsError, match="sources: CT1 stands there twice"):
        Settings.load(file)


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("dicom: {port: 104, ae_title: FROMFILE}\n")
    monkeypatch.setenv("FVLM_DICOM__PORT", "11999")
    settings = Settings.load(file)
    assert (settings.dicom.port, settings.dicom.ae_title) == (11999, "FROMFILE")


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ({"dicom": {"port": 70000}}, "dicom.port"),
        ({"dicom": {"ae_title": "MORE THAN SIXTEEN"}}, "dicom.ae_title"),
        ({"dicom": {"ae_title": r"BACK\SLASH"}}, "dicom.ae_title"),
        ({"dicom": {"prot": 104}}, "dicom.prot"),
        ({"dicom": {"accept_from": []}}, "dicom.accept_from: Value error, name at least one calling AE title"),
        ({"completion": {"quiet_s": 0}}, "completion.quiet_s"),
        ({"routing": {"destinations": ["pacs"]}}, "routing.destinations"),
        ({"model": {"segmenter": "magic"}}, "model.segmenter"),
    ],
)
def test_a_wrong_value_is_told_with_file_and_key(file: Path, written: dict[str, object], key: str) -> None:
    file.write_text(yaml.safe_dump(written))
    with pytest.raises(SettingsError) as caught:
        Settings.load(file)
    assert str(file) in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize("text", ["dicom: [", "- a list", "just text", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        Settings.load(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_told_how_to_make_one(file: Path) -> None:
    with pytest.raises(SettingsError, match="fvlm-node init"):
        Settings.load(file)
