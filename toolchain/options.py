"""What a training and `axform optimize` can be asked for, and the one home of the defaults. Without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from ..core.plan import Focus, Selection
from ..core.techniques import FEWEST_BITS, MOST_BITS
from ..errors import AxformError
from .elements import LayerOrder
from .significance import Thresholds

__all__ = [
    "DEFAULTS",
    "DISTILLING_RATE",
    "FEWEST_STEPS",
    "RECOVER",
    "USED_BY",
    "FineTuneOptions",
    "GroupShape",
    "OptimizeOptions",
    "SignMatchingMode",
    "checked_options",
]

GroupShape = Literal["any", "contiguous"]
SignMatchingMode = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class FineTuneOptions:
    """Hyperparameters; the defaults are the paper's (3 epochs, 2e-5, batch 32, no warm-up)."""

    epochs: int = 3
    learning_rate: float = 2e-5
    learning_rate_option: str = "--learning-rate"
    """What sets it on the command line."""
    batch_size: int = 32
    seed: int = 0
    temperature: float = 2.0
    """Softens teacher and student logits alike when a teacher is given."""
    teacher_weight: float = 0.9
    """Share of the teacher's term in the loss; the rest is the task's own loss."""
    hidden_weight: float = 30.0
    """Weight of the layers' hidden states beside the logits: mean squared error over the teacher's mean square; 0 = none."""
    is_noisy: bool = False
    """Some tokens of the inputs are replaced, for a teacher that is asked in every step; labels then count no more."""


DISTILLING_RATE = 3.0
"""Times the baseline's learning rate: a teacher's hidden states say so much more than labels that larger steps pay."""
RECOVER = 0.25
"""`recover` where it is not given; where it is too much, the search falls back to less."""
FEWEST_STEPS = 1000
"""Of a training that wins back what a plan cost: on 2,668 rows of MRPC, 250 steps lost what 1,000 kept."""
_MOST_EPOCHS, _MOST_ROUNDS, _MOST_SAMPLES_PER_BATCH, _MOST_THREADS, _MOST_TEACHERS = 1000, 100, 4096, 1024, 32
"""Far above what helps: a slip of the finger is told at once instead of a run that never ends or exhausts the memory."""
_SEEDS = 1 << 32
"""As far as NumPy's generators go."""
_SHOWN_INPUT = 60
"""Characters of a bad value that an error repeats."""


class OptimizeOptions(BaseModel):
    """Everything that decides the outcome of a run.

    Raises:
        pydantic.ValidationError: an unknown option, or a value out of its range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str
    """Hub name, folder, ``minilm``, or another run's folder: its baseline and teachers are taken, and its kept round is
    where the search starts."""
    task: str
    focus: Focus = "speed"
    data: str | None = Field(default=None, min_length=1)
    """Folder with the task's files; None = the hub."""
    unlabelled: str | None = Field(default=None, min_length=1)
    """Folder with more texts of the task's kind, whose labels nobody knows: the teacher's answers to them teach the rounds."""
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    max_length: int | None = Field(default=None, ge=2, le=1 << 20)
    """Tokens per sample; None = the task's own, at most what the model can take."""
    train_samples: int | None = Field(default=None, ge=1)
    report_samples: int | None = Field(default=None, ge=1)
    seed: int = Field(default=FineTuneOptions.seed, ge=0, lt=_SEEDS)

    prune_threshold: float = Field(default=Thresholds.prune, ge=0)
    approximate_threshold: float = Field(default=Thresholds.approximate, ge=0)
    max_drop: float = Field(default=Thresholds.max_drop, ge=0, le=1)
    recover: float | None = Field(default=None, ge=0)
    """Extra relative loss that a trial may cost because the final fine-tuning is expected to win it back; None =
    ``RECOVER`` with the speed and size focus where there is a final fine-tuning, else 0, which is the paper's search."""
    rounds: int = Field(default=8, ge=0, le=_MOST_ROUNDS)
    """Searches that remove, each with its fine-tuning, at most; the last that kept the bound counts. 1 with ``recover`` 0 is
    the paper's loop, 0 leaves it to the size focus to give weights fewer bits."""
    fewest_bits: int = Field(default=4, ge=FEWEST_BITS, le=MOST_BITS)
    """Of a weight, with the size focus."""
    trial_rows: int = Field(default=2000, ge=20)
    """Rows of the selection split that trials are measured on, at most; epochs and rounds are judged by all of it."""
    confidence: float | None = Field(default=None, gt=0.5, lt=1)
    """Ask that the lower end of the metric change's interval at this level keeps the bound; None = that the estimate does."""
    group_size: int | None = Field(default=None, ge=1)
    """Weights per group; None = by the model's size."""
    layer_order: LayerOrder = "last-to-first"
    sign_matching: SignMatchingMode = "auto"
    selection: Selection = "majority"
    ffn_groups: GroupShape = "any"
    attention_groups: GroupShape = "contiguous"

    baseline_epochs: int | None = Field(default=None, ge=0, le=_MOST_EPOCHS)
    """None = those of `FineTuneOptions`, or 0 when the model comes with a trained task head."""
    final_epochs: int | None = Field(default=None, ge=0, le=_MOST_EPOCHS)
    """Of the trainings with a plan; None = see `final_epochs_on`."""
    learning_rate: float = Field(default=FineTuneOptions.learning_rate, gt=0, le=1)
    final_learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Of the trainings with a plan; None = see ``recovering_rate``."""
    batch_size: int = Field(default=FineTuneOptions.batch_size, ge=1, le=_MOST_SAMPLES_PER_BATCH)
    distill: bool = True
    teachers: int = Field(default=1, ge=1, le=_MOST_TEACHERS)
    """Fine-tunings of the model that teach together: the baseline, and others like it with other seeds."""
    threads: int | None = Field(default=None, ge=1, le=_MOST_THREADS)
    """Threads inside one operator; None = those of OMP_NUM_THREADS, else all usable cores. It decides the last bits of
    the weights, so a run keeps what it started with."""
    bf16: bool | None = None
    """Whether trainings and trials compute in bf16; None = where that is fast. A run keeps what it started with."""

    @field_validator("rounds")
    @classmethod
    def _has_something_to_do(cls, rounds: int, info: ValidationInfo) -> int:
        if rounds == 0 and info.data.get("focus") != "size":
            raise ValueError("0 rounds leave nothing to do without --focus size, which gives weights fewer bits")
        return rounds

    @property
    def folders(self) -> dict[str, Path]:
        """What the run reads from this machine, by what a message calls it."""
        model = {"the model": Path(self.model)} if Path(self.model).is_dir() else {}
        data = {"the data": self.data, "the texts without labels": self.unlabelled}
        return model | {what: Path(folder) for what, folder in data.items() if folder is not None}

    @property
    def most_rounds(self) -> int:
        """``rounds``; without a fine-tuning between them, all after the first would only loosen the thresholds."""
        return min(self.rounds, 1) if self.final_epochs == 0 else self.rounds

    def teacher_seed(self, number: int) -> int:
        """Of the head and the training of a teacher beside the baseline; they count from 1."""
        return (self.seed + number) % _SEEDS

    def final_epochs_on(self, rows: int, gains: bool) -> int:
        """``final_epochs``, its default resolved for so many rows of train: enough steps to win back what a plan cost.

        Args:
            gains: the training removes nothing, or keeps only what helps, and has little to win back.
        """
        if self.final_epochs is not None:
            return self.final_epochs
        fewest = FineTuneOptions.epochs
        return fewest if gains else min(max(fewest, -(-FEWEST_STEPS * self.batch_size // rows)), _MOST_EPOCHS)

    @property
    def recovering_rate(self) -> float:
        """``final_learning_rate``, its default resolved: larger where hidden states are learnt."""
        if self.final_learning_rate is not None:
            return self.final_learning_rate
        return self.learning_rate * (DISTILLING_RATE if self.distill else 1)

    @property
    def is_taught(self) -> bool:
        """Rounds learn from a teacher's answers."""
        return self.distill and self.final_epochs != 0

    @property
    def learns_first(self) -> bool:
        """Several teachers know more than the baseline: a first round learns that, before anything is removed."""
        return self.is_taught and self.teachers > 1

    @property
    def gaining_rate(self) -> float:
        """Learning rate of a training with a teacher that is to gain, not to win back what a plan cost."""
        return self.learning_rate if self.final_learning_rate is None else self.final_learning_rate

    @property
    def first_slack(self) -> float:
        """``recover``, its default resolved."""
        if self.recover is not None:
            return self.recover
        return 0.0 if self.focus == "accuracy" or self.final_epochs == 0 else RECOVER


def checked_options(**values: Any) -> OptimizeOptions:
    """`OptimizeOptions` of what a user gave.

    Raises:
        AxformError: a value out of its range; names its flag.
    """
    try:
        return OptimizeOptions(**values)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        found = repr(first["input"])
        shown = found if len(found) <= _SHOWN_INPUT else f"{found[:_SHOWN_INPUT]}..."
        raise AxformError(f"{flag}: {first['msg']} (found {shown}).") from None


DEFAULTS: dict[str, Any] = {name: field.default for name, field in OptimizeOptions.model_fields.items()}
"""The default of each of `OptimizeOptions`, for the command line and the search."""

USED_BY: dict[str, Focus] = {
    "fewest_bits": "size",
    "sign_matching": "speed",
    "selection": "speed",
    "ffn_groups": "speed",
    "attention_groups": "speed",
}
"""Which focus an option is for; all of the others are for each."""
