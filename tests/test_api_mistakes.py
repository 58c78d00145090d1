"""Mistakes of a caller are errors of one line, and a module is left as it was found."""

import itertools
import random
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from benchmark import api
from benchmark.errors import UserError
from benchmark.models.loading.loader import Freeze
from benchmark.models.loading.module import wrap_module
from tests.fixtures import tiny_models

pytestmark = pytest.mark.slow

RECORDS = Path(__file__).parents[1] / "results/records/main-smoke-scenes-1x"
TRANSFORM = api.EvaluationTransform(16)


@pytest.fixture(autouse=True)
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without datasets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8))


def trained() -> nn.Sequential:
    """A module after a step: with gradients, statistics, a mode of its own in each part, and a frozen part."""
    torch.manual_seed(0)
    head = [nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 14 * 14, 8)]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), *head)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    model[0].requires_grad_(False)
    model[2].eval()
    return model


class Returns(nn.Module):
    """A network whose features are changed by a function."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network, self.change = linear(), change

    def forward(self, images: Tensor) -> Any:
        return self.change(self.network(images))


def having(value: object) -> nn.Module:
    model = linear()
    model.value = value  # type: ignore[assignment]
    return model


def features(model: nn.Module, transform: Any = TRANSFORM) -> np.ndarray:
    return wrap_module(model, transform, None, Freeze()).model.features(tiny_models.pictures())


def evaluate(model: Any, transform: Any = TRANSFORM, datasets: Any = "digits", **options: Any) -> api.Evaluated:
    return api.evaluate(model, options.pop("evaluation", "knn"), datasets, transform=transform, **options)


def only_once(picture: Image.Image) -> Tensor:
    """A transform that fails on other pictures than the one with which it is tried."""
    side = 16 if picture.size == (64, 48) else 8
    return torch.tensor(np.asarray(picture.resize((side, 32 - side)))).permute(2, 0, 1) / 255


def calls_another(another: nn.Module) -> nn.Module:
    return Returns(lambda output: another.train()(output * 2))


class ReturnsItself(nn.Linear):
    """A layer that cannot be copied."""

    def __deepcopy__(self, _memo: object) -> "ReturnsItself":
        return self


class ConvertsItsInput(nn.Module):
    """A network that computes in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.network = linear().half()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.half())  # type: ignore[no-any-return]


CALLS = itertools.count()


def flips(picture: Image.Image) -> Tensor:
    """A transform that flips the picture in each fourth call."""
    pixels = torch.tensor(np.asarray(picture.resize((16, 16)))).permute(2, 0, 1) / 255
    return pixels.flip(2) if next(CALLS) % 4 == 3 else pixels


def exhausted(_: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def patched() -> nn.Module:
    model = trained()
    original = model.forward
    model.forward = lambda images: original(images * 2)  # type: ignore[method-assign,assignment]
    return model


NO_DEVICE = "expected a device of this machine (cpu"
ONE_VECTOR = "expected model(images) to return one vector per row (N, D), found "
TENSOR = "expected transform(picture) to return a float tensor (3, "
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    **{
        f"device {name!r}": (lambda name=name: evaluate(linear(), device=name), NO_DEVICE)  # type: ignore[misc]
        for name in ("gpu", "cuda:99", "meta", "", 99, 1.5, 10**30)
    },
    "device of pixels": (lambda: api.evaluate("pixels", "knn", "digits", device="gpu"), NO_DEVICE),
    "workers -1": (lambda: evaluate(linear(), workers=-1), "expected workers to be a whole number of at least 0"),
    "workers 1.5": (lambda: evaluate(linear(), workers=1.5), "found 1.5; change it"),
    "a lock": (
        lambda: evaluate(having(threading.Lock())),
        "expected a module that can be copied, found TypeError: cannot pickle '_thread.lock' object; remove the ",
    ),
    "a generator": (lambda: evaluate(having(x for x in "")), "pickle 'generator'"),
    "no weights": (
        lambda: evaluate(linear().to("meta")),
        "expected weights as tensors with values, but 1.weight is on the meta device, not yet initialized, ",
    ),
    "lazy weights": (lambda: evaluate(nn.Sequential(nn.Flatten(), nn.LazyLinear(8))), "but 1.weight is on the meta"),
    "a network in a function": (
        lambda: evaluate(calls_another(nn.BatchNorm1d(8))),
        "expected Returns to call its submodules only, found a BatchNorm1d in a function, list or dict",
    ),
    "dropout in a list": (
        lambda: evaluate(calls_another(nn.Dropout())),
        "found a Dropout in a function, list or dict",
    ),
    "statistics of larger batches": (
        lambda: evaluate(Returns(lambda x: nn.BatchNorm1d(8)(x) if len(x) > 1 else x)),
        "found a BatchNorm1d in a function, list or dict",
    ),
    "dropout in training": (
        lambda: evaluate(Returns(nn.functional.dropout)),
        "but two passes of the same images differ in output; remove dropout, noise and statistics of the batch",
    ),
    "statistics of a batch": (lambda: evaluate(Returns(lambda x: x - x.mean(0))), "two passes of the same images diff"),
    "a copy of nothing": (
        lambda: evaluate(nn.Sequential(nn.Flatten(), ReturnsItself(768, 8))),
        "expected a copy of Sequential, found parts of the module itself in it; change __deepcopy__",
    ),
    "a conversion": (
        lambda: evaluate(ConvertsItsInput()),
        "its copy is in float32, and its forward converts to another precision; remove the conversion",
    ),
    "memory": (lambda: evaluate(Returns(exhausted)), "CUDA out of memory; free memory of the device, or choose ano"),
    "a flip": (lambda: evaluate(linear(), flips), "expected a transform that always returns the same tensor, found a"),
    "a forward of the instance": (lambda: evaluate(patched()), "found a Conv2d in a function, list or dict"),
    "a tuple": (lambda: evaluate(Returns(lambda x: (x, x))), f"{ONE_VECTOR}tuple; wrap the model in a module"),
    "a dict": (lambda: evaluate(Returns(lambda x: {"x": x})), f"{ONE_VECTOR}dict; "),
    "complex": (lambda: evaluate(Returns(lambda x: x + 1j)), f"{ONE_VECTOR}torch.complex64"),
    "integers": (lambda: evaluate(Returns(lambda x: x.long())), f"{ONE_VECTOR}torch.int64"),
    "sparse": (lambda: evaluate(Returns(lambda x: x.to_sparse())), f"{ONE_VECTOR}torch.float32, torch.sparse_coo"),
    "NaN": (lambda: evaluate(Returns(lambda x: x * torch.nan)), "expected finite float16 features, found 1024 of 1024"),
    "another size": (
        lambda: evaluate(linear(), api.EvaluationTransform(8)),
        "expected model(images) to return features, found RuntimeError for images (4, 3, 8, 8): mat1 and mat2 shapes",
    ),
    "no forward": (lambda: evaluate(nn.Module()), "found NotImplementedError for images (4, 3, 16, 16): "),
    "no function": (lambda: evaluate(linear(), "x"), f"{TENSOR}S, S), found TypeError: 'str' object is not callable"),
    "an error of it": (lambda: evaluate(linear(), lambda _: {}["x"]), f"{TENSOR}S, S), found KeyError: 'x' for a "),
    "bytes": (lambda: evaluate(linear(), lambda _: torch.zeros(3, 16, 16).byte()), "found torch.uint8 (3, 16, 16)"),
    "gray": (lambda: evaluate(linear(), lambda _: torch.zeros(1, 16, 16)), "found torch.float32 (1, 16, 16) for a "),
    "no pixels": (lambda: evaluate(linear(), lambda _: torch.zeros(3, 0, 0)), "found torch.float32 (3, 0, 0) for a "),
    "not finite": (lambda: evaluate(linear(), lambda _: torch.full((3, 4, 4), torch.nan)), "found NaN or infinite "),
    "sizes of their own": (
        lambda: evaluate(linear(), only_once),
        f"{TENSOR}16, 16), found torch.float32 (3, 24, 8) for a picture of 8 x 8 pixels; resize, crop to a square",
    ),
    "size 0": (lambda: api.EvaluationTransform(0), "expected size of a transform to be a whole number of at least 1"),
    "two means": (lambda: api.EvaluationTransform(8, mean=(0, 0)), "expected mean to be a number for each of 3 chan"),
    "std 0": (lambda: api.EvaluationTransform(8, std=(1, 1, 0)), "expected std to be positive, found (1, 1, 0); "),
    "interpolation": (lambda: api.EvaluationTransform(8, interpolation="x"), "unknown interpolation 'x'; choose one "),
    "no evaluation": (lambda: evaluate(linear(), evaluation=None), "unknown evaluation None; choose one of: aro, "),
    "two presets": (lambda: evaluate(linear(), preset=["dino"]), "unknown preset of knn ['dino']; did you mean dino?"),
    "no datasets": (lambda: evaluate(linear(), datasets=None), "expected datasets by name, found None; leave them out"),
    "a number": (lambda: evaluate(linear(), datasets=[3]), "unknown dataset of these evaluations 3; choose one of: "),
    "datasets of nothing": (lambda: api.list_datasets(3), "unknown evaluation 3; choose one of: "),  # type: ignore[arg-type]
    "a tokenizer": (lambda: evaluate(linear(), tokenizer=3), "expected a function as tokenizer, found int; see "),
    "images of a caption": (
        lambda: api.Sampling(images=0),
        "expected images of a Sampling to be a whole number",
    ),
    "crops": (lambda: api.Sampling(crops=1.5), "expected crops of a Sampling to be a whole number"),  # type: ignore[arg-type]
    "augmentation": (
        lambda: api.Sampling(augmentation=None),  # type: ignore[arg-type]
        "expected an Augmentation, found NoneType; pass `Augmentation(...)`",
    ),
    "flip": (lambda: api.Augmentation(flip=3), "expected flip to be a probability, from 0 to 1, found 3; change it"),
    "scale": (lambda: api.Augmentation(scale=(1, 0.1)), "expected scale to be two fractions of the area, found (1, 0."),
    **{
        f"scale {scale}": (lambda scale=scale: api.Augmentation(scale=scale), "expected scale to be two fractions of ")  # type: ignore[misc]
        for scale in ((0.5,), 0.5, None)
    },
    "no probability": (lambda: api.Augmentation(flip="x"), "expected flip to be a probability, from 0 to 1, found 'x'"),  # type: ignore[arg-type]
    "a dataset of nothing": (
        lambda: api.load_dataset(None),
        "expected a path, found NoneType; pass a string or",
    ),  # type: ignore[arg-type]
    "a file": (lambda: api.load_dataset(__file__), "expected the folder of a dataset, found "),
    "no folder": (lambda: api.load_dataset("/no/such/folder"), "expected the folder of a dataset, found /no/such/fold"),
    "records of nothing": (lambda: api.read_records(None), "expected a path, found NoneType"),  # type: ignore[arg-type]
    "no such seed": (lambda: api.read_records(RECORDS, seed=99), "unknown seed 99; choose one of: 0, 1, 2"),
    "a seed as text": (lambda: api.read_records(RECORDS, seed="0"), "unknown seed '0'; did you mean 0?"),
    "a path": (lambda: api.read_records(RECORDS, path=Path("x")), "unknown path PosixPath('x'); "),
    "no value": (lambda: api.read_records(RECORDS, seed=[]), "expected records with {'seed': []}, found none"),
    "two tables": (
        lambda: api.compare(api.read_records(RECORDS), api.read_records(RECORDS)),
        "expected two names, or the scores of two models, found DataFrame and DataFrame; name or evaluate both",
    ),
    "compare by nothing": (
        lambda: api.compare("a/b", "a/c", RECORDS, "nope"),
        "unknown evaluation 'nope'; choose one of: aro, ",
    ),
    "two comparisons": (
        lambda: api.plot_comparison(["x"], records=RECORDS),
        "unknown comparison in these records ['x",
    ),  # type: ignore[arg-type]
    "no trade-off": (
        lambda: api.plot_trade_off(__file__),
        "expected the output of `python -m datasets_scripts.scenes.trade_off`, found ",
    ),
    "another file": (lambda: api.plot_trade_off(next(RECORDS.rglob("*.json"))), "choose another file"),
    "a folder": (lambda: api.plot_trade_off(RECORDS), "(not a regular file); choose another file"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_an_error_of_one_line(what: str) -> None:
    call, message = MISTAKES[what]
    with pytest.raises(UserError) as error:
        call()
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_error_of_a_caller_is_in_the_traceback() -> None:
    with pytest.raises(UserError) as error:
        evaluate(Returns(lambda _: {}["x"]))
    assert isinstance(error.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "change",
    [
        {"captions": 0}, {"captions": 1.5}, {"size": 0}, {"size": "16"}, {"steps": -1}, {"seed": -1}, {"seed": 2**32},
        {"workers": -1}, {"workers": None}, {"device": "gpu"}, {"device": "cuda:99"}, {"sampling": None}, {"data": "x"},
    ],
)  # fmt: skip
def test_mistakes_in_batches(small_dataset: Path, change: dict[str, Any]) -> None:
    usual = {"data": api.load_dataset(small_dataset), "sampling": "simclr", "captions": 4, "size": 16}
    with pytest.raises(UserError, match=r"^expected .*, found .*; "):
        api.iterate_batches(**(usual | change))


@pytest.mark.parametrize("row", [-1, 10**6, "a", 1.5])
def test_there_is_no_such_caption(small_dataset: Path, row: Any) -> None:
    data = api.load_dataset(small_dataset)
    for read in (data.caption, data.available_images, lambda row: data.images(row, [0])):
        with pytest.raises(UserError, match=r"expected .*row .*, found "):
            read(row)


@pytest.mark.parametrize("indices", [[4], [-1], [0, 4], []])
def test_there_is_no_such_image(small_dataset: Path, indices: list[int]) -> None:
    with pytest.raises(UserError, match=re.escape(f"expected images of [0, 1, 2, 3] of caption 5, found {indices}; ")):
        api.load_dataset(small_dataset).images(5, indices)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_compute_in_float32(kind: torch.dtype) -> None:
    rounded = linear().to(kind)
    assert np.array_equal(features(rounded), features(linear().to(kind).float()))
    assert rounded[1].weight.dtype == kind
    vit = timm.create_model("test_vit", img_size=32, pretrained_cfg_overlay={"input_size": (3, 32, 32)}).to(kind)
    assert np.isfinite(features(vit, None)).all()


def test_wrappers_of_torch_do_not_change_the_model() -> None:
    wanted = wrap_module(linear(), TRANSFORM, None, Freeze())
    for wrapped in (torch.compile(linear(), backend="eager"), nn.DataParallel(linear())):
        found = wrap_module(wrapped, TRANSFORM, None, Freeze())
        assert found.origin == wanted.origin
        assert np.array_equal(found.model.features(tiny_models.pictures()), features(linear()))


def test_a_part_may_be_compiled() -> None:
    wanted = wrap_module(linear(), TRANSFORM, None, Freeze())
    model = linear()
    model[1] = torch.compile(nn.DataParallel(model[1]), backend="eager")  # type: ignore[assignment]
    found = wrap_module(model, TRANSFORM, None, Freeze())
    assert found.origin == wanted.origin
    assert np.array_equal(found.model.features(tiny_models.pictures()), features(linear()))
    assert isinstance(model[1], torch._dynamo.OptimizedModule)


def test_extra_state_may_be_any_object() -> None:
    class Extra(nn.Sequential):
        def get_extra_state(self) -> dict[str, int]:
            return {"a": 1}

        def set_extra_state(self, state: object) -> None:
            """There is nothing to set."""

    assert np.array_equal(features(Extra(*linear())), features(linear()))


def test_other_threads_may_call_other_networks() -> None:
    found: list[Tensor] = []

    def call_in_a_thread(output: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: found.append(nn.Linear(2, 2)(torch.zeros(1, 2))))
        thread.start()
        thread.join()
        return output

    wrap_module(Returns(call_in_a_thread), TRANSFORM, None, Freeze())
    assert len(found) == 3  # two passes, and one for the names of the layers


def test_what_a_forward_pass_has_kept_is_copied() -> None:
    model = linear()
    wanted = features(model)
    model.last = model(torch.zeros(1, 3, 16, 16))  # a tensor with a graph
    assert np.array_equal(features(model), wanted)
    normed = nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(3 * 16 * 16, 8)))
    assert features(normed).shape == (3, 8)


def test_a_transform_may_have_lists() -> None:
    assert api.EvaluationTransform(8, mean=[0.5] * 3, std=np.ones(3)) == api.EvaluationTransform(  # type: ignore[arg-type]
        8, mean=(0.5,) * 3, std=(1.0,) * 3
    )


def state(model: nn.Module) -> list[Any]:
    weights = [(name, value.clone(), value.device, value.dtype) for name, value in model.state_dict().items()]
    parameters = [(id(each), each.requires_grad, each.grad is None) for each in model.parameters()]
    return [weights, [each.training for each in model.modules()], parameters, len(model._forward_hooks)]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_module_is_left_as_it_was_found(compiled: bool) -> None:
    model = trained()
    if compiled:
        model.compile(backend="eager")
    before = state(model)
    evaluate(model)
    weights, *others = state(model)
    assert others == before[1:]
    for (name, value, *kind), (_, was, *was_kind) in zip(weights, before[0], strict=True):
        assert torch.equal(value, was) and kind == was_kind, name
    assert len(nn.modules.module._global_forward_pre_hooks) == 0


def test_random_states_are_left_as_they_were_found() -> None:
    """A module, or a package that is imported, may draw from the generators of the process."""

    def draw(output: Tensor) -> Tensor:
        return output + torch.rand(()) * 0 + np.random.rand() * 0 + random.random() * 0

    model = Returns(draw)
    states = torch.random.get_rng_state(), np.random.get_state()[1:3], random.getstate()
    evaluate(model)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1][0]) and np.random.get_state()[2] == states[1][1]
    assert random.getstate() == states[2]


class Towers(nn.Module):
    """Two towers without parameters."""

    def encode_image(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens.float().repeat(1, 3)


def test_mistakes_of_a_tokenizer() -> None:
    def embed(tokenizer: Any) -> np.ndarray:
        return wrap_module(Towers(), TRANSFORM, tokenizer, Freeze()).model.text_embeddings(["a", "b"])

    assert embed(lambda texts: torch.ones(len(texts), 1)).shape == (2, 3)
    with pytest.raises(UserError, match=r"expected encode_text\(tokenizer\(texts\)\) to return features, found Attr"):
        embed(lambda texts: [1] * len(texts))
    with pytest.raises(UserError, match=r"to return features, found ZeroDivisionError: division by zero; "):
        embed(lambda texts: 1 / 0)


def test_a_text_tower_has_only_submodules() -> None:
    class Hidden(Towers):
        def encode_text(self, tokens: Tensor) -> Tensor:
            return nn.BatchNorm1d(3)(super().encode_text(tokens))  # type: ignore[no-any-return]

    with pytest.raises(UserError, match="expected Hidden to call its submodules only, found a BatchNorm1d in a "):
        wrap_module(Hidden(), TRANSFORM, lambda texts: torch.ones(len(texts), 1), Freeze())
