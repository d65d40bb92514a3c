"""A bundle that was damaged in any way is one clear error, which names the file."""

from __future__ import annotations

import errno
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from axform.errors import AxformError
from axform.runtime.bundle import Bundle
from axform.runtime.check_data import CheckData, ReferenceBatch
from axform.runtime.parity import check_bundle
from bundles import with_its_checksums


def deep(depth: int = 100_000) -> str:
    return "[" * depth + "]" * depth


def with_entry(**entries: Any) -> Callable[[dict[str, Any]], str]:
    return lambda manifest: json.dumps(manifest | entries)


def with_file(name: str) -> Callable[[dict[str, Any]], str]:
    return lambda manifest: json.dumps(
        manifest | {"files": manifest["files"] | {name: manifest["files"]["model.onnx"]}}
    )


def without(*path: str) -> Callable[[dict[str, Any]], str]:
    def damage(manifest: dict[str, Any]) -> str:
        place = manifest
        for name in path[:-1]:
            place = place[name]
        del place[path[-1]]
        return json.dumps(manifest)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda _: "{", "damaged"),
        (lambda _: "[1]", "no schema_version"),
        (lambda _: '"text"', "no schema_version"),
        (lambda _: deep(), "damaged"),
        (
            lambda m: json.dumps(m | {"max_length": 0}).replace('"max_length": 0', '"max_length": ' + "9" * 5000),
            "damaged",
        ),
        (lambda m: json.dumps(m | {"task": "\ud800"}), "damaged"),
        (without("schema_version"), "no schema_version"),
        (with_entry(schema_version="1"), "no schema_version"),
        (with_entry(schema_version=3), "schema 3 is newer than this axform (2); update axform"),
        (with_entry(max_drop="much"), "damaged (max_drop: "),
        (with_entry(results=[]), "damaged (results: "),
        (with_entry(results={"bench": 3}), "damaged (results.bench: "),
        (with_entry(files={"model.onnx": {}}), "damaged (files.model.onnx.sha256: "),
        (without("files", "model.onnx"), "model.onnx: missing from the bundle"),
        (without("files", "check.npz"), "check.npz: missing from the bundle"),
        (without("plan", "parts"), "damaged (plan.parts: "),
        (with_file("../secret"), "names no file inside the bundle"),
        (with_file("sub/../../secret"), "names no file inside the bundle"),
        (with_file("/etc/passwd"), "names no file inside the bundle"),
        (with_file("C:\\secret"), "names no file inside the bundle"),
        (with_file(""), "names no file inside the bundle"),
        (with_file("no such file"), "no such file: missing from the bundle"),
        (with_file("\0"), "missing from the bundle"),
        (with_file("x" * 5000), "cannot be read (File name too long)"),
    ],
)
def test_damaged_manifest(bundle_copy, damage, message):
    path = bundle_copy / "axform.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(AxformError) as error:
        Bundle(bundle_copy)
    assert message in str(error.value) and str(bundle_copy) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 6000


def test_files_that_cannot_be_read(bundle_copy, monkeypatch):
    bundle = Bundle(bundle_copy)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("axform.seals.file_record", refuse)
    with pytest.raises(AxformError, match=r"cannot be read \(Permission denied\)"):
        bundle.verify()


def changed(**arrays: np.ndarray | None) -> Callable[[bytes], bytes]:
    """check.npz with other arrays; None leaves one out."""

    def damage(content: bytes) -> bytes:
        found = dict(np.load(io.BytesIO(content)))
        found |= {name.replace("__", "/"): value for name, value in arrays.items()}
        result = io.BytesIO()
        np.savez(result, **{name: value for name, value in found.items() if value is not None})
        return result.getvalue()

    return damage


def with_member(name: str, member: bytes) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(result, "w") as new:
            for entry in old.namelist():
                new.writestr(entry, member if entry == name else old.read(entry))
        return result.getvalue()

    return damage


def flipped(content: bytes) -> bytes:
    """A bit changed inside the compressed data of the first array."""
    place = content.index(b".npy") + 40
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


ONE = np.zeros(1, np.int64)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"text",
        flipped,
        lambda content: pickle.dumps([1]),
        with_member("labels.npy", b"\x93NUMPY\x01\x00"),
        with_member("labels.npy", b""),
        changed(labels=np.array([{}], dtype=object)),
        changed(labels=ONE),
        changed(labels=None),
        changed(labels=np.array(["positive"] * 24)),
        changed(lengths=ONE),
        changed(lengths=None),
        changed(lengths=np.zeros(24, np.int64)),
        changed(lengths=np.zeros((24, 1), np.int64)),
        changed(features__input_ids=ONE),
        changed(features__input_ids=None),
        changed(features__input_ids=None, pad_values=np.array('{"attention_mask": 0, "token_type_ids": 0}')),
        changed(pad_values=np.array("[]")),
        changed(pad_values=np.array('{"input_ids": "x", "attention_mask": 0, "token_type_ids": 0}')),
        changed(pad_values=np.array("{")),
        changed(reference__0__indices=None),
        changed(reference__0__indices=ONE + 24),
        changed(reference__0__indices=ONE - 1),
        changed(reference__0__indices=np.zeros(0, np.int64)),
        changed(reference__0__output__logits=None),
        changed(reference__1__output__logits=np.zeros((1, 2), np.float32)),
        changed(reference__1__output__logits=np.zeros((23, 0), np.float32)),
        changed(reference__1__output__logits=np.array(["x"] * 23)),
    ],
)
def test_damaged_check_data(bundle_copy, damage):
    path = bundle_copy / "check.npz"
    path.write_bytes(damage(path.read_bytes()))
    bundle = with_its_checksums(bundle_copy)
    with pytest.raises(AxformError, match=r"check\.npz: damaged \(.+\); export again with axform-export\."):
        check_bundle(bundle)


def test_outputs_of_another_shape_or_name(bundle_copy):
    data = CheckData.load(bundle_copy / "check.npz")
    for outputs, message in (
        ({"logits": np.zeros((1, 3), np.float32)}, r"output logits of model\.onnx has shape \(1, 2\)"),
        ({"scores": np.zeros((1, 2), np.float32)}, "onnxruntime cannot run the model on inputs of 1 x "),
    ):
        CheckData(data.split, [ReferenceBatch(np.zeros(1, np.int64), outputs)]).save(bundle_copy / "check.npz")
        with pytest.raises(AxformError, match=message):
            check_bundle(with_its_checksums(bundle_copy))
