"""Damaged and hostile bytes through every way in: each ends stored with a verdict or refused with a reason.

`FUZZ_CASES` and `FUZZ_SEED` in the environment go further; `campaign.py` says how a finding is repeated.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import campaign
import pytest

SEED = os.environ.get("FUZZ_SEED", "1")
CASES = int(os.environ.get("FUZZ_CASES", "20000"))
FEW = 2000
REACHED = (
    "file VOLUME", "file TRUNCATED", "file NOT_DICOM", "file BAD_UID", "file UNDECODABLE", "file NO_PIXELS",
    "file NO_GEOMETRY", "file BAD_RESCALE", "file NOT_CT", "file MULTI_FRAME", "file TOO_FEW_SLICES",
    "sr SR", "sr SR_TEXT", "sr NOT_SR", "pdu ABORTED", "pdu REJECTED", "pdu RELEASED", "pdu GONE",
    "http 200", "http 400", "http 401", "http 404", "http 405", "http 421", "http GONE", "write WRITTEN",
)  # fmt: skip
"""Verdicts that 20,000 cases must reach, or they never get deep enough."""


@pytest.mark.slow
@pytest.mark.timeout(3600)  # 45 s of processor time for 20,000; the machine may be busy
@pytest.mark.parametrize("cases", [FEW, pytest.param(CASES, marks=pytest.mark.proof)])
def test_every_case_ends_in_a_verdict(cases: int) -> None:
    outcome = campaign.run_campaign(SEED, cases)
    assert not outcome.failures, "\n\n".join(outcome.failures)
    assert outcome.cases == cases
    assert cases < 20000 or not [verdict for verdict in REACHED if not outcome.verdicts[verdict]]
    assert outcome.peak_mb < 1536


UNHARMED = {
    "ct-bad-escape": "VOLUME", "ct-bare": "VOLUME", "ct-deflated-much": "NO_PIXELS", "ct-jpeg-8": "VOLUME",
    "ct-rich": "TOO_FEW_SLICES",
    "enhanced-ct": "MULTI_FRAME", "seg": "NOT_CT", "sr": "SR", "sr-implicit": "SR",
    "regressions/transfer-syntax-no-uid": "BAD_UID", "regressions/unknown-vr-of-an-empty-uid": "TRUNCATED",
}  # fmt: skip


def test_the_seeds_as_they_are() -> None:
    """With the real decoding process; what is not named here is a sound CT slice in some syntax or character set."""
    command = [sys.executable, campaign.PROGRAM, "--corpus"]
    done = subprocess.run(command, capture_output=True, text=True, env=campaign._environment(), check=True)
    verdicts = json.loads(done.stdout)
    assert len(verdicts) > 28
    for name, verdict in verdicts.items():
        assert verdict == UNHARMED.get(name.removesuffix(".dcm"), "VOLUME"), name


PLANTED = {
    "crash": "status -6", "loop": "status -27", "memory": "MemoryError", "raise": "KeyError",
    "lose": "stored records are in no table",
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_can_be_repeated(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "PROGRAM", str(Path(__file__).with_name("planted.py")))
    monkeypatch.setattr(campaign, "FINDINGS", tmp_path)
    monkeypatch.setenv("FAULT", fault)
    outcome = campaign.run_campaign("planted", 10)
    assert PLANTED[fault] in outcome.failures[0]
    assert outcome.cases == 10
    command = outcome.failures[0].rsplit("repeat it: ", 1)[1]
    again = [sys.executable, *shlex.split(command)[1:]]  # without the fault it passes
    subprocess.run(again, cwd=campaign.ROOT, env=campaign._environment(), check=True, capture_output=True)


def test_a_crash_of_a_decoder_is_tried_in_the_decoding_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """There it is refused, so it is counted and no failure."""
    monkeypatch.setattr(campaign, "PROGRAM", str(Path(__file__).with_name("planted.py")))
    monkeypatch.setenv("FAULT", "decoder")
    outcome = campaign.run_campaign("planted", 10)
    assert (outcome.decoder_crashes, outcome.cases, outcome.failures) == (1, 10, [])
