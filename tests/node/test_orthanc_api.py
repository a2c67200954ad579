"""What the plugin of an Orthanc may ask over HTTP, and who may ask. With an Orthanc: test_orthanc_plugin."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rows import add_job
from spool_data import Bench
from sqlalchemy import select

from config import Reason, Settings
from config.inlet_settings import OrthancSource, WebSettings
from config.settings import ConsoleSettings, SettingsError
from node.orthanc_source import rows
from node.orthanc_source.follower import Follower
from node.orthanc_source.pending import Pending
from node.records import Job, OrthancWanted
from node.states import State
from node.status import status_tables
from node.web.server import WebServer

SERIES = "11111111-22222222-33333333-44444444-55555555"
TOKEN = {"Authorization": "Bearer right"}


class Api:
    """A node's answers to plugins, without an Orthanc behind."""

    def __init__(self, bench: Bench, token: str) -> None:
        self.records = bench.records
        source = OrthancSource(url="http://127.0.0.1:1", plugin_token=f"file:{token}")
        open_source = OrthancSource(url="http://127.0.0.1:1")
        self.settings = bench.settings.model_copy(
            update={
                "web": WebSettings(enabled=True, port=0),
                "orthancs": {"main": source, "open": open_source},
                "console": ConsoleSettings(public_url="https://node.example.org/fvlm/"),
            }
        )
        self.followers = {
            name: Follower(name, one, bench.records, self.settings) for name, one in self.settings.orthancs.items()
        }
        self.server = WebServer(self.settings, bench.records, self.followers)

    def ask(self, method: str, path: str, **headers: str) -> httpx.Response:
        return httpx.request(method, f"http://127.0.0.1:{self.server.port}/orthanc/{path}", headers=headers)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    (tmp_path / "token").write_text("right\n")
    made = Api(Bench(tmp_path / "node"), str(tmp_path / "token"))
    yield made
    made.server.stop()


def test_only_who_shows_the_token_is_answered(api: Api) -> None:
    path = f"main/series/{SERIES}/2.25.1"
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
        assert api.ask("GET", path, **headers).status_code == 401
        assert api.ask("POST", path, **headers).status_code == 401
        assert api.ask("POST", "main/changed", **headers).status_code == 401
    with api.records.reading() as session:
        assert session.scalars(select(OrthancWanted)).all() == []
    assert api.ask("GET", path, **TOKEN).json()["state"] == "UNKNOWN"
    assert api.ask("POST", "main/changed", **TOKEN).status_code == 202
    assert api.ask("POST", "open/changed").status_code == 202
    assert api.ask("POST", "main/changed", Host="evil.example.org", **TOKEN).status_code == 421


@pytest.mark.parametrize(
    "path",
    ["elsewhere/changed", "elsewhere/series/x/1.2", "main/series/x/1.2.3", f"main/series/{SERIES}/a", "main", "",
     f"main/series/{SERIES[:-1]}%0a/1.2", "main/series/..%2f..%2fetc/1.2", f"main/series/{SERIES}/{'1.' * 40}1"],
)  # fmt: skip
def test_what_is_no_name_is_not_found(api: Api, path: str) -> None:
    assert api.ask("POST", path, **TOKEN).status_code == 404


def test_what_a_person_asked_for_is_kept_and_a_failed_job_runs_again(api: Api) -> None:
    job_id = add_job(api.records, "2.25.7", State.FAILED)
    path = f"main/series/{SERIES}/2.25.7"
    before = api.ask("GET", path, **TOKEN).json()
    assert (before["state"], before["job"]) == ("FAILED", job_id)
    assert before["console"].startswith("https://node.example.org/fvlm/series/")
    told = api.ask("POST", path, **TOKEN)
    assert (told.status_code, told.json()["state"]) == (202, "WANTED")
    assert api.ask("POST", path, **TOKEN).status_code == 202
    with api.records.session() as session:
        assert rows.wanted(session, "main") == [SERIES]
        assert session.get_one(Job, job_id).state == State.QUEUED
        rows.settle(session, "main", SERIES, None, "")
    assert api.ask("GET", path, **TOKEN).json()["state"] == "QUEUED"


def test_not_more_are_waited_for_than_a_node_can_remember(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_WANTED", 1)
    assert api.ask("POST", f"open/series/{SERIES}/1.2").status_code == 202
    other = SERIES.replace("1", "a")
    assert api.ask("POST", f"open/series/{other}/1.3").status_code == 503
    assert api.ask("POST", f"open/series/{SERIES}/1.2").status_code == 202


def test_a_database_that_is_away_is_told(api: Api) -> None:
    api.records.engine.dispose()
    for path in api.settings.data_dir.glob("node.sqlite*"):
        path.unlink()
    answer = api.ask("GET", f"open/series/{SERIES}/1.2")
    assert (answer.status_code, answer.json()) == (503, {"error": "The database does not answer."})


def test_status_shows_the_orthancs(api: Api) -> None:
    with api.records.session() as session:
        rows.begin(session, "main", 7)
        rows.fail(session, "main", Reason.PEER_UNREACHABLE, "it does not answer")
        rows.settle(session, "main", SERIES, Reason.CLASS_NOT_TAKEN, "2 images")
    (table,) = [t for t in status_tables(api.settings, 10) if t.title == "Orthancs"]
    cells = [" ".join(map(str, column.cells)) for column in table.columns]
    assert "PEER_UNREACHABLE: it does not answer" in cells[2]
    assert "1 series not fetched: CLASS_NOT_TAKEN" in cells[2]
    assert "never" in cells[1]  # the other one


def test_beyond_this_machine_every_plugin_shows_a_token(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    web = "web: {enabled: true, host: 0.0.0.0, senders: {ONE: 'env:X'}}\n"
    config.write_text(web + "orthancs: {main: {url: 'http://127.0.0.1:8042'}}\n")
    with pytest.raises(SettingsError, match="main without plugin_token"):
        Settings.load(config)
    config.write_text(web + "orthancs: {main: {url: 'http://127.0.0.1:8042', plugin_token: 'env:Y'}}\n")
    assert Settings.load(config).has_inlets
    config.write_text("orthancs: {main: {url: 'http://pacs.example.org', user: a, password: 'env:Y'}}\n")
    with pytest.raises(SettingsError, match="use https"):
        Settings.load(config)


def test_images_hold_the_cursor_until_they_are_done_with() -> None:
    pending = Pending(settle_s=10.0)
    pending.came("a", 5, at=0.0)
    pending.came("b", 7, at=1.0)
    assert (pending.cursor(9), pending.overdue(9.0), pending.overdue(10.0)) == (4, None, "a")
    pending.came("a", 8, at=2.0)  # other content under the same name
    assert pending.cursor(9) == 6
    pending.postpone(("b", "c"), at=11.0)
    assert pending.overdue(13.0) == "a"
    pending.settle(("a",))
    assert (pending.overdue(20.0), pending.overdue(21.0)) == (None, "b")
    pending.settle(("b",))
    assert (pending.cursor(9), len(pending)) == (9, 0)
