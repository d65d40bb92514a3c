"""A bundle that is served: its session, its signature, its tokenizer, and the queue before it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import custom_ops
from ..errors import AxformError
from ..runtime.bundle import Bundle, Manifest
from ..runtime.session import create_session, import_onnxruntime, provider_of
from ..runtime.texts import Text, Tokenization, probabilities
from .batcher import Batcher, Unit
from .calls import InferAnswer, InferCall
from .refusals import Reason, Refused
from .runners import Runners
from .settings import ServeSettings
from .signature import signature_of
from .statistics import ModelCounts

__all__ = ["VERSION", "ServedModel", "load_model"]

VERSION = "1"
"""Of every model: a bundle is one version, and a new one takes its place."""
_FATAL = 4
"""Severity from which ONNX Runtime writes to stderr; what is less serious is raised, too."""
_OUT_OF_RANGE = "InvalidArgument"
"""What ONNX Runtime raises for indices outside of a table, where no config of the bundle says how large that is."""
_ATTEMPTS = 3
_LONG = 4096
"""Characters of a request whose tokens are made in a thread; the event loop makes fewer in well under a millisecond."""
_REMEDY = "export again with axform-export"


class ServedModel:
    """A model that answers. Made in any thread by `load_model`; all else happens in the event loop.

    Attributes:
        fallbacks: what is slower or missing here, and why, a sentence each.
    """

    def __init__(self, name: str, bundle: Bundle, settings: ServeSettings) -> None:
        self.name = name
        self.manifest: Manifest = bundle.manifest
        self.fallbacks: list[str] = []
        self._session = create_session(bundle.model, settings.provider, settings.threads, spinning=False)
        self.provider = provider_of(self._session)
        self._say_fallbacks(settings)
        self._tokenization = self._read_tokenization(bundle)
        self.signature = signature_of(
            self._session, bundle, settings.max_batch, self._tokenization.pad_values if self._tokenization else {}
        )
        self._settings = settings
        self._outputs = [port.name for port in self.signature.outputs]
        self._run = _Run(self._session, self._outputs)
        self._batcher: Batcher | None = None
        try:
            self._run(self.signature.example())
        except Refused as error:
            raise AxformError(f"{bundle.model}: loads, but does not run ({error}); {_REMEDY}.") from None

    @property
    def labels(self) -> list[str]:
        """Of a classifier; empty for a regression."""
        return self.manifest.labels

    def start(self, counts: ModelCounts, runners: Runners) -> None:
        """Take requests from now on."""
        settings = self._settings
        self._batcher = Batcher(
            self._run,
            self.signature,
            counts,
            runners,
            max_batch=settings.max_batch,
            max_delay=settings.max_delay_ms / 1000,
            max_queue=settings.max_queue,
        )

    async def infer(self, call: InferCall, deadline: float | None) -> InferAnswer:
        """Answer a tensor request.

        Args:
            deadline: of the event loop's clock.

        Raises:
            Refused: it does not fit the model, the queue is full, or it is late.
        """
        wanted = self.signature.wanted(call)
        (outputs,) = await self._submit([Unit(self.signature.feeds(call), deadline)])
        return InferAnswer(call, VERSION, {name: outputs[name] for name in wanted})

    async def classify(self, texts: Sequence[Text], deadline: float | None) -> np.ndarray:
        """The probability of each label, (texts, labels) float32; for a regression the values, (texts, 1).

        Raises:
            Refused: this bundle has no tokenizer, the queue is full, it is late, or the model answers NaN or infinity.
        """
        if self._tokenization is None:
            raise Refused(Reason.NOT_OFFERED, f"model {self.name} has no tokenizer here; send tensors.")
        encode = self._tokenization.encode
        long = sum(map(len, chain.from_iterable([text] if isinstance(text, str) else text for text in texts)))
        features = encode(texts) if long < _LONG else await asyncio.to_thread(encode, texts)
        units = [
            Unit({name: rows[index][None] for name, rows in features.items()}, deadline) for index in range(len(texts))
        ]
        first = self._outputs[0]
        logits = np.concatenate([outputs[first] for outputs in await self._submit(units)])
        if not np.isfinite(logits).all():
            raise Refused(
                Reason.FAILED, f"output {first} is not finite; send tensors and ask for binary_data to see it."
            )
        return probabilities(logits, self.labels)

    def metadata(self) -> dict[str, Any]:
        """As the protocol's model metadata."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [_metadata_of(port) for port in self.signature.inputs],
            "outputs": [_metadata_of(port) for port in self.signature.outputs],
        }

    def config(self) -> dict[str, Any]:
        """As Triton's model configuration; dimensions are those after the batch."""

        def ports(of: Sequence[Any]) -> list[dict[str, Any]]:
            return [{"name": p.name, "data_type": p.kind.config_name, "dims": p.free_shape[1:]} for p in of]

        settings = self._settings
        mixes = {} if self.signature.mixing == "none" else {"max_queue_delay_microseconds": self._delay_us}
        return {
            "name": self.name,
            "platform": "onnxruntime_onnx",
            "backend": "onnxruntime",
            "max_batch_size": settings.max_batch,
            "input": ports(self.signature.inputs),
            "output": ports(self.signature.outputs),
            "instance_group": [
                {"kind": "KIND_GPU" if self.provider == "CUDA" else "KIND_CPU", "count": settings.workers}
            ],
            **({"dynamic_batching": mixes} if mixes else {}),
            "parameters": {
                "provider": {"string_value": self.provider},
                "precision": {"string_value": self.manifest.precision},
                "batches": {"string_value": self.signature.mixing},
            },
        }

    @property
    def _delay_us(self) -> int:
        return math.ceil(self._settings.max_delay_ms * 1000)

    async def _submit(self, units: Sequence[Unit]) -> list[dict[str, np.ndarray]]:
        if self._batcher is None:
            raise Refused(Reason.UNAVAILABLE, f"model {self.name} is not ready; try again later.")
        return await self._batcher.submit(units)

    def _read_tokenization(self, bundle: Bundle) -> Tokenization | None:
        try:
            return Tokenization(bundle, [entry.name for entry in self._session.get_inputs()])
        except AxformError as error:
            self.fallbacks.append(f"texts are not answered, tensors are: {error}")
            return None

    def _say_fallbacks(self, settings: ServeSettings) -> None:
        accelerates = self.manifest.op_library.accelerates
        if accelerates and not custom_ops.is_available():
            self.fallbacks.append(
                f"{', '.join(accelerates)} runs on the function bodies in the file, since there is no op library"
            )
        available = import_onnxruntime().get_available_providers()
        if settings.provider == "auto" and self.provider == "CPU" and "CUDAExecutionProvider" in available:
            self.fallbacks.append("runs on the CPU, since CUDA does not start")


class _Run:
    """Runs a session. The queue holds this, not the model that holds the queue: a circle would keep a session that has
    been replaced in memory until Python looks for circles, which in a server it rarely does."""

    def __init__(self, session: Any, outputs: Sequence[str]) -> None:
        self._session = session
        self._outputs = list(outputs)
        self._options = import_onnxruntime().RunOptions()
        self._options.log_severity_level = _FATAL

    def __call__(self, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return list(self._session.run(self._outputs, feeds, self._options))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            reason = str(error).strip().partition("\n")[0]
            if type(error).__name__ == _OUT_OF_RANGE:
                raise Refused(
                    Reason.INVALID, f"an input holds what the model does not have ({reason[:200]})."
                ) from error
            raise Refused(Reason.FAILED, f"the model cannot run this ({reason[:200]}).") from error


def load_model(name: str, path: str, settings: ServeSettings) -> ServedModel:
    """Load a bundle whose files are as they were exported, and try it once.

    Raises:
        AxformError: it is no bundle, damaged, does not load, does not run, or changes all the time.
    """
    for _ in range(_ATTEMPTS):
        bundle = Bundle(Path(path))
        bundle.verify()
        model = ServedModel(name, bundle, settings)
        if Bundle(Path(path)).manifest.files == bundle.manifest.files:
            return model
    raise AxformError(f"{path}: is written while it is read; load it again when that has ended.")


def _metadata_of(port: Any) -> dict[str, Any]:
    return {"name": port.name, "datatype": port.kind.name, "shape": port.free_shape}
