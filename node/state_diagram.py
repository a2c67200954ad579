"""The state machine as a page with a Mermaid diagram, made from the code: `python -m node.state_diagram FILE`."""

import ast
import inspect
import sys
from itertools import pairwise
from pathlib import Path

from node import states
from node.states import OF_JOBS, TRANSITIONS, State


def page() -> str:
    """The page, Markdown: one diagram and one table with the meaning of each state."""
    lines = [
        "# States of a series and of its job",
        "",
        "Made from `node/states.py` by `python -m node.state_diagram docs/operations/states.md`; do not edit.",
        "",
        "A series goes from `RECEIVING` to `VETTED` or `REJECTED`, its job from `QUEUED` on. Every change of state is",
        "one of these arrows; the code refuses any other.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        f"    [*] --> {State.RECEIVING}",
        *(f"    {start} --> {end}" for start in State for end in State if end in TRANSITIONS[start]),
        f"    {State.SUPERSEDED} --> [*]",
        "```",
        "",
        "| State | Of | Meaning |",
        "|---|---|---|",
    ]
    meanings = _meanings()
    lines += [f"| `{state}` | {'job' if state in OF_JOBS else 'series'} | {meanings[state]} |" for state in State]
    return "\n".join(lines) + "\n"


def _meanings() -> dict[State, str]:
    """The docstring of each member of State, from the source: Python itself forgets them."""
    module = ast.parse(inspect.getsource(states))
    (body,) = (node.body for node in module.body if isinstance(node, ast.ClassDef) and node.name == State.__name__)
    found = {}
    for name, text in pairwise(body):
        if isinstance(name, ast.Assign) and isinstance(name.targets[0], ast.Name) and isinstance(text, ast.Expr):
            found[State[name.targets[0].id]] = " ".join(ast.literal_eval(text.value).split())
    return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
