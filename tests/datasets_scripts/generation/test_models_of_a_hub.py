"""Text-to-image models are downloaded at their pinned revision by the real clients, or fail with a one-line error."""

import subprocess
import sys

import pytest

from tests.fixtures import tiny_diffusion
from tests.fixtures.fake_hub import CUT, Hub
from tests.fixtures.tiny_diffusion import SIDE

SCRIPT = f"""
import sys
from benchmark.errors import UserError
from datasets_scripts.generation.diffusion import Diffusers, StableDiffusion
from datasets_scripts.text_to_image import Cost
options = dict(steps=2, size={SIDE}, stored={SIDE}, dtype="float32", batch=1)
for case in sys.argv[1:]:
    kind, model, revision = case.split("@")
    more = options if kind == "sd" else options | dict(cost=Cost(bytes=1))
    draw = dict(sd=StableDiffusion, other=Diffusers)[kind](model=model, revision=revision, terms=(), **more)
    try:
        (drawn,) = draw(["a cat"], [7], [3.0])
        print("drawn", drawn.image.astype(int).sum())
    except UserError as error:
        print(error)
"""
"""Arguments: kind@model@revision, one per case. Each case prints one line."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with `org/model`, whose main branch has a newer commit, and `org/gated`."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "empty").mkdir()
    with Hub(folder / "store", xet=False) as server:
        server.local = tiny_diffusion.stable_diffusion(folder / "first")  # type: ignore[attr-defined]
        server.first = server.put("org/model", folder / "first" / "model")  # type: ignore[attr-defined]
        server.put("org/model", folder / "empty", message="no model any more")
        server.put("org/gated", folder / "first" / "model")
        server.repo("org/gated", "models").gated = True
        yield server


def lines(hub, home, *cases, **env):
    command = [sys.executable, "-c", SCRIPT, *cases]
    ran = subprocess.run(command, env=hub.environment(home, **env), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_pinned_revision_is_used_and_cached(hub, tmp_path):
    pinned = f"sd@org/model@{hub.first}"
    here, fetched = lines(hub, tmp_path, f"sd@{hub.local}@", pinned)
    assert here == fetched and here.startswith("drawn")
    asked = len(hub.requests)
    (cached,) = lines(hub, tmp_path, pinned, HF_HUB_OFFLINE="1")
    assert cached == here and len(hub.requests) == asked


def test_unavailable_model_is_one_line(hub, tmp_path):
    gone = "a" * 40
    kinds = ("sd", "other")
    cases = [
        f"{kind}@{model}" for kind in kinds for model in (f"org/none@{gone}", f"org/model@{gone}", "org/gated@main")
    ]
    said = [
        f"cannot load org/none at revision {gone}: it does not exist on the Hub",
        f"cannot load org/model at revision {gone}: it has no revision",
        "cannot load org/gated at revision main: it is gated; ask for access on its page",
    ]
    found = lines(hub, tmp_path, *cases)
    assert len(found) == 6
    assert all(line.startswith(words) for line, words in zip(found, said * 2, strict=True)), found


def test_uncached_model_offline_is_one_line(hub, tmp_path):
    (line,) = lines(hub, tmp_path, f"sd@org/model@{hub.first}", HF_HUB_OFFLINE="1")
    assert "it is not in the cache and HF_HUB_OFFLINE is set" in line


def test_unreachable_hub_is_one_line(hub, tmp_path):
    hub.fail("org/model", CUT, times=1000)
    try:
        (line,) = lines(hub, tmp_path, f"sd@org/model@{hub.first}")
        assert "the Hub cannot be reached" in line
    finally:
        hub.faults.clear()
