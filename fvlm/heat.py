"""`Heat`: a value for every token of one anatomy, and where the tokens lie in the patient. No torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ct.volume import Grid


@dataclass(frozen=True)
class Heat:
    """A value for every token that holds some of one anatomy; kept on the coarse grid of tokens."""

    values: npt.NDArray[np.float16]
    """[z, y, x] on `grid`; NaN where a token holds nothing of the anatomy."""
    grid: Grid
    """The tokens in patient space; `affine` gives their centres."""

    def __post_init__(self) -> None:
        if self.values.dtype != np.float16 or self.values.shape != self.grid.shape:
            raise ValueError(f"values must be float16 {self.grid.shape}, are {self.values.dtype} {self.values.shape}")

    def on(self, grid: Grid, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float16]:
        """The heat on another grid of the same patient, such as the volume's: float16 [z, y, x].

        Trilinear between the centres of the anatomy's tokens. NaN outside `mask` (bool [z, y, x] on `grid`, the organ)
        and where no token of the anatomy is near. Raises ValueError if the mask does not fit the grid.
        """
        if mask.shape != grid.shape:
            raise ValueError(f"mask {mask.shape} and grid {grid.shape} differ in shape")
        out = np.full(grid.shape, np.nan, np.float16)
        from scipy import ndimage  # late: whoever only keeps readings need not load it

        box = next(iter(ndimage.find_objects(mask.view(np.uint8), max_label=1)), None)
        if box is None:
            return out
        to_tokens = np.linalg.inv(self.grid.affine) @ grid.affine
        start = [side.start for side in box]
        offset = to_tokens[:3, :3] @ start + to_tokens[:3, 3]
        known = np.isfinite(self.values)
        heat, weight = (
            ndimage.affine_transform(
                array.astype(np.float32), to_tokens[:3, :3], offset, mask[box].shape, order=1, mode="nearest"
            )
            for array in (np.where(known, self.values, 0), known)
        )
        inside = mask[box] & (weight > _LEAST_WEIGHT)
        out[box][inside] = heat[inside] / weight[inside]
        return out


_LEAST_WEIGHT = 1e-3
"""Of the anatomy's own tokens in an interpolation; less is rounding."""
