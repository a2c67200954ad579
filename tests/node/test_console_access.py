"""Who may look at the console, under which name it may be called, and what every answer tells the browser."""

import base64
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from console_bench import ELSEWHERE, HERE, PASSWORD, ConsoleBench, console_settings
from starlette.testclient import TestClient
from typer.testing import CliRunner

from node.cli import app as cli
from node.console import access
from node.console.access import Gate, Verdict
from node.console.password import LONGEST, USER, PasswordFile, fits

ADDRESSES = (
    "/", "/series", "/series/1", "/deliveries", "/unreadable", "/refused", "/rules", "/static/console.css", "/nothing",
    "/api/overview", "/api/series", "/api/openapi.json",
)  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> ConsoleBench:
    return ConsoleBench(console_settings(tmp_path, allowed_hosts=("ct-node.hospital",)))


def basic(password: str, user: str = USER) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_password_lies_there_only_as_a_salted_hash_that_nobody_else_reads(tmp_path: Path) -> None:
    file = PasswordFile.of(tmp_path)
    first, second = file.generate(), file.generate()
    assert first != second
    assert len(second) >= 16
    assert fits(file.read(), second)
    assert not fits(file.read(), first)
    assert second.encode() not in file.read()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    line = file.read()
    file.set(second)
    assert file.read() != line, "the salt is the same"
    assert [path.name for path in tmp_path.iterdir()] == [file.path.name]


@pytest.mark.parametrize("stored", [b"", b"scrypt$", b"scrypt$1$2$3$!$!", b"plain$1$1$1$YQ==$YQ==", b"\xff", b"a$b"])
def test_a_damaged_password_file_opens_to_nobody(stored: bytes) -> None:
    assert not fits(stored, "")
    assert not fits(stored, PASSWORD)


def test_nothing_is_shown_without_the_password(bench: ConsoleBench) -> None:
    stranger, owner = bench.client(password=None), bench.client()
    for address in ADDRESSES:
        answer = stranger.get(address)
        assert answer.status_code == 401, address
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert "fVLM" not in answer.text.removeprefix("A password is needed. A new one: fvlm-node console password")
        assert owner.get(address).status_code in (200, 404), address


def test_what_is_not_the_password_is_asked_for_it(bench: ConsoleBench) -> None:
    wrong = ("", "Basic", "Basic !!!", f"Bearer {PASSWORD}", basic(PASSWORD, "root"), basic(PASSWORD + "x"), basic(""),
             "Basic " + base64.b64encode(b"\xff\xfe:x").decode(), "Basic " + "QUFB" * 2000)  # fmt: skip
    client = bench.client(password=None)
    assert [client.get("/", headers={"Authorization": header}).status_code for header in wrong] == [401] * len(wrong)
    assert client.get("/", headers={"Authorization": basic(PASSWORD)}).status_code == 200


def test_a_header_that_is_not_even_ascii_is_asked_for_the_password(bench: ConsoleBench) -> None:
    client = bench.client(password=None)
    assert client.get("/", headers={b"Authorization": b"Basic Y29uc29s\xc9"}).status_code == 401


def test_guessing_is_stopped_and_the_owner_still_gets_in(bench: ConsoleBench, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, guesser = bench.client(), bench.client("wrong password", ELSEWHERE)
    assert owner.get("/").status_code == 200
    assert [guesser.get("/").status_code for _ in range(7)] == [401] * 5 + [429] * 2
    guesser.auth = (USER, PASSWORD)
    assert guesser.get("/").status_code == 200, "who has the password that is open already is let in"
    assert owner.get("/").status_code == 200
    guesser.auth = (USER, "another guess")
    refused = guesser.get("/")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
    assert bench.client("wrong password", HERE).get("/").status_code == 401, "another address is not punished"
    later = time.monotonic() + access.WINDOW_S + 1
    monkeypatch.setattr(access, "monotonic", lambda: later)
    assert guesser.get("/").status_code == 401


def test_many_addresses_together_are_stopped_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PasswordFile.of(tmp_path)
    file.set(PASSWORD)
    monkeypatch.setattr("node.console.access.fits", lambda _, password: password == PASSWORD)  # spares 50 x 0.1 s
    gate = Gate(file)
    verdicts = [gate.judge(basic("a wrong one"), f"192.0.2.{n}") for n in range(60)]
    assert verdicts == [Verdict.NAMELESS] * 50 + [Verdict.TOO_MANY] * 10


def test_a_new_password_ends_the_old_one_in_a_running_console(bench: ConsoleBench) -> None:
    client = bench.client()
    assert client.get("/").status_code == 200
    new = PasswordFile.of(bench.settings.data_dir).generate()
    assert client.get("/").status_code == 401
    client.auth = (USER, new)
    assert client.get("/").status_code == 200
    PasswordFile.of(bench.settings.data_dir).path.unlink()
    answer = client.get("/")
    assert answer.status_code == 503
    assert "fvlm-node console password" in answer.text


@pytest.mark.parametrize("path", ["/", "/healthz"])
def test_only_known_names_are_answered_to(bench: ConsoleBench, path: str) -> None:
    expected = [
        ("127.0.0.1:8112", 200), ("localhost", 200), ("LocalHost:8112", 200), ("[::1]:8112", 200), ("10.1.2.3", 200),
        ("ct-node.hospital:8112", 200), ("evil.example", 421), ("ct-node.hospital.evil.example", 421), ("", 421),
        ("127.0.0.1.evil.example", 421), ("[evil]", 421), ("a b", 421), ("localhost@evil.example", 421),
    ]  # fmt: skip
    client = bench.client()
    assert [(host, client.get(path, headers={"Host": host}).status_code) for host, _ in expected] == expected


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_every_answer_carries_the_headers(bench: ConsoleBench, password: str | None) -> None:
    client = bench.client(password)
    for address in (*ADDRESSES, "/healthz", "/metrics"):
        _check_headers(client.get(address).headers)


def _check_headers(headers: Mapping[str, str]) -> None:
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_it_only_shows(bench: ConsoleBench) -> None:
    client = bench.client()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        for address in ("/", "/series/1", "/api/series"):
            assert client.request(method, address).status_code == 405


def test_probes_need_no_password_on_this_machine_only(tmp_path: Path) -> None:
    def answers(client: TestClient, **headers: str) -> set[int]:
        return {client.get(path, headers=headers).status_code for path in ("/healthz", "/readyz", "/metrics")}

    (tmp_path / "closed").mkdir()
    (tmp_path / "open").mkdir()
    closed = ConsoleBench(console_settings(tmp_path / "closed"))
    here = closed.client(None)
    assert answers(here) == answers(closed.client()) == {200}
    assert answers(closed.client(None, ELSEWHERE)) == {401}
    assert answers(here, **{"X-Forwarded-For": "192.0.2.7"}) == {401}, "a proxy speaks for somebody else"
    elsewhere = ConsoleBench(console_settings(tmp_path / "open", open_probes=True)).client(None, ELSEWHERE)
    assert answers(elsewhere) == {200}
    assert elsewhere.get("/").status_code == 401


def test_the_command_sets_a_password(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text("data_dir: data\n")
    command = ["console", "password", "--config", str(config)]
    missing = CliRunner().invoke(cli, [*command, "--generate"])
    assert "cannot be written" in str(missing.exception)
    (tmp_path / "data").mkdir()
    file = PasswordFile.of(tmp_path / "data")
    made = CliRunner().invoke(cli, [*command, "--generate"])
    assert fits(file.read(), made.output.split()[-1])
    asked = CliRunner().invoke(cli, command, input="a password of mine\n" * 2)
    assert asked.exit_code == 0, asked.output
    assert "a password of mine" not in asked.output
    assert fits(file.read(), "a password of mine")
    for wrong in ("short", "x" * (LONGEST + 1)):
        refused = CliRunner().invoke(cli, command, input=f"{wrong}\n" * 2)
        assert "That is no password" in str(refused.exception)
    assert fits(file.read(), "a password of mine")
    assert "Example: fvlm-node console password" in CliRunner().invoke(cli, ["console", "password", "--help"]).output
