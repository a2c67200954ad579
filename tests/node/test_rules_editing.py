"""Rules that are saved while the node runs: versions on disk, the reconciler that follows, the console's editor."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from console_bench import PASSWORD
from ruled_bench import SECRET_DESCRIPTION, Ruled, stack
from starlette.testclient import TestClient

from config import Reason
from config.rules import RulesError
from config.settings import ConsoleSettings
from node.console.app import make_app as make_console
from node.console.password import USER, PasswordFile
from node.console.server import read_only_database
from node.database import Records
from node.reconciler import Reconciler
from node.records import Job
from node.rules.book import book_in_force, save_rules, take_configured
from node.rules.versions import RulesMovedError, RuleVersions
from node.states import State
from node.tasks import Dispatcher, make_app

RULES = """\
version: {}
rules:
  - name: no head
    when: body_part == "HEAD"
    skip: heads are read elsewhere
  - name: the rest
    read:
"""
ALL = "version: all\nrules:\n  - name: everything\n    read: {preset: ct-rate}\n"


@pytest.fixture
def bench(tmp_path: Path) -> Ruled:
    made = Ruled(tmp_path / "node", RULES.format("one"), pacs=104)
    take_configured(made.settings)
    return made


def in_force(bench: Ruled) -> str:
    book = book_in_force(bench.settings)
    return "" if book is None else book.rules.version


def test_what_was_changed_last_is_in_force_file_or_console(bench: Ruled) -> None:
    take_configured(bench.settings)
    assert RuleVersions(bench.settings.data_dir).numbers() == [1], "the file is as it was"
    save_rules(bench.settings, ALL, "mine", "marie", "all of them")
    take_configured(bench.settings)
    assert in_force(bench) == "all", "a start does not take it back"
    bench.file.write_text(RULES.format("two"))
    assert in_force(bench) == "all"
    take_configured(bench.settings)
    assert in_force(bench) == "two"
    told = [RuleVersions(bench.settings.data_dir).get(number) for number in (1, 2, 3)]
    assert [one and (one.done_by, one.why) for one in told] == [
        ("configuration", "routing.yaml"), ("marie", "all of them"), ("configuration", "routing.yaml"),
    ]  # fmt: skip
    routing = bench.settings.routing.model_copy(update={"rules": None})
    bench.settings = bench.settings.model_copy(update={"routing": routing})
    assert in_force(bench) == "", "the settings name the file no more"
    save_rules(bench.settings, ALL, "mine", "marie", "")
    assert in_force(bench) == "all"


def test_nobody_overwrites_what_another_one_saved_and_what_is_wrong_is_not_saved(bench: Ruled) -> None:
    save_rules(bench.settings, ALL, "mine", "marie", "", after=1)
    with pytest.raises(RulesMovedError, match=r"no\. 2"):
        save_rules(bench.settings, RULES.format("three"), "mine", "pierre", "", after=1)
    with pytest.raises(RulesError, match="mine: line 4, column 20: there is no preset `none`"):
        save_rules(bench.settings, ALL.replace("ct-rate", "none"), "mine", "pierre", "")
    folder = bench.settings.data_dir / "rules"
    assert sorted(path.name for path in folder.iterdir()) == ["000001.json", "000002.json"]
    (folder / "000002.json").write_text("{")
    with pytest.raises(RulesError, match=r"000002\.json: cannot be read .*backup"):
        book_in_force(bench.settings)


def test_a_running_node_follows_and_keeps_its_rules_if_new_ones_do_not_fit(
    bench: Ruled, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = bench.settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    reconciler = Reconciler(bench.records, settings, Dispatcher(make_app(settings)))

    def come(number: int, body_part: str = "HEAD") -> tuple[str, str | None]:
        bench.receive(*stack(number, study=number, BodyPartExamined=body_part))
        bench.close()
        reconciler.once()
        _, state, reason = bench.series()[-1]
        return state, reason

    assert come(1) == (State.REJECTED, Reason.SKIPPED_BY_RULE)
    save_rules(bench.settings, ALL, "mine", "marie", "heads too")
    assert come(2) == (State.VETTED, None)
    assert bench.jobs()[0].preset == "ct-rate"
    bad = {"at": "2026-11-28T10:00:00+00:00", "done_by": "x", "why": "", "text": ALL.replace("ct-rate", "none")}
    (bench.settings.data_dir / "rules" / "000003.json").write_text(json.dumps(bad))
    assert come(3) == (State.VETTED, None)
    assert bench.jobs()[1].preset == "ct-rate"
    assert capsys.readouterr().out.count("rules_refused") == 1


def client_of(bench: Ruled, operators: Sequence[str] = (USER,)) -> TestClient:
    settings = bench.settings.model_copy(update={"console": ConsoleSettings(operators=tuple(operators))})
    PasswordFile.of(settings.data_dir).set(PASSWORD)
    app = make_console(Records(read_only_database(settings.database)), settings, bench.records)
    client = TestClient(app, "http://127.0.0.1:8112", client=("127.0.0.1", 50000), follow_redirects=False)
    client.auth = (USER, PASSWORD)
    return client


def token_of(page: str) -> str:
    found = re.search(r'name="token" value="([0-9a-f]{64})"', page)
    assert found is not None
    return found[1]


def test_only_an_operator_with_the_consoles_own_form_changes_anything(bench: Ruled) -> None:
    bench.receive(*stack(BodyPartExamined="HEAD"))
    bench.close()
    bench.route()
    paths = ("/rules/edit", "/series/1/read")
    looker = client_of(bench, operators=())
    assert "Change</a>" not in looker.get("/rules").text
    assert "Read anyway" not in looker.get("/series/1").text
    assert looker.get("/rules/edit").status_code == 403
    assert {looker.post(path, data={"why": "x"}).status_code for path in paths} == {403}
    operator = client_of(bench)
    fields = {"token": "0" * 64, "text": ALL, "base": "1", "why": "x", "do": "save"}
    assert {operator.post(path, data=fields).status_code for path in paths} == {403}
    fields["token"] = token_of(operator.get("/rules/edit").text)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert {operator.post(path, data=fields, headers=elsewhere).status_code for path in paths} == {403}
    assert operator.post("/rules/edit", data=fields | {"text": "x" * 2**20}).status_code == 413
    assert (in_force(bench), bench.jobs()) == ("one", [])


def test_the_editor_says_what_is_wrong_tries_on_last_week_and_saves_a_version(bench: Ruled) -> None:
    bench.receive(*stack(BodyPartExamined="HEAD"))
    bench.close()
    bench.route()
    client = client_of(bench)
    page = client.get("/rules/edit").text
    assert "heads are read elsewhere" in page
    fields = {"token": token_of(page), "text": ALL.replace("read:", "when: thin\n    read:"), "base": "1"}
    wrong = client.post("/rules/edit", data=fields | {"do": "check"})
    assert wrong.status_code == 422
    assert "these rules: line 4, column 11: there is no fact `thin` → see them all" in wrong.text
    assert "when: thin" in wrong.text, "what was written is still there"
    fields["text"] = ALL.replace("\n", "\r\n")
    tried = client.post("/rules/edit", data=fields | {"do": "check"}).text
    for text in ("another end for 1 of 1 series", "read, preset ct-rate", "now: skip: heads are read elsewhere",
                 "was: REJECTED (SKIPPED_BY_RULE)", SECRET_DESCRIPTION):  # fmt: skip
        assert text in tried
    assert in_force(bench) == "one"
    unsaid = client.post("/rules/edit", data=fields | {"do": "save", "why": " "})
    assert (unsaid.status_code, "not said why" in unsaid.text, in_force(bench)) == (422, True, "one")
    saved = client.post("/rules/edit", data=fields | {"do": "save", "why": "heads <too>"})
    assert (saved.status_code, saved.headers["location"]) == (303, "/rules")
    listed = client.get("/rules").text
    for text in ("Version all", "heads &lt;too&gt;", USER, "configuration"):
        assert text in listed
    newest = RuleVersions(bench.settings.data_dir).newest()
    assert newest is not None
    assert (newest.number, newest.text, newest.done_by) == (2, ALL, USER)
    stale = client.post("/rules/edit", data=fields | {"do": "save", "why": "again"})
    assert (stale.status_code, "no. 2 meanwhile" in stale.text) == (422, True)
    older = client.get("/rules/edit?version=1").text
    assert "heads are read elsewhere" in older
    assert 'name="base" value="2"' in older, "going back is a new version"
    assert client.get("/rules/edit?version=7").status_code == 404


def test_an_operator_has_a_skipped_series_read(bench: Ruled) -> None:
    bench.receive(*stack(BodyPartExamined="HEAD"))
    bench.close()
    bench.route()
    client = client_of(bench)
    page = client.get("/series/1").text
    assert "Read anyway" in page
    fields = {"token": token_of(page), "why": "trauma"}
    assert client.post("/series/9/read", data=fields).status_code == 404
    assert client.post("/series/1/read", data=fields | {"why": ""}).status_code == 409
    assert client.post("/series/1/read", data=fields).status_code == 303
    after = client.get("/series/1").text
    assert f"Read against the rules, as {USER} wanted" in after
    assert "trauma" in after
    assert "Read anyway" not in after
    again = client.post("/series/1/read", data=fields)
    assert (again.status_code, "no rule keeps it" in again.text) == (409, True)
    assert [(job.state, job.forced_why) for job in bench.jobs()] == [(State.QUEUED, "trauma")]
    with bench.records.reading() as session:
        assert session.get_one(Job, 1).forced_by == USER
