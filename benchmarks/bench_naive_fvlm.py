"""The naive way to read a study, the peer of `inference.py`: plain PyTorch, float32, one organ after the other.

Written from the description of the public code: the whole scan is resampled; each organ gets its own window and its
own pass of the encoder; attention is two multiplications with a softmax between; the organ's tokens are selected by
max-pooling its mask and go through `nn.MultiheadAttention` organ by organ; prompts are padded to 384 tokens. The
weights come from an `FVLM`, by the names of the public checkpoint.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from ct.anatomy import AnatomyMap
from ct.volume import Volume
from fvlm import FVLM
from fvlm.config import ModelConfig, PreprocessConfig
from fvlm.release import Release


class NaiveReader:
    """Probabilities of a release, finding by finding."""

    def __init__(self, model: FVLM) -> None:
        assert model.release is not None
        self.release: Release = model.release
        config = model.config
        state = model.state_dict()
        self._state = state
        self._config = config
        self._attention = nn.MultiheadAttention(config.width, config.attention_heads, batch_first=True).eval()
        self._attention.load_state_dict({k[10:]: v for k, v in state.items() if k.startswith("attention.")})
        self._text = _bert(config, {k[13:]: v for k, v in state.items() if k.startswith("text_encoder.")})

    @torch.no_grad()
    def text(self) -> dict[str, Tensor]:
        """Finding -> features [2, E] of its negative and positive prompt, every prompt padded to the longest text."""
        features = {}
        for finding in self.release.findings:
            batch = self.release.tokenizer(
                [finding.negative, finding.positive],
                padding="max_length",
                truncation=True,
                max_length=self._config.text.max_tokens,
                return_tensors="pt",
            )
            states = self._text(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            features[finding.finding] = F.normalize(self._linear("text_proj", states.last_hidden_state[:, 0]), dim=-1)
        return features

    @torch.no_grad()
    def read(self, volume: Volume, anatomy_map: AnatomyMap, text: dict[str, Tensor]) -> dict[str, float]:
        """Finding -> probability of one study."""
        image, labels, counts = _resampled(volume, anatomy_map, self.release.config.preprocess, self._config)
        temperature, probabilities = self._state["temp"], {}
        for organ, name in enumerate(self._config.anatomies):
            if not counts[organ + 1]:
                continue
            window, mask = self._window(image, labels == organ + 1)
            feature = self._organ(self._tokens(window), mask, organ)
            for finding in self.release.findings:
                if finding.anatomy == name:
                    scores = text[finding.finding] @ feature / temperature
                    probabilities[finding.finding] = float(scores.softmax(0)[1])
        return probabilities

    def _window(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The part of the scan around one organ: [1, 1, D, H, W] each, padded at the end to whole patches."""
        at, padding = [], []
        least = self.release.config.preprocess.window
        for axis, (size, patch) in enumerate(zip(image.shape, self._config.patch, strict=True)):
            others = tuple(a for a in range(3) if a != axis)
            hit = mask.any(others[1]).any(others[0]).nonzero()
            low, high = int(hit.min()), int(hit.max()) + 1
            length = min(max(least[axis], high - low), size)
            start = min(max((low + high) // 2 - length // 2, 0), size - length)
            at.append(slice(start, start + length))
            padding.append(-length % patch)
        pad = (0, padding[2], 0, padding[1], 0, padding[0])
        return F.pad(image[tuple(at)], pad)[None, None], F.pad(mask[tuple(at)].float(), pad)[None, None]

    def _tokens(self, image: Tensor) -> list[Tensor]:
        """[1, 1, D, H, W] -> tokens [1, L, W] of each level."""
        name = "visual_encoder.patch_embedding."
        weight, bias = self._state[name + "patch_embeddings.weight"], self._state[name + "patch_embeddings.bias"]
        embedded = F.conv3d(image, weight, bias, stride=self._config.patch)
        grid, positions = embedded.shape[2:], self._state[name + "position_embeddings"]
        if tuple(grid) != self._config.grid:
            table = positions.transpose(1, 2).reshape(1, -1, *self._config.grid)
            positions = F.interpolate(table, size=grid, mode="trilinear").flatten(2).transpose(1, 2)
        x = embedded.flatten(2).transpose(1, 2) + positions
        levels = []
        for index in range(self._config.depth):
            x = self._block(x, f"visual_encoder.blocks.{index}.")
            if index in self._config.levels:
                levels.append(x)
        return [*levels, self._norm("visual_encoder.norm", x)]

    def _block(self, x: Tensor, name: str) -> Tensor:
        batch, length, width = x.shape
        qkv = self._linear(name + "attn.qkv", self._norm(name + "norm1", x))
        q, k, v = qkv.reshape(batch, length, 3, self._config.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self._linear(name + "attn.out_proj", mixed)
        hidden = F.gelu(self._linear(name + "mlp.linear1", self._norm(name + "norm2", x)))
        return x + self._linear(name + "mlp.linear2", hidden)

    def _organ(self, levels: list[Tensor], mask: Tensor, organ: int) -> Tensor:
        """Feature [E] of one organ from the tokens that hold a voxel of it."""
        chosen = F.max_pool3d(mask, self._config.patch).flatten() > 0
        keys = torch.cat([level[0, chosen] for level in levels])[None]
        query = self._state["query_tokens"][organ][None, None]
        pooled = self._attention(query, keys, keys)[0][0, 0]
        return F.normalize(self._linear(f"vision_projs.{organ}", pooled), dim=-1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._state[name + ".weight"], self._state[name + ".bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._state[name + ".weight"], self._state[name + ".bias"])


def _bert(config: ModelConfig, state: dict[str, Tensor]) -> nn.Module:
    """The stock BERT with a table of token types that is zero."""
    text = config.text
    bert = BertModel(
        BertConfig(
            vocab_size=text.vocab_size,
            hidden_size=text.width,
            num_hidden_layers=text.depth,
            num_attention_heads=text.heads,
            intermediate_size=text.mlp_ratio * text.width,
            max_position_embeddings=text.max_positions,
            attn_implementation="eager",
        ),
        add_pooling_layer=False,
    )
    name = "embeddings.token_type_embeddings.weight"
    bert.load_state_dict({**state, name: torch.zeros_like(bert.state_dict()[name])})
    return bert.eval()  # type: ignore[no-any-return]


def _resampled(
    volume: Volume, anatomy_map: AnatomyMap, settings: PreprocessConfig, model: ModelConfig
) -> tuple[Tensor, Tensor, list[int]]:
    """The whole scan on the model's grid, cropped to the organs and padded: image, labels, voxels of each label."""
    scale = tuple(old / new for old, new in zip(volume.spacing, settings.spacing, strict=True))
    hu = torch.from_numpy(volume.hu).float()[None, None]
    image = F.interpolate(hu, scale_factor=scale, mode="trilinear", recompute_scale_factor=False)[0, 0]
    found = torch.from_numpy(anatomy_map.labels).float()[None, None]
    labels = F.interpolate(found, scale_factor=scale, mode="nearest-exact", recompute_scale_factor=False)[0, 0].byte()
    low, high = settings.hu_window
    image = ((image - low) / (high - low)).clamp(0, 1)
    if settings.margin is not None:
        hit = labels.nonzero()
        at = tuple(
            slice(max(int(first) - margin, 0), int(last) + margin)
            for first, last, margin in zip(hit.min(0).values, hit.max(0).values, settings.margin, strict=True)
        )
        image, labels = image[at], labels[at]
    pad = []
    for size, least in reversed(list(zip(image.shape, model.image_shape, strict=True))):
        missing = max(0, least - size)
        pad += [missing // 2, missing - missing // 2]
    image, labels = F.pad(image, pad), F.pad(labels, pad)
    return image, labels, [int((labels == label).sum()) for label in range(len(model.anatomies) + 1)]
