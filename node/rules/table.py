"""What rules say, as tables for a terminal."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from config.expressions import FACTS
from config.expressions.evaluating import Truth
from config.rules import Rules
from node.rules.past import Judged
from node.rules.versions import RuleVersions

_WORDS: dict[Truth, tuple[str, str]] = {True: ("yes", "green"), False: ("no", "dim"), None: ("not known", "yellow")}


def facts_table() -> Table:
    """Every fact that a rule may ask."""
    table = Table(title="Facts of a series", title_justify="left")
    for name in ("Fact", "Type", "Meaning"):
        table.add_column(name, overflow="fold")
    for fact in FACTS.values():
        more = f" ({', '.join(fact.choices)})" if fact.choices else ""
        table.add_row(fact.name, str(fact.kind), fact.meaning + more)
    return table


def rules_table(rules: Rules) -> Table:
    """The rules of a file, in their order."""
    table = Table(title=f"Rules, version {rules.version}, SHA-256 {rules.digest[:12]}", title_justify="left")
    for name in ("Rule", "When", "Then"):
        table.add_column(name, overflow="fold")
    for rule in rules.rules:
        when = rule.when.text if rule.when else "every series"
        table.add_row(Text(rule.name), Text(when), Text(rule.action))
    for rule in rules.after:
        when = rule.when.text if rule.when else "every series"
        table.add_row(Text(rule.name), Text(f"once segmented: {when}"), Text(rule.action))
    return table


def versions_table(versions: RuleVersions) -> Table:
    """The rules that were ever in force, the newest first. Raises config.rules.RulesError."""
    table = Table(title="Rules that were in force", title_justify="left")
    for name in ("No.", "Saved (UTC)", "By", "SHA-256", "Why"):
        table.add_column(name, overflow="fold")
    for one in filter(None, map(versions.get, versions.numbers())):
        table.add_row(str(one.number), f"{one.at:%Y-%m-%d %H:%M:%S}", Text(one.done_by), one.digest[:12], Text(one.why))
    return table


def judged_table(judged: Sequence[Judged], title: str) -> Table:
    """A row a series: what would become of it, what did, and each rule with its terms."""
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("Series", overflow="fold")
    table.add_column("By these rules", overflow="fold")
    table.add_column("Why", overflow="fold")
    for one in judged:
        name = Text(f"{one.series_id}  {one.last_at:%Y-%m-%d %H:%M}\n{one.series_instance_uid}")
        if one.described:
            name.append(f"\n{one.described}", style="italic")
        table.add_row(name, Text(f"{one.outcome}\nwas: {one.was}"), _why(one))
    return table


def _why(one: Judged) -> Text:
    text = Text()
    for said in (*one.said, *(one.later or ())):
        word, style = _WORDS[said.trace.truth]
        text.append("\n" if text else "").append(f"{said.rule.name}: ").append(word, style=style)
        for term in said.trace.terms:
            word, style = _WORDS[term.truth]
            text.append(f"\n  {term.text}  (is {term.value}) ").append(word, style=style)
    return text
