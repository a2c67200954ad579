"""What a run tells: scalars for TensorBoard, and the same as lines of JSON."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter


class Log:
    """Written by the first process, beside the checkpoints."""

    def __init__(self, folder: Path, first: int) -> None:
        """`first` is the step after which the run goes on: what an interrupted run told beyond it is taken back."""
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = folder / "log.jsonl"
        if self._lines.exists():
            known = [line for line in self._lines.read_text().splitlines() if line.endswith("}")]
            kept = [line + "\n" for line in known if json.loads(line)["step"] <= first]
            self._lines.write_text("".join(kept))
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first + 1 if first else None)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """The scalars after `step` steps; names with a slash are grouped."""
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)
        with self._lines.open("a") as lines:
            lines.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in scalars.items()}}) + "\n")

    def close(self) -> None:
        """Write out what is still in memory."""
        self._board.close()
