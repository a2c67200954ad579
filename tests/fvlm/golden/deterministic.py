"""Deterministic tensors for the parity fixtures: the same numbers on every machine, from a name and a shape.

Each element is a hash (splitmix64) of its flat index and of the CRC-32 of the tensor's name, mapped to [-1, 1).
Nothing here depends on a random generator's version. Only numpy is needed.
"""

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def uniform(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Hash noise in [-1, 1), float32, C order, for the tensor called `name`."""
    count = int(np.prod(shape)) if shape else 1
    key = np.uint64((zlib.crc32(name.encode()) << 32) ^ (seed * 0x5851F42D + 1))
    with np.errstate(over="ignore"):
        z = (np.arange(count, dtype=np.uint64) + key) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _M1
        z = (z ^ (z >> np.uint64(27))) * _M2
        z = z ^ (z >> np.uint64(31))
    values = (z >> np.uint64(40)).astype(np.float64) / float(1 << 23) - 1.0
    return values.astype(np.float32).reshape(shape)


def parameter(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """A plausible weight for the state-dict entry `name` (float32).

    LayerNorm weights are 1 + 0.1 u, every bias 0.02 u, tables and queries 0.05 u, `temp` is 0.07,
    every other matrix u * sqrt(1.5 / fan_in), with u = uniform(name, shape, seed).
    """
    if name == "temp":
        return np.full(shape, 0.07, dtype=np.float32)
    u = uniform(name, shape, seed)
    if name.endswith("bias"):
        return np.float32(0.02) * u
    if ".norm" in name or "LayerNorm" in name:
        return np.float32(1.0) + np.float32(0.1) * u
    if (
        ("embeddings.weight" in name and "patch_embeddings" not in name)
        or name in {"query_tokens"}
        or name.endswith("position_embeddings")
    ):
        return np.float32(0.05) * u
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    return u * np.float32((1.5 / fan_in) ** 0.5)


def image(name: str, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """A smooth-plus-noise CT stand-in in [0, 1], shape [z, y, x], float32."""
    z, y, x = (np.linspace(-1.0, 1.0, n, dtype=np.float64) for n in shape)
    zz, yy, xx = np.meshgrid(z, y, x, indexing="ij")
    smooth = 0.5 + 0.25 * np.sin(3.1 * zz + 0.3) * np.cos(2.3 * yy - 0.2) + 0.15 * np.sin(4.7 * xx + 0.5 * zz)
    noisy = smooth + 0.05 * uniform(name, shape, seed).astype(np.float64)
    return np.clip(noisy, 0.0, 1.0).astype(np.float32)


def ellipsoids(shape: tuple[int, int, int], boxes: dict[int, tuple[float, ...]]) -> np.ndarray:
    """Label map uint8 [z, y, x]; `boxes` maps label -> (cz, cy, cx, rz, ry, rx) in voxels. Later labels overwrite."""
    labels = np.zeros(shape, dtype=np.uint8)
    zz, yy, xx = np.ogrid[: shape[0], : shape[1], : shape[2]]
    for label, (cz, cy, cx, rz, ry, rx) in boxes.items():
        inside = ((zz - cz) / rz) ** 2 + ((yy - cy) / ry) ** 2 + ((xx - cx) / rx) ** 2 <= 1.0
        labels[inside] = label
    return labels
