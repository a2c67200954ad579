"""The one state machine: states of a series and of its job, and which follows which."""

from enum import StrEnum


class State(StrEnum):
    """States of a series (up to VETTED or REJECTED) and of its job (from QUEUED on)."""

    RECEIVING = "RECEIVING"
    """Instances are coming in."""
    COMPLETE = "COMPLETE"
    """The completion rule says that nothing more is expected."""
    VETTED = "VETTED"
    """Geometry and modality are fit to be read."""
    REJECTED = "REJECTED"
    """Not fit, or no rule wants it; the reason says why. End, unless a person has it read against the rules."""
    QUEUED = "QUEUED"
    """A job waits for a worker."""
    RUNNING = "RUNNING"
    """A worker holds the lease."""
    ENCODED = "ENCODED"
    """The DICOM objects are written and validated; deliveries are due."""
    SENT = "SENT"
    """Every destination has accepted every object. End if none is asked for commitment, or none gives it."""
    COMMITTED = "COMMITTED"
    """Every destination that is asked for it has committed to keep them. End."""
    FAILED = "FAILED"
    """Ended without result for a reason that a repeat does not mend, or cancelled. End until run again."""
    QUARANTINED = "QUARANTINED"
    """Every attempt failed; a person has to look. End until run again."""
    SUPERSEDED = "SUPERSEDED"
    """A newer generation of the series, or a job of it that the loaded release has read, took its place. End."""


TRANSITIONS: dict[State, frozenset[State]] = {
    State.RECEIVING: frozenset({State.COMPLETE}),
    State.COMPLETE: frozenset({State.VETTED, State.REJECTED, State.SUPERSEDED}),
    State.VETTED: frozenset({State.QUEUED, State.REJECTED, State.SUPERSEDED}),
    State.REJECTED: frozenset({State.VETTED, State.SUPERSEDED}),
    State.QUEUED: frozenset({State.RUNNING, State.FAILED, State.SUPERSEDED}),
    State.RUNNING: frozenset({State.ENCODED, State.QUEUED, State.FAILED, State.QUARANTINED, State.SUPERSEDED}),
    State.ENCODED: frozenset({State.SENT, State.FAILED, State.SUPERSEDED}),
    State.SENT: frozenset({State.COMMITTED, State.ENCODED, State.FAILED, State.QUEUED, State.SUPERSEDED}),
    State.COMMITTED: frozenset({State.QUEUED, State.SUPERSEDED}),
    State.FAILED: frozenset({State.QUEUED, State.SUPERSEDED}),
    State.QUARANTINED: frozenset({State.QUEUED, State.SUPERSEDED}),
    State.SUPERSEDED: frozenset(),
}
"""Every change of state that is allowed. RUNNING -> QUEUED: another attempt, or an expired lease.

REJECTED -> VETTED: no rule wants it, a person does. QUEUED -> FAILED: cancelled. From an end -> QUEUED: somebody runs
it again. SENT -> ENCODED: a destination did not keep an object, which is sent again; SENT -> FAILED: it was, in vain.
"""


OF_JOBS = tuple(State)[tuple(State).index(State.QUEUED) :]
"""States of a job; the others are of its series."""


class ForbiddenTransition(RuntimeError):  # noqa: N818 - named for what it refuses
    """A change of state that the state machine does not have."""
