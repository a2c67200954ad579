"""The rules for after the segmentation, asked by the worker between segmentation and reading.

They are those of the rules file by which the series was routed, and they are asked once: what they say stands in the
job, for every further attempt and rerun. Nobody asks them about a series that a person has read against the rules.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy.orm import joinedload

from config import Reason, Settings
from config.rule_parts import Rule
from config.rules import RulesError, decisive
from ct.part10 import Unfit
from node import leases
from node.analysis import PipelineError
from node.database import Records
from node.orders import Orders
from node.records import Job
from node.rules.book import rules_of
from node.rules.facts import facts_of
from node.states import State

_log = structlog.get_logger(__name__)


class SkippedError(Exception):
    """A rule says that the series is not read; its job has ended."""


def decide(records: Records, settings: Settings, job_id: int, owner: str, anatomies: Sequence[str]) -> Orders:
    """What is ordered for a job in which these anatomies were segmented whole.

    Raises SkippedError; PipelineError, LeaseLostError, sqlalchemy.exc.DBAPIError.
    """
    rule = _asked(records, settings, job_id, anatomies)
    with records.session() as session:
        job = leases.claim(session, job_id, owner, settings.work.lease_s)
        if job.anatomies is None:
            job.anatomies = list(anatomies)
            if rule is not None:
                job.later_rule = rule.name
                _log.info("job_judged_again", job=job.id, count=len(anatomies))
            if rule is not None and rule.read is not None:
                Orders.of(job).changed(rule.read).give(job)
            elif rule is not None:
                leases.release(job)
                job.move(State.FAILED, Reason.SKIPPED_BY_RULE, f"rule `{rule.name}`: {rule.skip}")
        orders, skipped = Orders.of(job), job.state == State.FAILED
    if skipped:
        raise SkippedError
    return orders


def _asked(records: Records, settings: Settings, job_id: int, anatomies: Sequence[str]) -> Rule | None:
    """The rule that fits a job whose rules were not asked yet."""
    with records.reading() as session:
        job = session.get_one(Job, job_id, options=[joinedload(Job.series)])
        if job.anatomies is not None or job.forced_by or not job.series.rules_digest:
            return None
        try:
            rules = rules_of(job.series.rules_digest, settings)
            if rules is None:
                _log.warning("rules_gone", job=job_id, digest=job.series.rules_digest)
            if rules is None or not rules.after:
                return None
            facts = facts_of(session, job.series, settings.spool_dir, settings.routing)
        except RulesError as error:
            raise PipelineError(Reason.INTERNAL, f"the rules cannot be asked again: {error.cause}") from error
        except Unfit as unfit:
            raise PipelineError(unfit.reason, unfit.detail) from unfit
    return decisive(rules.ask_after({**facts.values, "anatomies": tuple(anatomies)}))
