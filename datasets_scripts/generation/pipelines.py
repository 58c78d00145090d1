"""Loading of pipelines of diffusers: from the Hub at a pinned revision, from a local folder, or from this package.

On a CPU one thread computes, so that sums have one order whatever the number of cores, and the workers of a build share
the cores.
"""

import contextlib
import functools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import file_sha256, sha256_json
from benchmark.hub.errors import explain
from datasets_scripts.recipe import revision_of
from datasets_scripts.text_to_image import Cost

BUNDLED = {"synrep-bench/scenes-diffusion": Path(__file__).parents[1] / "scenes" / "text_to_image"}
"""Id of a model that is part of this package -> its folder. Its revision is that of `content_revision`."""
MODEL_CARD = "README.md"
PROCESSORS, GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")
"""Where Linux describes the processors and NVIDIA's driver the GPUs of a node."""
NODE_FIELDS = ("model name", "flags", "CPU part", "Features", "Model")
"""Lines of these descriptions that name types: of x86 and ARM processors, and of GPUs."""


@contextlib.contextmanager
def compile_cache(folder: Path) -> Iterator[None]:
    """Keep the code that `torch.compile` makes in `folder`, unless the environment names another place.

    Compiling takes one or two minutes; the later processes of a build read what the first one wrote. Code is compiled
    for one type of processor, so nodes of other types have other subfolders.
    """
    name = "TORCHINDUCTOR_CACHE_DIR"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(folder / node_type())
    try:
        yield
    finally:
        del os.environ[name]


def node_type() -> str:
    """Return a name that nodes with equal types of processors and GPUs share."""
    reports = [PROCESSORS, *GPUS.glob("*/information")]
    lines = {" ".join(line.split()) for path in reports if path.exists() for line in path.read_text().splitlines()}
    described = sorted(line for line in lines if line.partition(":")[0].strip() in NODE_FIELDS)
    return f"{platform.machine()}-{sha256_json(described)[:12]}"


@functools.lru_cache(maxsize=1)
def load(model: str, revision: str, dtype: str, pipeline_class: str) -> Any:
    """Load a pipeline of diffusers. Weights must be safetensors.

    Raises:
        UserError: the model does not exist, is gated, has no such revision, is damaged, or cannot be downloaded.
    """
    import diffusers
    import torch
    import transformers
    from diffusers.utils import logging
    from huggingface_hub import errors

    for library in (logging, transformers.utils.logging):
        library.set_verbosity_error()  # no warning for each truncated caption
        library.disable_progress_bar()
    source = str(verified_folder(model, revision)) if model in BUNDLED else model
    options = {} if Path(source).is_dir() else {"revision": revision}
    try:
        return getattr(diffusers, pipeline_class).from_pretrained(
            source, dtype=getattr(torch, dtype), use_safetensors=True, **options
        )
    except (OSError, ValueError, errors.HTTPError) as error:  # re-exported from httpx
        reason = (
            explain(error, revision=revision) or f"{str(error).splitlines()[0]}; choose another model in the recipe"
        )
        raise UserError(f"cannot load {model} at revision {revision}: {reason}") from error


def content_revision(folder: Path) -> str:
    """Return a hash of the names and bytes of the files below a model's folder, except its card: 40 digits.

    Raises:
        OSError: a file cannot be read.
    """
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != MODEL_CARD)
    return revision_of({path.relative_to(folder).as_posix(): file_sha256(path) for path in paths})


def verified_folder(model: str, revision: str) -> Path:
    """Return the folder of a bundled model whose files have the revision.

    Raises:
        UserError: they have another one, or cannot be read.
    """
    folder = BUNDLED[model]
    try:
        found = content_revision(folder)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}; install SynRep-Bench again") from None
    if found != revision:
        raise UserError(
            f"{model}: expected revision {revision}, found {found} in {folder}; install SynRep-Bench again, or give "
            "the found revision in the recipe"
        )
    return folder


def device(cost: Cost) -> str:
    """Return "cuda" if this process has a GPU and the model is meant for one, else "cpu"."""
    import torch

    return "cuda" if cost.teraflops and torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def one_thread(device: Any) -> Iterator[None]:
    """Compute on one CPU core within the block, unless `device` is a GPU."""
    import torch

    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
