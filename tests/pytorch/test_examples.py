"""The examples train and score as they say, shown on a tiny model."""

import argparse
import multiprocessing.dummy
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).parents[2] / "examples"
TEXT = "the layer is a softmax with loss . its gradient is y minus t , and every row of it adds up to zero . " * 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.train_from_iterator([TEXT], tokenizers.trainers.WordLevelTrainer(special_tokens=["?"]))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=words.get_vocab_size(), initializer_range=0.3, **size)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def example(monkeypatch):
    """Return an example by its name; it works in threads, which start faster than processes."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "")  # whatever the example sets is taken back

    def imported(name):
        module = import_module(name)
        monkeypatch.setattr(module, "get_context", lambda _: multiprocessing.dummy)
        monkeypatch.setattr(module, "ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n), raising=False)
        return module

    return imported


@pytest.mark.parametrize("saving", [False, True])
def test_a_fused_model_learns_the_same(saving, example, folder):
    finetune = example("finetune_smollm2")
    options = argparse.Namespace(model=folder, steps=8, sequences=2, length=24, rate=0.05)
    steps = finetune.take_turns(options, saving=saving)
    unchanged, fused = ([step.loss for step in run] for run in zip(*steps, strict=True))
    assert fused == pytest.approx(unchanged, rel=1e-5)
    assert sum(fused[-3:]) < sum(fused[:3])


def test_updating_at_once_with_checkpoints_changes_no_loss(example, folder):
    finetune = example("finetune_smollm2")
    options = argparse.Namespace(model=folder, steps=4, sequences=2, length=24, rate=0.05)
    losses = [[b.loss for _, b in finetune.take_turns(options, saving=saving)] for saving in (False, True)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_fine_tuning_prints_and_draws_what_it_measured(example, folder, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    arguments = ["--model", str(folder), "--steps", "2", "--length", "16", "--picture", str(picture)]
    example("finetune_smollm2").main(arguments)
    printed = capsys.readouterr().out
    for words in ("as usual", "saving memory", "largest difference of the losses: ", "mebibytes of a step, medians: "):
        assert words in printed
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_model_too_small_to_measure_has_no_ratio_of_memory(example, capsys):
    finetune = example("finetune_smollm2")
    finetune.compare([(finetune.Step(1.0, 2.0, 0.0), finetune.Step(1.0, 1.0, 0.0))])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "seconds of a step, medians: 2.00, fused 1.00, ratio 0.50",
        "mebibytes of a step, medians: 0.00, fused 0.00, ratio nan",
    ]


def test_perplexity_is_that_of_the_logits_in_float64(example, folder, tmp_path, capsys):
    (tmp_path / "text").write_text(TEXT, "utf-8")
    example("perplexity").main([str(tmp_path / "text"), "--model", str(folder), "--window", "24"])
    found = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if line.startswith("  perplexity")]
    assert found == pytest.approx([_perplexity(folder, TEXT, 24)] * 2, rel=1e-5)


def _perplexity(folder, text, width):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double()
    ids = torch.tensor(transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"])
    half, last, losses = width // 2, len(ids) - 1, []
    for place in range(1, len(ids)):
        # the end of the first window that holds the token: after a whole window, then half a window farther each time
        end = min(last + 1, width + half * max(0, -(-(place + 1 - width) // half)))
        begin = max(0, end - width)
        with torch.inference_mode():
            logits = model(ids[None, begin:place]).logits[0, -1]
        losses.append(-torch.log_softmax(logits, 0)[ids[place]])
    return torch.stack(losses).mean().exp().item()


@pytest.mark.parametrize(("n_tokens", "width"), [(2, 8), (8, 8), (9, 8), (100, 8), (101, 7), (5, 2)])
def test_windows_score_each_token_once_after_half_a_window(n_tokens, width, example):
    tokens, scored = torch.arange(n_tokens), []
    for window, n_new in example("perplexity").windows(tokens, width):
        assert len(window) <= width
        scored += window[-n_new:].tolist()
        assert window[0] == 0 or len(window) - n_new >= width // 2
    assert scored == list(range(1, n_tokens))


@pytest.mark.thorough
@pytest.mark.parametrize("arguments", [("finetune_smollm2.py", "--steps", "2", "--length", "16"), ("perplexity.py",)])
def test_an_example_runs_in_processes_of_its_own(arguments, folder):
    command = [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:], "--model", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert {"finetune_smollm2.py": "saving memory", "perplexity.py": "perplexity"}[arguments[0]] in done.stdout
