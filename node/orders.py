"""What is ordered for the reading of a series: by a routing rule, or by the settings where no rule says anything.

It stands in the job's row, so that a repeat does the same, whatever has become of rules and settings since.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from config.outputs import ProfileName
from config.rule_parts import Report
from node.records import Job


@dataclass(frozen=True)
class Orders:
    """How a job is read and where its results go."""

    destinations: tuple[str, ...] | None = None
    """Receivers by name; None: those of the settings."""
    preset: str = ""
    """Of the vocabulary; empty: everything that the release asks is reported."""
    profile: ProfileName | None = None
    """Which objects each destination gets; None: what the settings say of it."""
    shadow: bool = True
    """Whether the release in shadow reads it too."""
    release: str = ""
    """The release that a rule names, as `model.release` does; empty: the one in force (`node.releases.binding`)."""

    @classmethod
    def of(cls, job: Job) -> "Orders":
        """What was ordered for a job."""
        destinations = None if job.destinations is None else tuple(job.destinations)
        return cls(destinations, job.preset, job.profile, job.shadow, job.release)

    def give(self, job: Job) -> None:
        """Write it into a job's row."""
        job.destinations = None if self.destinations is None else list(self.destinations)
        job.preset, job.profile, job.shadow, job.release = self.preset, self.profile, self.shadow, self.release

    def told(self, later_rule: str = "") -> str:
        """For a person; the destinations are told by the deliveries. `later_rule`: the one for after segmentation."""
        parts = [f"release {self.release}"] if self.release else []
        parts += [f"preset {self.preset}"] if self.preset else []
        parts += [f"profile {self.profile}"] if self.profile else []
        parts += [] if self.shadow else ["not in shadow"]
        parts += [f"rule `{later_rule}` once segmented"] if later_rule else []
        return ", ".join(parts)

    def or_to(self, destinations: Sequence[str] | None) -> "Orders":
        """With these destinations, if none are named."""
        if self.destinations is not None or destinations is None:
            return self
        return replace(self, destinations=tuple(destinations))

    def changed(self, read: Report) -> "Orders":
        """With what a rule says; what it does not say stays."""
        return replace(
            self,
            destinations=self.destinations if read.destinations is None else read.destinations,
            preset=read.preset or self.preset,
            profile=read.profile or self.profile,
            shadow=self.shadow if read.shadow is None else read.shadow,
        )
