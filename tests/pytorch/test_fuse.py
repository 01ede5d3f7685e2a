"""`fuse_head`: language models of every family lose nothing but their logits."""

import copy
import io

import pytest
import torch

from softmaxloss.torch import fuse_head, log_probs, unfuse_head
from softmaxloss.torch.lazy_logits import HeadLogits
from thorough import thorough

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
QUICK = ["llama", "gemma2", "gpt2", "cohere"]
OTHERS = [
    *("mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi", "phi3", "gpt_neox", "gptj", "gpt_neo"),
    *("opt", "bloom", "falcon", "olmo", "olmo2", "stablelm", "cohere2", "granite", "smollm3", "starcoder2", "mpt"),
    *("codegen", "deepseek_v2", "deepseek_v3", "nemotron", "bart", "persimmon", "xglm", "glm", "helium", "qwen2_moe"),
    *("olmoe", "mamba"),
]
# What the families call a model of two tiny layers; each takes the names that it knows.
TINY = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("attention_heads", "decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "state_size"), 4),
    **dict.fromkeys(("moe_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "bos_token_id"), 1),
    "vocab_size": 99,
    "num_experts_per_tok": 2,
    "pad_token_id": 0,
    "eos_token_id": 2,
    "attention_types": [[["global", "local"], 1]],
}


def model_of(family, **more):
    known = transformers.AutoConfig.for_model(family)
    chosen = {name: value for name, value in TINY.items() if hasattr(known, name)}
    if family in {"gemma", "gemma2", "gemma3_text", "qwen3", "helium", "glm"}:
        chosen["head_dim"] = 8
    config = transformers.AutoConfig.for_model(family, **chosen, **more)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def tokens():
    ids = torch.randint(3, 99, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, :3] = -100
    return ids, labels


def loss_and_gradients(model, **more):
    ids, labels = tokens()
    model.zero_grad()
    loss = model(input_ids=ids, labels=labels, **more).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert found[1].keys() == expected[1].keys()
    largest = max(gradient.abs().max() for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        # the gradient of some biases of attention is 0 but for rounding
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=float(2e-6 * largest))


@pytest.mark.parametrize("family", [*QUICK, *map(thorough, OTHERS)])
def test_a_model_has_the_same_loss_and_gradients_without_its_logits(family, made):
    model = model_of(family)
    expected = loss_and_gradients(model)
    assert fuse_head(model) is model
    assert_same(loss_and_gradients(model), expected)
    assert made == []
    ids, _ = tokens()
    generated = model.generate(ids, max_new_tokens=4, do_sample=False)
    unfuse_head(model)
    assert torch.equal(generated, model.generate(ids, max_new_tokens=4, do_sample=False))
    assert not isinstance(model(input_ids=ids).logits, HeadLogits)


def test_the_logits_of_the_output_are_those_of_the_model_once_somebody_looks(made):
    model = model_of("gemma2")
    ids, labels = tokens()
    expected = model(input_ids=ids).logits
    output = fuse_head(model)(input_ids=ids, labels=labels)
    assert output.logits.shape == expected.shape
    assert output.logits.dtype == expected.dtype
    assert made == []
    assert torch.equal(output.logits.argmax(-1), expected.argmax(-1))
    assert torch.equal(output.logits + 0, expected)
    output.logits.sum().backward()
    assert model.get_output_embeddings().weight.grad is not None


@pytest.mark.parametrize("family", QUICK)
def test_log_probabilities_of_tokens_need_no_logits(family, made):
    """As policy gradients ask for them: of the tokens that follow, at a temperature."""
    model = model_of(family)
    ids, labels = tokens()

    def run():
        model.zero_grad()
        log_prob, entropy = log_probs(model(input_ids=ids).logits[:, :-1], labels[:, 1:], temperature=0.7)
        (log_prob.sum() - 0.1 * entropy.sum()).backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return torch.stack([log_prob.sum(), entropy.sum()]).detach(), gradients

    expected = run()
    fuse_head(model)
    assert_same(run(), expected)
    assert made == []


def test_num_items_shifted_labels_and_bfloat16_are_those_of_the_model(made):
    _ids, labels = tokens()
    shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].contiguous()
    for more in ({"num_items_in_batch": torch.tensor(7)}, {"num_items_in_batch": 7}, {"shift_labels": shifted}):
        model = model_of("llama")
        expected = loss_and_gradients(model, **more)
        assert_same(loss_and_gradients(fuse_head(model), **more), expected)
    model = model_of("llama").to(torch.bfloat16)
    expected, _ = loss_and_gradients(model)
    found, _ = loss_and_gradients(fuse_head(model))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)
    assert made == []


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_adapters_on_the_head_are_part_of_the_loss(dropout, made):
    targets = ["q_proj", "lm_head"]
    options = peft.LoraConfig(r=4, target_modules=targets, lora_dropout=dropout, init_lora_weights=False)
    model = peft.get_peft_model(model_of("llama", tie_word_embeddings=False), options).train()

    def run():
        torch.manual_seed(3)
        return loss_and_gradients(model)

    expected = run()
    fuse_head(model)
    assert_same(run(), expected)
    assert made == []
    unfuse_head(model)
    assert_same(run(), expected)


def test_what_is_saved_copied_and_loaded_is_the_model_as_it_was(tmp_path):
    model = model_of("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fuse_head(model)
    assert model.state_dict().keys() == before.keys()
    model.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items())
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert twin(input_ids=tokens()[0]).logits.abs().max() > 0
    torch.save(model.state_dict(), io.BytesIO())


def test_a_compiled_body_trains_like_the_model(made):
    model = fuse_head(model_of("llama"))
    expected = loss_and_gradients(model)
    model.model = torch.compile(model.model, backend="aot_eager")
    found = loss_and_gradients(model)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert made == []


@pytest.mark.parametrize("looks", [False, True])
def test_hooks_of_the_head_see_its_logits_and_their_gradient(looks):
    model, seen = model_of("llama"), []
    ids, labels = tokens()

    def run():
        seen.clear()
        head = model.get_output_embeddings()
        hooks = [
            head.register_forward_hook(lambda *of: seen.append(of[2].sum().detach()) if looks else None),
            head.register_full_backward_hook(lambda *of: seen.append(of[2][0].square().sum())),
        ]
        model.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        for hook in hooks:
            hook.remove()
        return torch.stack(seen)

    expected = run()
    fuse_head(model)
    torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-6)


def test_a_model_is_saved_and_loaded_whole(tmp_path):
    model, (ids, labels) = fuse_head(model_of("llama")), tokens()
    torch.save(model, tmp_path / "model")
    loaded = torch.load(tmp_path / "model", weights_only=False)
    assert torch.equal(loaded(input_ids=ids, labels=labels).loss, model(input_ids=ids, labels=labels).loss)
    assert isinstance(loaded(input_ids=ids).logits, HeadLogits)


def test_transforms_and_compilers_see_the_ordinary_head():
    head, x = fuse_head(model_of("llama")).get_output_embeddings(), torch.ones(3, 32)
    assert torch.equal(torch.func.jacrev(head)(x[0]), head.weight)
    torch.testing.assert_close(torch.func.vmap(head)(x), x @ head.weight.T)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), x @ head.weight.T)
    torch.testing.assert_close(torch.export.export(head, (x,)).module()(x), x @ head.weight.T)


class Scaled(torch.nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def test_a_head_with_a_forward_of_its_own_is_refused():
    model = model_of("llama")
    model.set_output_embeddings(Scaled(32, 99))
    with pytest.raises(TypeError, match="with a forward of its own"):
        fuse_head(model)
    head = torch.nn.Linear(32, 99)
    head.forward = own = lambda x: x
    model.set_output_embeddings(head)
    with pytest.raises(TypeError, match="with a forward of its own"):
        fuse_head(model)
    assert head.forward is own


def test_a_model_without_a_head_is_refused():
    with pytest.raises(TypeError, match="model must have a head of linear layers, got Linear"):
        fuse_head(torch.nn.Linear(2, 3))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "more", [{}, {"bf16": True}, {"label_smoothing_factor": 0.1}, {"gradient_checkpointing": True}]
)
def test_a_trainer_sees_the_same_losses(more, tmp_path):
    def dataset(first, count):
        return [
            {"input_ids": ids, "labels": ids}
            for seed in range(first, first + count)
            for ids in [torch.randint(3, 99, (12,), generator=torch.Generator().manual_seed(seed))]
        ]

    def losses(fused):
        model = model_of("llama").train()
        arguments = transformers.TrainingArguments(
            str(tmp_path / str(fused)),
            max_steps=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            eval_strategy="steps",
            eval_steps=2,
            logging_steps=1,
            learning_rate=1e-2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **more,
        )
        trainer = transformers.Trainer(
            fuse_head(model) if fused else model, arguments, train_dataset=dataset(0, 32), eval_dataset=dataset(50, 6)
        )
        trainer.train()
        history = [(entry.get("loss"), entry.get("eval_loss")) for entry in trainer.state.log_history]
        return [value for pair in history for value in pair if value is not None]

    found, expected = losses(fused=True), losses(fused=False)
    assert len(expected) == 6
    assert found == pytest.approx(expected, rel=2e-3 if "bf16" in more else 1e-5)
