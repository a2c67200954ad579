"""What pretraining minimises, as pure functions of tensors (arXiv 2501.14548, sections 3.2 and 3.3).

`pairs` holds the features of a whole batch; `targets` says which image belongs to which text; `corrections` softens the
targets of abnormal pairs; `losses` compares the two. Nothing here branches on the data, so that every process does the
same work whatever its patients have, and all anatomies are computed at once.
"""

from training.objective.corrections import finding_overlap, softened_by_findings, softened_by_peer, softened_by_texts
from training.objective.losses import (
    AnatomyLosses,
    anatomy_losses,
    clip_loss,
    contrastive_loss,
    multi_label_loss,
)
from training.objective.pairs import AnatomyPairs
from training.objective.targets import Targets, corrected_targets, own_targets

__all__ = [
    "AnatomyLosses",
    "AnatomyPairs",
    "Targets",
    "anatomy_losses",
    "clip_loss",
    "contrastive_loss",
    "corrected_targets",
    "finding_overlap",
    "multi_label_loss",
    "own_targets",
    "softened_by_findings",
    "softened_by_peer",
    "softened_by_texts",
]
