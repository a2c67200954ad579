"""How much the figures depend on how a prompt is put."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from config import load_vocabulary
from fvlm.config import FindingConfig
from fvlm.model import FVLM
from fvlm.text_cache import text_features
from training.assessment.examined import Examined, Floats
from training.evaluation.data_set import DataError
from training.evaluation.metrics import weighted_auc

TEMPLATES = Path(__file__).parent / "prompt_templates.yaml"
OWN = "release"
"""Name of the release's own prompts among the templates."""


class Template(BaseModel):
    """One way to ask. `{finding}` is the title, `{anatomy}` the anatomy, in lower case; `{Finding}`: with a capital."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    negative: str = Field(min_length=1)
    positive: str = Field(min_length=1)

    def of(self, finding: str) -> FindingConfig:
        """The prompt pair for a finding of the vocabulary."""
        named = load_vocabulary().finding(finding)
        title, anatomy = named.title[:1].lower() + named.title[1:], named.anatomy.replace("_", " ")
        words = {"{finding}": title, "{Finding}": named.title, "{anatomy}": anatomy, "{Anatomy}": anatomy.capitalize()}
        texts = [self.negative, self.positive]
        for mark, word in words.items():
            texts = [text.replace(mark, word) for text in texts]
        return FindingConfig(finding=finding, negative=texts[0], positive=texts[1])


def read_templates(path: Path = TEMPLATES) -> tuple[Template, ...]:
    """A YAML list of `Template`. Raises DataError."""
    try:
        return TypeAdapter(tuple[Template, ...]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a YAML list of templates") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def probabilities(model: FVLM, examined: Examined, findings: tuple[FindingConfig, ...]) -> Floats:
    """Zero-shot probabilities [N, F] before calibration; NaN where the anatomy was not assessed."""
    texts = [text for finding in findings for text in (finding.negative, finding.positive)]
    prompts = text_features(model, texts, None).double().cpu().numpy()
    features = np.stack([examined.of_finding(finding.finding) for finding in findings], 1)
    scores = ((prompts[1::2] - prompts[0::2]) * features).sum(-1) / model.temp.item()
    return np.asarray(1 / (1 + np.exp(-scores)))


@dataclass(frozen=True)
class Robustness:
    """One finding under all templates."""

    finding: str
    auc: dict[str, float]
    """By template; NaN without both classes."""

    @property
    def mean(self) -> float:
        return float(np.mean(list(self.auc.values())))

    @property
    def variance(self) -> float:
        """Of the AUC over the templates, as of a sample (n - 1); NaN for a single one."""
        values = list(self.auc.values())
        return float(np.var(values, ddof=1)) if len(values) > 1 else float("nan")


def robustness(
    model: FVLM, examined: Examined, own: tuple[FindingConfig, ...], templates: tuple[Template, ...]
) -> tuple[Robustness, ...]:
    """AUC of every finding under the release's own prompts and each template."""
    columns = {OWN: _aucs(examined, probabilities(model, examined, own))}
    for template in templates:
        asked = tuple(template.of(finding.finding) for finding in own)
        columns[template.name] = _aucs(examined, probabilities(model, examined, asked))
    return tuple(
        Robustness(finding, {name: float(values[index]) for name, values in columns.items()})
        for index, finding in enumerate(examined.findings)
    )


def _aucs(examined: Examined, probability: Floats) -> Floats:
    """[F]."""
    values = []
    for index in range(len(examined.findings)):
        keep = examined.known[:, index] & ~np.isnan(probability[:, index])
        labels, scores = examined.positive[keep, index], probability[keep, index]
        values.append(weighted_auc(labels, scores, np.ones((1, len(labels))))[0])
    return np.array(values)
