"""What a training and `axform optimize` can be asked for, and the one home of the defaults. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ..core.plan import Focus, Selection
from .elements import LayerOrder

__all__ = ["FineTuneOptions", "GroupShape", "OptimizeOptions", "SignMatchingMode"]

GroupShape = Literal["any", "contiguous"]
SignMatchingMode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class FineTuneOptions:
    """Hyperparameters; the defaults are the paper's (3 epochs, 2e-5, batch 32, no warm-up)."""

    epochs: int = 3
    learning_rate: float = 2e-5
    batch_size: int = 32
    seed: int = 0
    temperature: float = 2.0
    """Softens teacher and student logits alike when a teacher is given."""
    teacher_weight: float = 0.5
    """Share of the teacher's term in the loss; the rest is the task's own loss."""
    hidden_weight: float = 10.0
    """Weight of the layers' hidden states beside the logits: mean squared error over the teacher's mean square."""


_RECOVER = 0.25
"""What two distilled epochs win back on MiniLM and SST-2, where 0.5 was too much; where it is too much, too, the search
falls back to less."""


class OptimizeOptions(BaseModel):
    """Everything that decides the outcome of a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    """Hub name, folder, or ``minilm``."""
    task: str
    focus: Focus = "speed"
    data: str | None = None
    """Folder with the task's files; None = the hub."""
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    max_length: int | None = Field(default=None, ge=2)
    """Tokens per sample; None = the task's own, at most what the model can take."""
    train_samples: int | None = Field(default=None, ge=4)
    report_samples: int | None = Field(default=None, ge=1)
    seed: int = 0

    prune_threshold: float = Field(default=0.005, ge=0)
    approximate_threshold: float = Field(default=0.02, ge=0)
    max_drop: float = Field(default=0.005, ge=0)
    recover: float | None = Field(default=None, ge=0)
    """Extra relative loss that a trial may cost because the final fine-tuning is expected to win it back; None = 0.25
    with the speed and size focus where there is a final fine-tuning, else 0, which is the paper's search."""
    group_size: int | None = Field(default=None, ge=1)
    """Weights per group; None = by the model's size."""
    layer_order: LayerOrder = "last-to-first"
    sign_matching: SignMatchingMode = "auto"
    selection: Selection = "majority"
    ffn_groups: GroupShape = "any"
    attention_groups: GroupShape = "contiguous"

    baseline_epochs: int | None = Field(default=None, ge=0)
    """None = 3, or 0 when the model comes with a trained task head."""
    final_epochs: int = Field(default=3, ge=0)
    learning_rate: float = Field(default=2e-5, gt=0)
    batch_size: int = Field(default=32, ge=1)
    distill: bool = True

    @property
    def first_slack(self) -> float:
        """``recover``, its default resolved."""
        if self.recover is not None:
            return self.recover
        return _RECOVER if self.focus != "accuracy" and self.final_epochs else 0.0
