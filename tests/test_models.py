"""A checkpoint that does not fit together is refused with one clear error; one that does loses nothing."""

from __future__ import annotations

import json
import os
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from axform.core.tasks import TASKS, with_columns
from axform.errors import AxformError
from axform.toolchain.data import encode
from axform.toolchain.evaluation import predict
from axform.toolchain.models import load_fine_tuned, load_for_task
from safetensors.torch import load_file, save_file
from support import FAMILIES, random_batch, save_tiny, sentiment_rows, tiny_config, tiny_model, tiny_tokenizer
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    DistilBertModel,
)

SST2 = with_columns(TASKS["glue/sst2"], ["sentence", "label"], "test")
RTE = TASKS["glue/rte"]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4665a5ea423c\nsize 440473133\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with a fine-tuned tiny checkpoint of each family."""
    folder = tmp_path_factory.mktemp("saved")
    for family in FAMILIES:
        save_tiny(folder / family, family)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved / "bert", tmp_path / "bert"))


def save_as(folder, kind, family="bert", **config):
    """Save a random checkpoint of another kind than a task model: (folder, the encoder's weights)."""
    described = tiny_config(family)
    for name, value in config.items():
        setattr(described, name, value)
    model = kind.from_config(described)
    model.save_pretrained(folder)
    tiny_tokenizer(family in ("bert", "electra")).save_pretrained(folder)
    return folder, model.base_model.state_dict()


def edit_weights(change, folder):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def edit_json(name, folder, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


edit_config = partial(edit_json, "config.json")
edit_tokenizer = partial(edit_json, "tokenizer_config.json")


def error_of(load, *arguments):
    with pytest.raises(AxformError) as error:
        load(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def refusal(folder, task=SST2):
    text = error_of(load_for_task, str(folder), task, 2)
    assert text.startswith(f"model '{folder}': ")
    return text


def logits(loaded):
    with torch.inference_mode():
        return loaded.model(**random_batch(loaded, random.Random(0), (2, 9))).logits


# Weights


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "kind",
    [
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForPreTraining,
        AutoModelForQuestionAnswering,
        AutoModelForTokenClassification,
    ],
)
def test_a_checkpoint_with_another_head_brings_its_whole_encoder(tmp_path, family, kind):
    folder, encoder = save_as(tmp_path, kind, family)
    loaded = load_for_task(str(folder), SST2, 2)
    own = loaded.model.base_model.state_dict()
    assert not loaded.has_trained_head
    for name in own.keys() & encoder.keys():
        torch.testing.assert_close(own[name], encoder[name], rtol=0, atol=0)
    assert all("pooler" in name for name in own.keys() ^ encoder.keys())


def test_names_of_the_first_bert_checkpoints(tmp_path):
    def rename(weights):
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
            for name, value in weights.items()
        }
        return old | {"bert.embeddings.position_ids": torch.arange(66)[None]}

    folder, encoder = save_as(tmp_path, AutoModelForPreTraining)
    edit_weights(lambda weights: {name: torch.rand_like(value) for name, value in weights.items()}, folder)
    wanted = load_file(folder / "model.safetensors")
    edit_weights(rename, folder)
    own = load_for_task(str(folder), SST2, 2).model.state_dict()
    for name in encoder:
        torch.testing.assert_close(own[f"bert.{name}"], wanted[f"bert.{name}"], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [AutoModel, AutoModelForMaskedLM])
@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            lambda weights: {f"module.{name}": value for name, value in weights.items()},
            ["weights are missing (bert.embeddings.", "are none of this model's (module."],
        ),
        (
            lambda weights: {name: value for name, value in weights.items() if "layer.1." not in name},
            ["16 weights are missing (bert.encoder.layer.1.attention.output.LayerNorm.bias, "],
        ),
        (
            lambda weights: (
                weights | {k.replace("layer.1.", "layer.2."): v.clone() for k, v in weights.items() if "layer.1." in k}
            ),
            ["16 weights are none of this model's (", "encoder.layer.2.attention.output.LayerNorm.bias, "],
        ),
        (lambda weights: weights | {"surprise": torch.zeros(1)}, ["1 weights are none of this model's (surprise);"]),
    ],
    ids=["prefix", "missing layer", "one layer more", "unknown"],
)
def test_weights_that_are_missing_or_unknown(tmp_path, kind, damage, found):
    folder, _ = save_as(tmp_path, kind)
    edit_weights(damage, folder)
    text = refusal(folder)
    assert "the weights do not belong to config.json" in text
    assert all(part in text for part in found), text


def test_weights_of_another_architecture(folder):
    DistilBertModel(tiny_config("distilbert")).save_pretrained(folder / "other")
    shutil.copy(folder / "other" / "model.safetensors", folder)
    assert "weights are missing (bert." in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_head_that_is_not_there(saved, tmp_path, family):
    folder = Path(shutil.copytree(saved / family, tmp_path / family))
    edit_weights(lambda weights: {k: v for k, v in weights.items() if not k.startswith("classifier.")}, folder)
    assert "weights are missing (classifier." in refusal(folder)


@pytest.mark.parametrize(
    ("values", "kind"), [({"hidden_size": 48}, AutoModel), ({"vocab_size": 10**12}, AutoModelForMaskedLM)]
)
def test_weights_of_other_sizes_than_the_config(tmp_path, values, kind):
    folder, _ = save_as(tmp_path, kind)
    edit_config(folder, **values)
    assert "the weights have other shapes than config.json" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(folder, value):
    def spoil(weights):
        weights["bert.encoder.layer.1.output.dense.weight"][3, 5] = value
        return weights

    edit_weights(spoil, folder)
    assert "weight bert.encoder.layer.1.output.dense.weight holds NaN or infinity" in refusal(folder)


# Files


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "part"), [("model.safetensors", "weights"), ("tokenizer.json", "tokenizer"), ("config.json", "config")]
)
@pytest.mark.parametrize(
    "damage", [truncate, lambda path: path.write_text(""), lambda path: path.write_text(POINTER), Path.unlink]
)
def test_damaged_files(folder, name, part, damage):
    damage(folder / name)
    text = refusal(folder)
    assert part in text
    if (folder / name).exists() and (folder / name).read_text(errors="replace") == POINTER:
        assert f"{folder / name} is only a git-lfs pointer, run `git lfs pull` there" in text


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_runs_no_code(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.bias": Code(tmp_path / "executed")}, folder / "pytorch_model.bin")
    assert "its pickle is damaged or holds more than weights" in refusal(folder)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_of_weights_is_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    wanted = logits(load_for_task(str(folder), SST2, 2))
    (folder / "model.safetensors").unlink()
    torch.testing.assert_close(logits(load_for_task(str(folder), SST2, 2)), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800", ""])
def test_names_that_no_model_can_have(name):
    assert "give a hub name or a folder with config.json" in error_of(load_for_task, name, SST2, 2)


# Config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": 0}, "num_attention_heads must be a positive whole number, found 0"),
        ({"num_attention_heads": 5}, "num_attention_heads 5 does not divide 32 features"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive whole number, found 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be a positive whole number, found -1"),
        ({"num_hidden_layers": "6"}, "'num_hidden_layers' expected int, got str"),
        ({"hidden_size": 0}, "hidden_size must be a positive whole number, found 0"),
        ({"hidden_size": 32.0}, "'hidden_size' expected int, got float"),
        ({"intermediate_size": None}, "'intermediate_size' expected int, got NoneType"),
        ({"intermediate_size": True}, "'intermediate_size' expected int, got bool"),
        ({"vocab_size": -4}, "vocab_size must be a positive whole number, found -4"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be a positive whole number, found 0"),
        ({"architectures": 5}, "architectures must be a list"),
        ({"hidden_act": "nope"}, "its weights cannot be loaded (KeyError: 'nope')"),
        ({"pad_token_id": 999}, "Padding_idx must be within num_embeddings"),
        ({"position_embedding_type": "relative_key"}, "axform supports absolute position embeddings only"),
        ({"is_decoder": True}, "sets is_decoder, but axform supports encoders only"),
        ({"add_cross_attention": True}, "sets add_cross_attention, but axform supports encoders only"),
        ({"output_attentions": True}, "sets output_attentions, but attention in the exported graph"),
        ({"pruned_heads": {"0": [1]}}, "sets pruned_heads"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "sets quantization_config"),
        ({"quantization_config": {"unknown": 1}}, "sets quantization_config"),
        (
            {"problem_type": "multi_label_classification"},
            "its task head is for multi_label_classification, but task glue/sst2 is single_label_classification",
        ),
        ({"problem_type": "regression"}, "its task head is for regression"),
    ],
)
def test_configs_that_are_refused(folder, values, message):
    edit_config(folder, **values)
    assert message in refusal(folder)


@pytest.mark.parametrize(
    "values",
    [{"return_dict": False}, {"chunk_size_feed_forward": 4}, {"output_hidden_states": True}, {"pruned_heads": {}}],
)
def test_configs_that_change_no_number(folder, values):
    wanted = logits(load_for_task(str(folder), SST2, 2))
    edit_config(folder, **values)
    torch.testing.assert_close(logits(load_for_task(str(folder), SST2, 2)), wanted, rtol=0, atol=0)


def test_a_head_for_several_labels_is_of_no_matter_where_there_is_none(tmp_path):
    folder, _ = save_as(tmp_path, AutoModel, problem_type="multi_label_classification")
    assert load_for_task(str(folder), SST2, 2).model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize("model_type", ["bert", "of-their-own"])
@pytest.mark.parametrize("load", [lambda folder: load_for_task(str(folder), SST2, 2), load_fine_tuned])
def test_code_of_a_model_is_never_run(folder, tmp_path, monkeypatch, model_type, load):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n")
    names = {"AutoConfig": "code.Config", "AutoModelForSequenceClassification": "code.Model"}
    edit_config(folder, model_type=model_type, auto_map=names)
    assert "axform runs no code from a checkpoint" in error_of(load, folder)
    assert not (tmp_path / "executed").exists()


# Tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_its_tokenizer(saved, tmp_path, family):
    folder = Path(shutil.copytree(saved / family, tmp_path / family))
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "the tokenizer has no vocabulary; put the model's tokenizer files" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_input_names": ["input_ids"]}, "gives the model input_ids, but it must give attention_mask and"),
        (
            {"model_input_names": ["input_ids", "attention_mask", "position_ids"]},
            "gives the model input_ids, attention_mask, position_ids, but",
        ),
        ({"model_input_names": []}, "gives the model nothing, but"),
        ({"model_input_names": 5}, "its tokenizer cannot be loaded (TypeError"),
        ({"model_max_length": 0}, "leave room for 0 tokens, fewer than the shortest sample has (3)"),
        ({"model_max_length": "64"}, "its tokenizer cannot be loaded (TypeError"),
        (
            {"additional_special_tokens": [f"<{number}>" for number in range(40)]},
            "the id 72, but the model embeds 64 tokens",
        ),
        ({"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}}, "tokenizer_config.json sets auto_map"),
    ],
)
@pytest.mark.parametrize("load", [lambda folder: load_for_task(str(folder), SST2, 2), load_fine_tuned])
def test_tokenizers_that_are_refused(folder, values, message, load):
    edit_tokenizer(folder, **values)
    assert message in error_of(load, folder)


def test_pairs_need_a_model_that_tells_two_texts_apart(tmp_path):
    folder, _ = save_as(tmp_path, AutoModel, type_vocab_size=1)
    assert "in token_type_ids, but the model has type_vocab_size 1" in refusal(folder, RTE)
    assert load_for_task(str(folder), SST2, 2).inputs == ["input_ids", "attention_mask", "token_type_ids"]


def test_pairs_for_a_family_that_takes_no_segments(tmp_path):
    folder, _ = save_as(tmp_path, AutoModel, "roberta", type_vocab_size=1)
    assert load_for_task(str(folder), RTE, 2).inputs == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_padding_token_padding_changes_nothing(saved, tmp_path, family):
    folder = Path(shutil.copytree(saved / family, tmp_path / family))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    loaded = load_for_task(str(folder), SST2, 2)
    assert loaded.tokenizer.pad_token is None
    split = encode(SST2, sentiment_rows(6), loaded.tokenizer, loaded.inputs, 64)
    torch.testing.assert_close(
        torch.from_numpy(predict(loaded, split, 6)), torch.from_numpy(predict(loaded, split, 1)), rtol=1e-5, atol=1e-5
    )


def test_positions_that_follow_padding_need_a_padding_token(saved, tmp_path):
    folder = Path(shutil.copytree(saved / "roberta", tmp_path / "roberta"))
    edit_config(folder, pad_token_id=None)
    assert "pad_token_id must be set, since positions are counted from it" in refusal(folder)


@pytest.mark.parametrize(("family", "positions"), [("bert", 66), ("roberta", 65), ("electra", 66), ("distilbert", 66)])
def test_max_length_is_what_positions_and_tokenizer_allow(family, positions):
    loaded = tiny_model(family)
    assert loaded.max_length(None) == 64 and loaded.max_length(128) == 64 and loaded.max_length(9) == 9
    loaded.tokenizer.model_max_length = int(1e30)
    assert loaded.max_length(None) == positions and loaded.max_length(128) == positions


# Run folders


def test_a_run_folder_is_loaded_as_it_was_saved(saved):
    for family in FAMILIES:
        assert load_fine_tuned(saved / family).identity() == load_for_task(str(saved / family), SST2, 2).identity()


def test_the_seed_decides_the_new_head(tmp_path):
    folder, _ = save_as(tmp_path, AutoModel)
    first, again, other = (load_for_task(str(folder), SST2, 2, seed).identity() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_a_damaged_run_folder(folder, name, damage):
    damage(folder / name)
    text = error_of(load_fine_tuned, folder)
    assert text.startswith(f"{folder}: ") and ("restore" in text or "give" in text)


def test_a_run_folder_without_its_head(tmp_path):
    folder, _ = save_as(tmp_path, AutoModel)
    assert "weights are missing (classifier.bias, classifier.weight)" in error_of(load_fine_tuned, folder)
