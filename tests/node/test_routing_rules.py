"""Routing rules on the real records: which series become jobs, how, and which end with which reason."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from console_bench import PASSWORD
from fake_pipeline import FakePipeline
from pydicom import Dataset
from rows import DIGEST
from ruled_bench import LATER, SECRET_DESCRIPTION, Ruled, stack
from spool_data import ROOT
from sqlalchemy import select, update
from starlette.testclient import TestClient

from config import Priority, Reason, Settings
from config.rules import RulesError
from node.cli import main
from node.console.app import make_app as make_console
from node.console.password import USER, PasswordFile
from node.console.server import read_only_database
from node.console.standing import standing
from node.console.views import Mood
from node.database import Records
from node.jobs import Analyst
from node.reconciler import Reconciler
from node.records import Delivery, Instance, Job, Series, now
from node.release import release_digest
from node.routing import route
from node.rules.book import book_in_force, check_rules, take_configured
from node.series_status import load, newest_first
from node.states import State
from node.tasks import Dispatcher, make_app

RULES = """\
version: spring
rules:
  - name: no head
    when: body_part == "HEAD"
    skip: heads are read elsewhere
  - name: urgent chest
    when: body_part == "CHEST" and contrast and slices >= 20 and source_ae == "STORESCU"
    read: {priority: urgent, destinations: [vna]}
  - name: shadow
    when: kernel matches "B[67]*"
    read: {destinations: []}
  - name: by the settings
    when: spacing <= 2 mm
    read:
"""


def test_the_first_rule_that_fits_decides_and_everything_else_ends_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Ruled(tmp_path / "node", RULES, pacs=104, vna=105)
    bench.receive(*stack(1, BodyPartExamined="HEAD", ContrastBolusAgent="IOMERON"))
    bench.receive(*stack(2, BodyPartExamined="CHEST", ContrastBolusAgent="IOMERON"))
    bench.receive(*stack(3, BodyPartExamined="CHEST", ConvolutionKernel="B70f"))
    bench.receive(*stack(4))
    bench.receive(*stack(5, step=3.0))
    bench.close()
    assert len(bench.route()) == 3
    assert bench.series() == [
        ("1/1", State.REJECTED, Reason.SKIPPED_BY_RULE),
        ("2/1", State.VETTED, None),
        ("3/1", State.VETTED, None),
        ("4/1", State.VETTED, None),
        ("5/1", State.REJECTED, Reason.NO_RULE),
    ]
    assert [(job.priority, job.destinations, job.release_digest) for job in bench.jobs()] == [
        (Priority.URGENT, ["vna"], DIGEST),
        (Priority.ROUTINE, [], DIGEST),
        (Priority.ROUTINE, ["pacs", "vna"], DIGEST),
    ]
    with bench.records.reading() as session:
        rows = session.scalars(select(Series).order_by(Series.id)).all()
        assert [row.rule for row in rows] == ["no head", "urgent chest", "shadow", "by the settings", ""]
        assert {(row.rules_version, row.rules_digest) for row in rows} == {("spring", bench.book.rules.digest)}
        assert rows[0].detail == "rule `no head`: heads are read elsewhere"
        assert SECRET_DESCRIPTION not in "".join(str(vars(row)) for row in rows)
        shown = {one.series.id: one for one in load(session, newest_first())}
        assert shown[1].reason is Reason.SKIPPED_BY_RULE
        assert shown[1].why() == ["rule `no head`: heads are read elsewhere"]
        assert standing(shown[5], bench.settings, now()).mood is Mood.DONE
    assert bench.route() == []
    logged = "".join(capsys.readouterr())
    assert "series_not_read" in logged
    assert "PLANTED" not in logged


def test_a_job_keeps_its_destinations_whatever_becomes_of_the_rules(tmp_path: Path) -> None:
    bench = Ruled(tmp_path / "node", RULES, pacs=104, vna=105)
    bench.receive(*stack(1, BodyPartExamined="CHEST", ContrastBolusAgent="IOMERON"))
    bench.close()
    (job_id,) = bench.route()
    bench.rewrite(RULES.replace("[vna]", "[pacs]"))
    Analyst(bench.records, bench.settings, FakePipeline(bench.settings), "w").analyze(job_id)  # type: ignore[arg-type]
    with bench.records.reading() as session:
        assert set(session.scalars(select(Delivery.destination))) == {"vna"}


def test_results_for_a_destination_that_has_left_the_settings_are_not_lost_quietly(tmp_path: Path) -> None:
    bench = Ruled(tmp_path / "node", RULES, pacs=104, vna=105)
    bench.receive(*stack(1, BodyPartExamined="CHEST", ContrastBolusAgent="IOMERON"))
    bench.close()
    (job_id,) = bench.route()
    settings = bench.settings.model_copy(update={"destinations": {}})
    Analyst(bench.records, settings, FakePipeline(settings), "w").analyze(job_id)  # type: ignore[arg-type]
    with bench.records.reading() as session:
        assert set(session.scalars(select(Delivery.destination))) == {"vna"}
        assert session.get_one(Job, job_id).state == State.ENCODED


def test_a_job_from_before_the_rules_goes_where_the_settings_say(tmp_path: Path) -> None:
    bench = Ruled(tmp_path / "node", RULES, pacs=104, vna=105)
    bench.receive(*stack(1))
    bench.close()
    (job_id,) = route(bench.records, DIGEST)
    assert bench.jobs()[0].destinations is None
    Analyst(bench.records, bench.settings, FakePipeline(bench.settings), "w").analyze(job_id)  # type: ignore[arg-type]
    with bench.records.reading() as session:
        assert set(session.scalars(select(Delivery.destination))) == {"pacs", "vna"}


def test_a_rule_names_a_release_and_the_worker_loads_it_for_the_job(tmp_path: Path) -> None:
    release = tmp_path / "abdomen"
    release.mkdir()
    (release / "SHA256SUMS").write_text("of the abdomen\n")
    rules = f"version: 1\nrules: [{{name: a, when: contrast, read: {{release: {release}}}}}, {{name: b, read: }}]"
    bench = Ruled(tmp_path / "node", rules)
    bench.receive(*stack(1, ContrastBolusAgent="IOMERON"))
    bench.receive(*stack(2, ContrastBolusAgent="NONE"))
    bench.close()
    bench.route()
    digest = release_digest(str(release))
    assert [(job.release_digest, job.release) for job in bench.jobs()] == [(digest, str(release)), (DIGEST, "")]
    loaded: list[tuple[str, bool]] = []

    def load_pipeline(name: str, frugal: bool) -> Any:
        loaded.append((name, frugal))
        pipeline = FakePipeline(bench.settings)
        pipeline.release_digest = digest
        return pipeline

    analyst = Analyst(bench.records, bench.settings, FakePipeline(bench.settings), "w", load_pipeline)  # type: ignore[arg-type]
    for _ in range(2):
        analyst.analyze()
    assert loaded == [(str(release), False)], "the other one was in memory"
    assert [(job.state, job.release_digest) for job in bench.jobs()] == [(State.SENT, digest), (State.SENT, DIGEST)]


def test_unknown_release_and_destination_are_named_with_a_cure(tmp_path: Path) -> None:
    file = tmp_path / "routing.yaml"
    settings = Settings(data_dir=tmp_path)
    file.write_text("version: 1\nrules:\n- {name: a, read: {release: /no/where}}\n")
    with pytest.raises(RulesError, match=r"line 3, column 29: there is no release `/no/where`.* → name the folder"):
        check_rules(file, settings)
    file.write_text("version: 1\nrules:\n- {name: a, read: {destinations: [vna]}}\n")
    with pytest.raises(RulesError, match=r"line 3, column 35: there is no destination `vna` → add it"):
        check_rules(file, settings)


BEST = """\
version: 1
rules:
  - {name: one a study, when: slices >= 20, read: , best_of_study: {wait_s: 30}}
"""


def _best(tmp_path: Path, rules: str = BEST) -> Ruled:
    return Ruled(tmp_path / "node", rules, pacs=104)


def test_only_the_thinnest_soft_series_of_a_study_is_read(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    bench.receive(*stack(1, step=2.0, ConvolutionKernel="Br40d"))
    bench.receive(*stack(2, step=0.5, ConvolutionKernel="Bl64d"))
    bench.receive(*stack(3, step=1.0, ConvolutionKernel="Br40d", slices=30))
    bench.receive(*stack(4, step=1.0, ConvolutionKernel="Br40d", slices=24))
    bench.receive(*stack(5, study=2, step=2.0, ConvolutionKernel="strange"))
    bench.close()
    assert bench.route() == []
    bench.clock.at += 29
    assert bench.route() == []
    with bench.records.reading() as session:
        shown = load(session, newest_first())
        assert {standing(one, bench.settings, now() + LATER * 60).mood for one in shown} == {Mood.WAITING}
        assert "waits until the study is complete" in shown[0].why()[0]
    bench.clock.at += 2
    assert len(bench.route()) == 2
    assert bench.series() == [
        ("1/1", State.REJECTED, Reason.NOT_BEST_SERIES),
        ("2/1", State.REJECTED, Reason.NOT_BEST_SERIES),
        ("3/1", State.VETTED, None),
        ("4/1", State.REJECTED, Reason.NOT_BEST_SERIES),
        ("5/1", State.VETTED, None),
    ]
    with bench.records.reading() as session:
        why = session.get_one(Series, 1).detail
    assert why == "rule `one a study`: series 3 of the study is read (preferred, 1 mm, 30 slices)"
    assert bench.route() == []


def test_the_choice_waits_for_series_that_still_come_and_for_new_images(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    bench.receive(*stack(1, step=2.0))
    bench.close()
    bench.route()
    bench.clock.at += 100
    thin = stack(2, step=1.0)
    bench.receive(*thin[:10])
    assert bench.route() == []  # a series of the study is RECEIVING
    bench.receive(*thin[10:])
    bench.close()
    assert bench.route() == []  # the last image is new
    bench.clock.at += 31
    assert len(bench.route()) == 1
    assert [state for _, state, _ in bench.series()] == [State.REJECTED, State.VETTED]


def test_a_study_uid_that_two_patients_share_takes_the_reading_from_neither(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    first = _decided(bench, stack(1, step=2.0), stack(2, step=1.0, PatientID="ANOTHER"))
    assert len(first) == 2
    assert _decided(bench, stack(3, step=1.5, PatientID="ANOTHER")) == []
    with bench.records.reading() as session:
        patients = [row.patient for row in session.scalars(select(Series).order_by(Series.id))]
    assert patients[0] != patients[1] == patients[2]
    assert all(len(one) == 32 for one in patients)


def test_a_crowd_is_looked_at_in_portions_and_a_study_only_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.rules.judge._AT_ONCE", 1)
    bench = _best(tmp_path, BEST.replace("wait_s: 30", "wait_s: 0"))
    bench.receive(*stack(1, step=2.0))
    bench.receive(*stack(2, step=1.0))
    bench.receive(*stack(3, study=2))
    bench.close()
    assert bench.route() == []
    assert len(bench.route()) == 1
    assert [state for _, state, _ in bench.series()] == [State.REJECTED, State.VETTED, State.VETTED]
    assert len(bench.route()) == 1


def _decided(bench: Ruled, *stacks: Sequence[Dataset]) -> list[int]:
    for one in stacks:
        bench.receive(*one)
    bench.close()
    bench.route()
    bench.clock.at += 31
    return bench.route()


def test_a_late_worse_series_is_not_read_even_if_the_images_of_the_best_are_gone(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    (first,) = _decided(bench, stack(1, step=1.0))
    with bench.records.session() as session:
        session.execute(Instance.__table__.delete())
    assert _decided(bench, stack(2, step=2.0)) == []
    assert bench.series()[1] == ("2/1", State.REJECTED, Reason.NOT_BEST_SERIES)
    assert [(job.id, job.state) for job in bench.jobs()] == [(first, State.QUEUED)]


def test_a_late_better_series_takes_the_place_of_one_that_still_waits(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    (first,) = _decided(bench, stack(1, step=2.0))
    (second,) = _decided(bench, stack(2, step=1.0))
    jobs = bench.jobs()
    assert [(job.id, job.state, job.reason) for job in jobs] == [
        (first, State.SUPERSEDED, Reason.NOT_BEST_SERIES),
        (second, State.QUEUED, None),
    ]
    assert jobs[0].detail == "series 2 of the study came later and is better"


def test_a_late_better_series_is_read_beside_one_that_was_read(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    (first,) = _decided(bench, stack(1, step=2.0))
    Analyst(bench.records, bench.settings, FakePipeline(bench.settings), "w").analyze(first)  # type: ignore[arg-type]
    (second,) = _decided(bench, stack(2, step=1.0))
    assert [(job.id, job.state) for job in bench.jobs()] == [(first, State.ENCODED), (second, State.QUEUED)]


def test_late_images_of_the_best_series_are_read_as_its_next_generation(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    (first,) = _decided(bench, stack(1, step=1.0), stack(2, step=2.0))
    (second,) = _decided(bench, stack(1, step=1.0, slices=3, first=25))
    assert [(job.id, job.state) for job in bench.jobs()] == [(first, State.SUPERSEDED), (second, State.QUEUED)]
    assert [name for name, state, _ in bench.series() if state == State.VETTED] == ["1/2"]


def test_a_generation_that_waited_gives_way_to_the_next_one(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    bench.receive(*stack(1, step=1.0))
    bench.close()
    bench.route()
    (job_id,) = _decided(bench, stack(1, step=1.0, slices=3, first=25))
    assert [(name, state) for name, state, _ in bench.series()] == [
        ("1/1", State.SUPERSEDED),
        ("1/2", State.VETTED),
    ]
    assert [job.id for job in bench.jobs()] == [job_id]


def test_what_a_rule_prefers_is_an_expression(tmp_path: Path) -> None:
    rules = BEST.replace("{wait_s: 30}", "{wait_s: 30, prefer: contrast}")
    bench = _best(tmp_path, rules)
    _decided(bench, stack(1, step=1.0), stack(2, step=2.0, ContrastBolusAgent="IOMERON"))
    assert [state for _, state, _ in bench.series()] == [State.REJECTED, State.VETTED]


KILLED = """
import os, sys
from pathlib import Path
from config import Settings
from node import routing
from node.database import Records, open_database
from node.rules.book import open_rulebook
from node.rules.judge import Judge
settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
applied = routing._apply
calls = []
def apply(*arguments):
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    calls.append(1)
    return applied(*arguments)
routing._apply = apply
clock = iter([0.0, 1e3, 1e6, 2e6, 3e6])
judge = Judge(open_rulebook(settings), settings, lambda: next(clock))
records = Records(open_database(settings.database))
routing.route(records, "d" * 64, judge=judge)
routing.route(records, "d" * 64, judge=judge)
"""


@pytest.mark.parametrize("applied", [3, 5])
def test_a_kill_between_decisions_leaves_nothing_half_decided(tmp_path: Path, applied: int) -> None:
    bench = _best(tmp_path)
    for number, step in ((1, 2.0), (2, 1.0), (3, 1.5)):
        bench.receive(*stack(number, step=step))
    bench.close()
    (tmp_path / "settings.json").write_text(bench.settings.model_dump_json())
    command = [sys.executable, "-c", KILLED, str(tmp_path / "settings.json"), str(applied)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2], timeout=120, check=False).returncode == -9
    assert {state for _, state, _ in bench.series()} == {State.VETTED}
    assert bench.jobs() == []
    bench.route()
    bench.clock.at += 31
    assert len(bench.route()) == 1
    assert [state for _, state, _ in bench.series()] == [State.REJECTED, State.VETTED, State.REJECTED]


def test_the_reconciler_applies_the_rules_of_the_settings(tmp_path: Path) -> None:
    bench = Ruled(tmp_path / "node", RULES, pacs=104, vna=105)
    bench.receive(*stack(1, BodyPartExamined="CHEST", ContrastBolusAgent="IOMERON"), *stack(2, BodyPartExamined="HEAD"))
    bench.close()
    broker = bench.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    Reconciler(bench.records, broker, Dispatcher(make_app(broker))).once()
    assert [job.destinations for job in bench.jobs()] == [["vna"]]
    assert bench.series()[1][2] == Reason.SKIPPED_BY_RULE


def test_images_that_are_damaged_between_vetting_and_routing_end_the_series(tmp_path: Path) -> None:
    bench = _best(tmp_path)
    bench.receive(*stack(1))
    bench.close()
    for segment in bench.settings.spool_dir.glob("*.seg*"):
        segment.unlink()
    with bench.records.session() as session:
        session.execute(update(Instance).values(segment="gone"))
    assert bench.route() == []
    assert [state for _, state, _ in bench.series()] == [State.REJECTED]


@dataclass
class Ran:
    """One run of the console script."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def fvlm_node(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """The console script, in this process."""

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr("sys.argv", ["fvlm-node", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ran(int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_rules_test_says_for_past_series_what_each_rule_says_term_by_term(
    tmp_path: Path, fvlm_node: Callable[..., Ran]
) -> None:
    bench = Ruled(tmp_path / "node", RULES + BEST.split("rules:\n")[1].replace(">= 20", "> 20"), pacs=104, vna=105)
    bench.receive(*stack(1, BodyPartExamined="HEAD"))
    bench.receive(*stack(2, step=3.0))
    bench.receive(*stack(3, step=4.0))
    bench.receive(*stack(4, slices=5))
    bench.close()
    bench.route()
    before = bench.series()
    config = bench.settings.data_dir / "node.yaml"
    config.write_text(
        json.dumps(
            {
                "data_dir": ".",
                "destinations": {
                    name: {"ae_title": "X", "host": "h", "port": 104, "commitment": False} for name in ("pacs", "vna")
                },
            }
        )
    )
    ran = fvlm_node("rules", "test", bench.file, "--on", "last-week", "--json", "--config", config)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    assert told["digest"] == bench.book.rules.digest
    by_uid = {one["series_instance_uid"]: one for one in told["series"]}
    assert len(by_uid) == 3  # what vetting refused came to no rule
    head, better, worse = (by_uid[f"{ROOT}.{n}"] for n in (1, 2, 3))
    assert head["outcome"] == "skip: heads are read elsewhere"
    assert head["was"] == "REJECTED (SKIPPED_BY_RULE)"
    assert better["outcome"] == "read, best of study"
    assert worse["outcome"] == f"not read: series {better['series']} of its study is better (NOT_BEST_SERIES)"
    assert [rule["rule"] for rule in better["rules"]] == [
        "no head", "urgent chest", "shadow", "by the settings", "one a study",
    ]  # fmt: skip
    assert better["rules"][0] == {
        "rule": "no head",
        "fits": None,
        "terms": [{"term": 'body_part == "HEAD"', "value": "not known", "holds": None}],
    }
    assert better["rules"][3]["terms"] == [{"term": "spacing <= 2 mm", "value": "3 mm", "holds": False}]
    assert better["facts"]["series_description"] == f'"{SECRET_DESCRIPTION}"'
    table = fvlm_node("rules", "test", bench.file, "--on", f"{ROOT}.1", "--config", config)
    assert table.returncode == 0, table.stderr
    for text in ("heads are read elsewhere", 'body_part == "HEAD"', SECRET_DESCRIPTION, "1 series that passed vetting"):
        assert text in table.stdout
    assert SECRET_DESCRIPTION not in table.stderr
    assert bench.series() == before
    forced = fvlm_node("series", "read", f"{ROOT}.1", "--why", "a trauma", "--config", config)
    assert forced.stdout == "job 1 reads it\n", forced.stderr
    assert bench.jobs()[0].forced_why == "a trauma"
    wrong = fvlm_node("rules", "test", bench.file, "--on", "yesterday", "--config", config)
    assert wrong.returncode == 2
    assert "Write last-week, all" in wrong.stderr


def test_rules_are_saved_listed_and_shown(tmp_path: Path, fvlm_node: Callable[..., Ran]) -> None:
    config, file = tmp_path / "node.yaml", tmp_path / "routing.yaml"
    config.write_text("data_dir: data\n")
    file.write_text(BEST)
    saved = fvlm_node("rules", "save", file, "--why", "only the best", "--config", config)
    assert saved.stdout.startswith("rules no. 1 are in force"), saved.stderr
    assert "only the best" in fvlm_node("rules", "versions", "--config", config).stdout
    assert fvlm_node("rules", "show", 1, "--config", config).stdout == BEST
    assert "no rules of number 2" in fvlm_node("rules", "show", 2, "--config", config).stderr
    file.write_text("rules: 1")
    assert fvlm_node("rules", "save", file, "--config", config).returncode == 2


def test_rules_check_and_facts(tmp_path: Path, fvlm_node: Callable[..., Ran]) -> None:
    file = tmp_path / "routing.yaml"
    file.write_text(BEST)
    good = fvlm_node("rules", "check", file)
    assert good.returncode == 0, good.stderr
    assert "slices >= 20" in good.stdout
    file.write_text(BEST.replace(">= 20", ">= 20 mm"))
    bad = fvlm_node("rules", "check", file)
    assert bad.returncode == 2
    assert bad.stderr.replace("\n", "") == (f"Problem: {file}: line 3, column 44: `slices` has no unit → remove `mm`")
    assert "soft_kernel" in fvlm_node("rules", "facts").stdout


def test_serve_refuses_bad_rules_before_it_does_anything(tmp_path: Path, fvlm_node: Callable[..., Ran]) -> None:
    (tmp_path / "routing.yaml").write_text("version: 1\nrules: [{name: a, when: thin, read: }]\n")
    (tmp_path / "node.yaml").write_text("routing: {rules: routing.yaml}\n")
    ran = fvlm_node("serve", "--config", tmp_path / "node.yaml")
    assert ran.returncode == 2
    assert "routing.yaml: line 2, column 25: there is no fact `thin`" in ran.stderr
    assert not (tmp_path / "fvlm-data").exists()


def test_a_running_node_keeps_the_rules_of_its_start(tmp_path: Path) -> None:
    bench = Ruled(tmp_path / "node", RULES, pacs=104, vna=105)
    take_configured(bench.settings)
    bench.file.write_text(BEST)
    book = book_in_force(bench.settings)
    assert book is not None
    assert book.rules.version == "spring"


def test_the_console_shows_the_rules_and_what_they_say(tmp_path: Path) -> None:
    bench = Ruled(tmp_path / "node", RULES, pacs=104, vna=105)
    for number in range(1, 12):
        bench.receive(*stack(number, slices=20, BodyPartExamined="HEAD<script>" if number == 11 else "HEAD"))
    bench.close()
    bench.route()
    PasswordFile.of(bench.settings.data_dir).set(PASSWORD)
    app = make_console(Records(read_only_database(bench.settings.database)), bench.settings)
    client = TestClient(app, "http://127.0.0.1:8112", client=("127.0.0.1", 50000))
    client.auth = (USER, PASSWORD)
    text = client.get("/rules").text
    assert "Version spring" in text
    assert text.count("was: REJECTED (SKIPPED_BY_RULE)") == 9
    assert "&#34;HEAD&lt;script&gt;&#34;" in text
    assert SECRET_DESCRIPTION in text
    assert "may hold names" in text
    assert "No patient data" not in text
    assert client.get("/rules?page=2").text.count("was: ") == 1
    for path in bench.settings.spool_dir.iterdir():
        if path.is_file():
            path.unlink()
    assert client.get("/rules").text.count("was: REJECTED") == 9  # what was read once is not read again
    page = client.get("/series/1").text
    assert "SKIPPED_BY_RULE" in page
    assert "no head (version spring)" in page
    assert SECRET_DESCRIPTION not in page
