"""The drawn state machine is the one of the code."""

from pathlib import Path

from node.state_diagram import page
from node.states import TRANSITIONS, State

FILE = Path(__file__).parents[2] / "docs" / "operations" / "states.md"


def test_the_page_is_up_to_date() -> None:
    """If not: python -m node.state_diagram docs/operations/states.md"""
    assert FILE.read_text(encoding="utf-8") == page()


def test_every_state_and_arrow_is_drawn_and_no_other() -> None:
    arrows = {tuple(line.split(" --> ")) for line in map(str.strip, page().splitlines()) if " --> " in line}
    allowed = {(start, end) for start, ends in TRANSITIONS.items() for end in ends}
    assert arrows == allowed | {("[*]", State.RECEIVING), (State.SUPERSEDED, "[*]")}
    assert all(f"| `{state}` |" in page() for state in State)
