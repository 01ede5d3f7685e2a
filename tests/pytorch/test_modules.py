"""The modules take the place of PyTorch's: in state, copies, files, workers, and training on several processes."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import softmaxloss.torch as slt
from scripts import run
from tensors import assert_same, problem

MODULES = {
    "loss": lambda: slt.CrossEntropyLoss(torch.ones(5), class_mask=torch.tensor([True] * 5), label_smoothing=0.1),
    "head": lambda: slt.LinearCrossEntropyLoss(5, 5, bias=True, weight=torch.ones(5), z_loss=0.1, softcap=8.0),
}
over_modules = pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
OF_TORCH = {
    "loss": (slt.CrossEntropyLoss, nn.CrossEntropyLoss, (torch.tensor([1.0, 2, 3, 4, 5]),), {}),
    "plain loss": (slt.CrossEntropyLoss, nn.CrossEntropyLoss, (), {}),
    "head": (slt.LinearCrossEntropyLoss, nn.LinearCrossEntropyLoss, (5, 5), {"bias": True, "weight": torch.ones(5)}),
    "plain head": (slt.LinearCrossEntropyLoss, nn.LinearCrossEntropyLoss, (5, 5), {}),
}
over_pairs = pytest.mark.parametrize("pair", OF_TORCH.values(), ids=OF_TORCH)


def through_pickle(module):
    return pickle.loads(pickle.dumps(module))


def through_file(module):
    file = io.BytesIO()
    torch.save(module, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@over_modules
@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, through_pickle, through_file])
def test_copies_compute_the_same(make, copied):
    module, (logits, labels) = make(), problem(dtype=torch.float32)
    twin = copied(module)
    assert repr(twin) == repr(module)
    assert_same(twin(logits, labels).detach(), module(logits, labels).detach())


@over_pairs
def test_states_go_to_pytorchs_module_and_back(pair):
    ours, theirs, arguments, options = pair
    a, b, c = ours(*arguments, **options), theirs(*arguments, **options), ours(*arguments, **options)
    assert list(a.state_dict()) == list(b.state_dict())
    b.load_state_dict(a.state_dict())
    c.load_state_dict(b.state_dict())
    logits, labels = problem(dtype=torch.float32)
    assert_same(c(logits, labels).detach(), a(logits, labels).detach())
    torch.testing.assert_close(b(logits, labels), a(logits, labels))


def test_a_class_mask_is_no_part_of_the_state():
    mask = torch.tensor([True] * 5)
    assert not slt.CrossEntropyLoss(class_mask=mask).state_dict()
    assert list(slt.LinearCrossEntropyLoss(5, 5, class_mask=mask).state_dict()) == ["linear.weight"]


def test_the_module_is_pytorchs_loss_with_its_attributes():
    module = slt.CrossEntropyLoss(ignore_index=3, label_smoothing=0.2, reduction="sum")
    assert isinstance(module, nn.CrossEntropyLoss)
    assert (module.ignore_index, module.label_smoothing, module.reduction) == (3, 0.2, "sum")


def test_the_old_arguments_of_reductions_are_read_as_pytorch_reads_them():
    logits, labels = problem()
    for old in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        with pytest.warns(UserWarning, match="deprecated") as warned:
            got = slt.cross_entropy(logits, labels, **old)
        assert warned[0].filename == __file__
        with pytest.warns(UserWarning, match="deprecated"):
            want = nn.functional.cross_entropy(logits, labels, **old)
        torch.testing.assert_close(got, want)


@over_modules
def test_modules_move_between_dtypes_and_devices(make):
    logits, labels = problem(dtype=torch.float64)
    assert make().double()(logits, labels).dtype == torch.float64
    assert make().to("meta")(logits.to("meta"), labels.to("meta")).device.type == "meta"


def test_a_head_says_what_it_is():
    shown = repr(slt.LinearCrossEntropyLoss(3, 4, reduction="sum"))
    for part in ("LinearCrossEntropyLoss(", "num_classes=4", "reduction='sum'", "in_features=3"):
        assert part in shown


def test_options_of_a_call_reach_the_loss():
    logits, labels = problem()
    options = {"sample_weight": torch.rand(6), "normalizer": 4.0}
    assert_same(slt.CrossEntropyLoss()(logits, labels, **options), slt.cross_entropy(logits, labels, **options))
    head = slt.LinearCrossEntropyLoss(5, 3, dtype=torch.float64)
    want = slt.linear_cross_entropy(logits, head.linear.weight, labels % 3, **options)
    assert_same(head(logits, labels % 3, **options), want)


class Losses(Dataset):
    """Each item is a loss that a worker computes."""

    def __len__(self):
        return 8

    def __getitem__(self, k):
        logits, labels = problem(300, 40, seed=k)
        return slt.cross_entropy(logits, labels).detach()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_forked_after_a_loss_was_computed_compute_losses():
    want = torch.stack([Losses()[k] for k in range(8)])
    loader = DataLoader(Losses(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=120)
    assert_same(torch.cat(list(loader)), want)


FORKED = """
    import torch, softmaxloss.torch as slt

    torch.set_num_threads(4)
    z, labels_there = torch.from_numpy(logits), torch.from_numpy(labels)
    loss = slt.cross_entropy(z, labels_there)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(slt.cross_entropy(z, labels_there), loss) else 3)
    print(os.waitpid(child, 0)[1])
"""


def test_a_forked_child_computes_on_several_threads():
    assert run(FORKED, timeout=60) == "0"


TRAINING = """
    import os, torch, softmaxloss.torch as slt
    from torch import distributed, multiprocessing, nn

    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))

    def batch(rows):
        random = torch.Generator().manual_seed(1)
        x, labels = torch.randn(12, 8, generator=random), torch.randint(5, (12,), generator=random)
        return x[rows], labels[rows]

    def train(net, rows, steps=3):
        optimizer = torch.optim.SGD(net.parameters(), 0.5)
        for _ in range(steps):
            optimizer.zero_grad()
            x, labels = batch(rows)
            slt.cross_entropy(net(x), labels).backward()
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    def work(rank, name):
        distributed.init_process_group("gloo", init_method=f"file://{name}", rank=rank, world_size=2)
        got = train(nn.parallel.DistributedDataParallel(model()), slice(6 * rank, 6 * rank + 6))
        torch.testing.assert_close(got, train(model(), slice(0, 12)), rtol=1e-5, atol=1e-6)
        distributed.destroy_process_group()

    import tempfile
    train(model(), slice(0, 12))
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(work, (folder + "/meeting",), 2, start_method="fork")
    print("trained")
"""


IN_SHARDS = """
    import tempfile, torch, softmaxloss.torch as slt
    from torch.distributed import destroy_process_group, device_mesh, init_process_group
    from torch.distributed.fsdp import fully_shard

    x, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, -100])
    models = [slt.LinearCrossEntropyLoss(5, 7, bias=True, reduction=name) for name in ("mean", "none")]
    with tempfile.TemporaryDirectory() as folder:
        init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        for model in models:
            want = model(x, labels).sum()
            d_want = torch.autograd.grad(want, list(model.parameters()))
            fully_shard(model, mesh=device_mesh.init_device_mesh("cpu", (1,)))
            for _ in range(2):  # PyTorch frees the memory of the whole parameters after each pass
                model.zero_grad()
                loss = model(x, labels).sum()
                loss.backward()
                assert torch.equal(loss, want)
                assert all(torch.equal(p.grad.full_tensor(), d) for p, d in zip(model.parameters(), d_want))
        destroy_process_group()
    print("trained")
"""


def test_parameters_in_shards_get_the_gradients_of_whole_ones():
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this PyTorch has no fully_shard")
    assert run(IN_SHARDS) == "trained"


@pytest.mark.thorough
def test_two_processes_train_to_the_parameters_of_one():
    assert run(TRAINING) == "trained"
