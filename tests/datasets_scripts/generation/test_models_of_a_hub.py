"""Text-to-image models are downloaded at their pinned revision by the real clients, or fail with a one-line error."""

import subprocess
import sys

import pytest

from tests.fixtures import tiny_diffusion
from tests.fixtures.fake_hub import CUT, Hub
from tests.fixtures.tiny_diffusion import SIDE

pytestmark = pytest.mark.slow

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


GONE = "a" * 40


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub with `org/model`, whose main branch has a newer commit, `org/gated`, and `org/silent`, which times out."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "empty").mkdir()
    with Hub(folder / "store", xet=False) as server:
        server.local = tiny_diffusion.stable_diffusion(folder / "first")  # type: ignore[attr-defined]
        server.first = server.put("org/model", folder / "first" / "model")  # type: ignore[attr-defined]
        server.newer = server.put("org/model", folder / "empty", message="no model any more")  # type: ignore[attr-defined]
        for name in ("gated", "silent"):
            server.put(f"org/{name}", folder / "first" / "model")
        server.repo("org/gated", "models").gated = True
        server.fail("org/silent", CUT, times=1000)
        yield server


def lines(hub, home, cases, **env):
    """Return case -> line, all of one process: importing the clients takes seconds."""
    command = [sys.executable, "-c", SCRIPT, *cases]
    ran = subprocess.run(command, env=hub.environment(home, **env), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return dict(zip(cases, ran.stdout.splitlines(), strict=True))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The cache of both processes."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def online(hub, home):
    models = (f"org/none@{GONE}", f"org/model@{GONE}", "org/gated@main")
    unavailable = [f"{kind}@{model}" for kind in ("sd", "other") for model in models]
    return lines(hub, home, [f"sd@{hub.local}@", f"sd@org/model@{hub.first}", *unavailable, "sd@org/silent@main"])


@pytest.fixture(scope="module")
def offline(hub, home, online):
    asked = len(hub.requests)
    found = lines(hub, home, [f"sd@org/model@{hub.first}", f"sd@org/model@{hub.newer}"], HF_HUB_OFFLINE="1")
    assert len(hub.requests) == asked
    return found


def test_pinned_revision_is_used_and_cached(hub, online, offline):
    pinned = f"sd@org/model@{hub.first}"
    assert online[f"sd@{hub.local}@"] == online[pinned] == offline[pinned]
    assert online[pinned].startswith("drawn")


@pytest.mark.parametrize("kind", ["sd", "other"])
def test_unavailable_model_is_one_line(kind, online):
    said = {
        f"org/none@{GONE}": f"cannot load org/none at revision {GONE}: it does not exist on the Hub",
        f"org/model@{GONE}": f"cannot load org/model at revision {GONE}: it has no revision",
        "org/gated@main": "cannot load org/gated at revision main: it is gated; request access on its page",
    }
    for model, words in said.items():
        assert online[f"{kind}@{model}"].startswith(words)


def test_uncached_model_offline_is_one_line(hub, offline):
    assert "it is not in the cache and HF_HUB_OFFLINE is set" in offline[f"sd@org/model@{hub.newer}"]


def test_unreachable_hub_is_one_line(online):
    assert "the Hub cannot be reached" in online["sd@org/silent@main"]
