"""An ONNX model and its tokenizer: one text in, one vector out, on the caller's thread."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from inference.embedders.embedder import TooLong, Vector, refuse_long, unit_vector
from inference.embedders.source import Form, Pooling, SourceUnusable

_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
"""Of BERT-like models; a model may leave any but the first out."""
_SLOW: Final = ("SkipLayerNormFusion",)
"""Its kernel for CPUs takes four times what the addition and the normalisation it replaces take together (of
ONNX Runtime 1.31; 140 us for 64 tokens, twelve times a text)."""
_MEND: Final = "use an export for feature extraction, all in one file, with its own tokenizer.json"


def session_options() -> onnxruntime.SessionOptions:
    """One thread that sleeps when it has nothing to do: the cores belong to the filters."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def open_session(model: bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """``model``, optimised for this CPU. Raises what ONNX Runtime raises: no root of their own."""
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(_SLOW)
    )


class OnnxModel:
    """Safe to be used from several threads at once.

    Texts go in one by one: activations are quantised over the whole input, so that in a batch a text's vector
    would depend on its neighbours; and on a CPU a batch is not faster.
    """

    def __init__(self, model: bytes, tokenizer: bytes, form: Form) -> None:
        """``model`` and ``tokenizer`` are the files' contents. Raises SourceUnusable."""
        self._form = form
        try:
            self._tokenizer = Tokenizer.from_buffer(tokenizer)
        except Exception as error:  # the binding raises Exception itself
            raise SourceUnusable("the tokenizer.json cannot be read", _MEND) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        try:
            self._session = open_session(model, session_options())
        except Exception as error:  # the binding's errors have no root of their own
            raise SourceUnusable("ONNX Runtime cannot load the model", _MEND) from error
        self._inputs = self._known_inputs()
        self._output = self._fitting_output()

    def _known_inputs(self) -> tuple[str, ...]:
        found = {one.name: one.type for one in self._session.get_inputs()}
        if "input_ids" not in found or not found.keys() <= set(_INPUTS):
            raise SourceUnusable(f"the model takes {sorted(found)} instead of {list(_INPUTS)}", _MEND)
        if set(found.values()) != {"tensor(int64)"}:
            raise SourceUnusable("the model does not take 64-bit integers", _MEND)
        return tuple(found)

    def _fitting_output(self) -> str:
        rank = 2 if self._form.pooling is Pooling.NONE else 3
        for one in self._session.get_outputs():
            if len(one.shape) == rank:
                return str(one.name)
        raise SourceUnusable(
            f"the model has no output of {rank} axes, as pooling '{self._form.pooling}' needs",
            "name another pooling (mean, cls, none)",
        )

    def count_tokens(self, text: str) -> int:
        """Of the prefix and ``text``, with the tokenizer's marks, in 0.1 ms.

        Raises TooLong only for a text far too long to be counted.
        """
        return len(self._token_ids(text))

    def _token_ids(self, text: str) -> list[int]:
        refuse_long(text, self._form.tokens_max)
        ids: list[int] = self._tokenizer.encode(self._form.prefix + text).ids
        return ids

    def vector(self, text: str) -> Vector:
        """The unit vector of ``text``. Raises TooLong, EmbedderUnavailable."""
        ids = self._token_ids(text)
        if len(ids) > self._form.tokens_max:
            raise TooLong(f"more than {self._form.tokens_max} tokens")
        tokens = np.array([ids], dtype=np.int64)
        given = {
            "input_ids": tokens,
            "attention_mask": np.ones_like(tokens),
            "token_type_ids": np.zeros_like(tokens),
        }
        [output] = self._session.run([self._output], {name: given[name] for name in self._inputs})
        return unit_vector(self._pooled(output[0]), self._form.dimensions)

    def _pooled(self, output: Vector) -> Vector:
        match self._form.pooling:
            case Pooling.MEAN:
                mean: Vector = output.mean(axis=0)
                return mean
            case Pooling.CLS:
                first: Vector = output[0]
                return first
            case Pooling.NONE:
                return output
