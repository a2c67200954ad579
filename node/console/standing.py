"""Where a series stands and why it goes no further, in one sentence with what to do about it."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from config import Reason, Settings
from config.reasons import BY_RULES
from node.console.views import Mood, Standing
from node.records import Delivery, Job, Series
from node.series_status import SeriesStatus
from node.states import State

EXPECTED = BY_RULES | {Reason.NOT_CT, Reason.LOCALIZER, Reason.READER_FEEDBACK, Reason.FEEDBACK_NOTHING_SAID}
"""Reasons of a rejection that nobody has to look at."""
_PATIENCE = timedelta(minutes=2)
"""After this long in a state that the reconciler ends at once, something is wrong with it."""
_RECONCILER = "See logs/reconciler.log in the data folder; then: fvlm-node doctor"


def standing(status: SeriesStatus, settings: Settings, at: datetime) -> Standing:
    """`at` is the time now."""
    if status.job is not None:
        return _of_job(status.job, status, settings, at)
    if status.waits_for_study:
        sentence = f"Fit to be read; rule {status.series.rule} waits for the other series of the study."
        return Standing(mood=Mood.WAITING, sentence=sentence)
    return _of_series(status.series, settings, at)


def _of_series(series: Series, settings: Settings, at: datetime) -> Standing:
    state = State(series.state)
    if state is State.RECEIVING:
        quiet = settings.completion.quiet_s
        if at - series.last_at > timedelta(seconds=quiet) + _PATIENCE:
            sentence = f"No image has come for {ago(at - series.last_at)}, but nobody has closed the series."
            return Standing(mood=Mood.PROBLEM, sentence=sentence, cure=_RECONCILER)
        sentence = f"Images come in; the series is complete when none has come for {quiet:g} s."
        return Standing(mood=Mood.WORKING, sentence=sentence)
    if state is State.COMPLETE:
        return _soon("The images are complete; their geometry is looked at next.", series.changed_at, at)
    if state is State.VETTED:
        if at - series.changed_at > _PATIENCE:
            sentence = "Fit to be read, but no job was made: no model release can be read, or the reconciler is ill."
            return Standing(mood=Mood.PROBLEM, sentence=sentence, cure=Reason.MODEL_UNAVAILABLE.cure)
        return Standing(mood=Mood.WORKING, sentence="Fit to be read; a job is made next.")
    if state is State.REJECTED:
        reason = Reason(series.reason or Reason.INTERNAL)
        mood = Mood.DONE if reason in EXPECTED else Mood.PROBLEM
        return Standing(mood=mood, sentence=f"Not read. {reason.meaning}", cure=reason.cure)
    return Standing(mood=Mood.DONE, sentence="A newer generation of the series took its place.")


def _of_job(job: Job, status: SeriesStatus, settings: Settings, at: datetime) -> Standing:
    state = State(job.state)
    if state is State.QUEUED:
        return _queued(job, settings, at)
    if state is State.RUNNING:
        if job.lease_expires is not None and job.lease_expires < at - _PATIENCE:
            sentence = f"The worker {job.lease_owner} has not been heard of for {ago(at - job.lease_expires)}."
            return Standing(mood=Mood.PROBLEM, sentence=sentence, cure=_RECONCILER)
        sentence = f"{job.lease_owner or 'A worker'} has been reading it for {ago(at - job.changed_at)}."
        return Standing(mood=Mood.WORKING, sentence=sentence)
    if state is State.ENCODED:
        return _encoded(status, at)
    if state in (State.FAILED, State.QUARANTINED):
        reason = Reason(job.reason or Reason.INTERNAL)
        if reason in (Reason.CANCELLED, Reason.SKIPPED_BY_RULE):
            return Standing(mood=Mood.DONE, sentence=reason.meaning, cure=reason.cure)
        told = f"Only {status.sent} of {len(status.deliveries)} results were" if status.sent else "No result was"
        sentence = f"{told} delivered. {reason.meaning}"
        return Standing(mood=Mood.PROBLEM, sentence=sentence, cure=reason.cure)
    if state is State.SUPERSEDED:
        return Standing(mood=Mood.DONE, sentence="A newer generation or another reading took its place.")
    if job.reason is not None:
        reason = Reason(job.reason)
        return Standing(mood=Mood.PROBLEM, sentence=reason.meaning, cure=reason.cure)
    if not status.deliveries:
        return Standing(mood=Mood.DONE, sentence="Read; no destination is set, the results are in the data folder.")
    kept = " and is kept there" if state is State.COMMITTED else ""
    return Standing(mood=Mood.DONE, sentence=f"Every result has arrived at {_names(status.deliveries)}{kept}.")


def _queued(job: Job, settings: Settings, at: datetime) -> Standing:
    waited = ago(at - job.changed_at)
    if job.attempts == 0:
        sentence = f"Has waited for a worker for {waited}."
        return Standing(mood=Mood.WAITING, sentence=sentence, cure="If no worker runs: see logs/analyze.log.")
    reason = Reason(job.reason) if job.reason else None
    sentence = f"Attempt {job.attempts} of {settings.work.max_attempts} failed; has waited for the next for {waited}."
    return Standing(mood=Mood.WAITING, sentence=sentence, cure=reason.cure if reason else "")


def _encoded(status: SeriesStatus, at: datetime) -> Standing:
    if status.breaker is not None and status.breaker.reason is not None:
        reason = Reason(status.breaker.reason)
        sentence = f"Read; waits for {status.breaker.destination}: {reason.meaning}"
        return Standing(mood=Mood.WAITING, sentence=sentence, cure=reason.cure)
    open_ones = [d for d in status.deliveries if d.sent_at is None and not d.refused]
    waiting = next((d for d in open_ones if d.reason is not None), None)
    if waiting is None or waiting.reason is None:
        where = _names(open_ones) or "its destinations"
        return _soon(f"Read; the results go to {where} next.", (status.job or status.series).changed_at, at)
    reason = Reason(waiting.reason)
    tried = f"attempt {waiting.attempts}" if waiting.attempts else "not tried itself"
    soon = waiting.due_at - at
    then = f"in {ago(soon)}" if soon > timedelta(0) else "now"
    sentence = f"Read; waits for {waiting.destination}: {reason.meaning} Next try {then} ({tried})."
    return Standing(mood=Mood.WAITING, sentence=sentence, cure=reason.cure)


def _soon(sentence: str, since: datetime, at: datetime) -> Standing:
    if at - since > _PATIENCE:
        sentence = f"{sentence} It has waited {ago(at - since)}, which is too long."
        return Standing(mood=Mood.PROBLEM, sentence=sentence, cure=_RECONCILER)
    return Standing(mood=Mood.WORKING, sentence=sentence)


def _names(deliveries: Sequence[Delivery]) -> str:
    return ", ".join(dict.fromkeys(delivery.destination for delivery in deliveries))


def ago(span: timedelta) -> str:
    """A span of time for a person: `8 s`, `5 min`, `3 h`, `2 days`."""
    seconds = max(0, int(span.total_seconds()))
    if seconds < 120:
        return f"{seconds} s"
    if seconds < 2 * 3600:
        return f"{seconds // 60} min"
    return f"{seconds // 3600} h" if seconds < 48 * 3600 else f"{seconds // 86400} days"
