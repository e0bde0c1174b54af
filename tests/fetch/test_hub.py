"""Places on the Hugging Face Hub: huggingface_hub fetches them from a server here that answers as the Hub does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

import densenet_port as dp
from densenet_port.errors import CorruptError, MisfitError, NetworkError, PortError, UsageError
from densenet_port.fetch.hub import place_of
from tests.support.hub import WRITER, Hub

ROOT = Path(__file__).parents[2]
REPO = "octo/densenet"
CONFIG = {
    "architecture": "densenet121",
    "num_classes": 7,
    "model_args": {"growth_rate": 8, "block_config": [2, 3, 2]},
    "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]},
}
LOGIN = "`hf auth login`, or a token in HF_TOKEN"


@pytest.fixture(scope="module")
def weights(files):
    """A small checkpoint's bytes, and those of its two halves."""
    return files["safetensors"].read_bytes()


@pytest.fixture
def hub(monkeypatch, tmp_path, weights):
    """The Hub with a repository that has two commits, and huggingface_hub in this process talking to it."""
    config = json.dumps(CONFIG).encode()
    with Hub() as server:
        server.make(REPO)
        old = {"config.json": config, "model.safetensors": weights, "pytorch_model.bin": b"x" * 9, "logs/a.txt": b"x"}
        server.commit(REPO, old, tag="v1")
        server.commit(REPO, {"best.safetensors": weights})
        with server.used(monkeypatch, tmp_path):
            yield server


def refused(place, kind=NetworkError):
    """What is said of a place, and the hint."""
    with pytest.raises(PortError) as caught:
        dp.read(place)
    assert type(caught.value) is kind
    return caught.value.message, caught.value.hint


def test_a_repository_is_a_source(hub, tmp_path):
    """Only what is needed is fetched, once; the commit is recorded, and what stands beside the weights is heard."""
    head, first = (hub.at(REPO, revision)[0] for revision in ("main", "v1"))

    network = dp.read(f"hf://{REPO}")
    asked = list(hub.log)
    done = dp.convert(f"hf://{REPO}@v1", out=tmp_path / "x.weights.h5")

    assert network.contract.input.mean == (0.1, 0.2, 0.3)
    assert network.checkpoint.metadata["hub"] == {"repo": REPO, "revision": head}
    assert sorted(path.name for path in network.checkpoint.path.parent.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert len([line for line in asked if line.startswith("GET /lfs/")]) == 1
    assert done.record["source"]["hub"] == {"repo": REPO, "revision": first}
    assert dp.read(tmp_path / "x.weights.h5").checkpoint.record["source"] == done.record["source"]
    assert len([line for line in hub.log if line.startswith("GET /lfs/")]) == 1  # it is in the cache


def test_a_file_of_a_repository(hub):
    """By its name, and with what stands beside it."""
    network = dp.read(f"hf://{REPO}@main/best.safetensors")

    assert (network.checkpoint.path.name, network.origins["input"]) == ("best.safetensors", "record")


def test_shards_are_fetched_by_their_index(hub, weights, tmp_path):
    """Those that the index names, and no other file of weights."""
    (tmp_path / "whole").write_bytes(weights)
    tensors = load_file(tmp_path / "whole")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    places = {name: file for file, part in halves.items() for name in part}
    hub.make("octo/shards")
    content = {file: (tmp_path / file).read_bytes() for file in halves} | {"c.safetensors": b"x"}
    hub.commit("octo/shards", content | {"model.safetensors.index.json": json.dumps({"weight_map": places}).encode()})

    network = dp.read("hf://octo/shards")

    folder = network.checkpoint.path.parent
    assert sorted(path.name for path in folder.iterdir()) == [*halves, "model.safetensors.index.json"]
    assert dp.diff(network, dp.read(tmp_path / "whole")).identical == len(network.weights)


def test_an_index_leads_out_of_no_repository(hub, tmp_path):
    """Whatever the repository says that it has."""
    places = {"t": "../../../x.safetensors"}
    listed = {"model.safetensors.index.json": json.dumps({"weight_map": places}).encode(), places["t"]: b"x"}
    hub.make("octo/out")
    hub.commit("octo/out", listed)

    with pytest.raises(CorruptError, match=r"the shard '../../../x.safetensors' is not in the index's folder"):
        dp.read("hf://octo/out")

    assert list(tmp_path.rglob("x.safetensors")) == []


def test_what_the_hub_refuses(hub):
    """No repository, a private one, a gated one, no revision, no file, none of weights, and what is down."""
    hub.make("octo/private", private=True)
    hub.make("octo/gated", gated=True)
    hub.put = hub.commit("octo/gated", {"model.safetensors": b"x"})
    hub.make("octo/notes")
    hub.commit("octo/notes", {"README.md": b"x"})

    for repo in ("octo/nothing", "octo/private"):
        assert refused(f"hf://{repo}") == (
            f"hf://{repo}: no such repository that you may see",
            f"is it spelled right? a private one needs {LOGIN}",
        )
    assert refused("hf://octo/gated") == (
        "hf://octo/gated: the repository is gated, and you have no access",
        f"accept its terms on its page, https://huggingface.co/octo/gated; then {LOGIN}",
    )
    assert refused(f"hf://{REPO}@v9") == (
        f"hf://{REPO}: has no revision 'v9'",
        "name a branch, a tag or a commit of it, or none for its default branch",
    )
    files = "config.json, model.safetensors, pytorch_model.bin, logs/a.txt, best.safetensors"
    assert refused(f"hf://{REPO}/x.pth") == (f"hf://{REPO}/x.pth: the repository has no such file", f"it has {files}")
    assert refused("hf://octo/notes", MisfitError) == (
        "hf://octo/notes: no file in it has one of the names that weights have on the Hub",
        "name one, such as hf://octo/notes/README.md; it has README.md",
    )
    hub.hooks.append(lambda method, path: (500, b"", {}))
    assert refused(f"hf://{REPO}@v1") == (
        f"hf://{REPO}@v1: the Hub answers with HTTP 500",
        "try again later; is HF_ENDPOINT right?",
    )


def test_a_token_opens_what_is_private(hub, monkeypatch, weights):
    """It is huggingface_hub's own, and no message shows it."""
    hub.make("octo/private", private=True)
    hub.commit("octo/private", {"model.safetensors": weights})
    monkeypatch.setenv("HF_TOKEN", WRITER)

    assert dp.read("hf://octo/private").architecture.classes == 7
    assert WRITER not in refused("hf://octo/nothing")[0]


def test_offline_the_cache_is_enough(hub, monkeypatch):
    """By either switch, or where there is no connection, which is said; what is not there is named."""
    revision = dp.read(f"hf://{REPO}").checkpoint.metadata["hub"]["revision"]
    hint = "go online once, or copy the Hub's cache from where it was fetched (HF_HOME)"
    hub.log.clear()

    with monkeypatch.context() as patch:
        patch.setenv("DENSENET_PORT_OFFLINE", "1")
        assert dp.read(f"hf://{REPO}").checkpoint.metadata["hub"]["revision"] == revision
        assert refused(f"hf://{REPO}@v1") == (
            f"hf://{REPO}@v1: DENSENET_PORT_OFFLINE is set, and its cache has nothing of it",
            hint,
        )
        assert refused(f"hf://{REPO}/best.safetensors")[0].endswith(
            "is set, and its cache has config.json, model.safetensors of it"
        )
    assert hub.log == []
    hub.server.shutdown()
    hub.server.server_close()
    (note,) = dp.read(f"hf://{REPO}").checkpoint.metadata["notes"]
    assert note.startswith(f"hf://{REPO}: the Hub cannot be reached (")
    assert note.endswith(f"): taken from its cache, revision {revision}")


def test_places_that_are_none():
    """What they mean, and what they may not be."""
    assert place_of("hf:/octo/densenet@refs/pr/1/a/b.pth") == ("octo/densenet", "refs/pr/1", "a/b.pth")
    assert place_of("hf://octo/densenet@a%2Fb/") == ("octo/densenet", "a/b", None)
    for text in ("hf://octo", "hf://datasets/octo/x", "hf:///x/y", "hf://octo/x/../y", "hf://octo/x/a/..\\..\\y"):
        with pytest.raises(UsageError, match="is no place on the Hub"):
            place_of(text)


def test_the_command_line_and_its_environment(hub, tmp_path):
    """HF_ENDPOINT and the cache are the environment's: convert, inspect, and an error without a trace."""
    environment = os.environ | hub.environment(tmp_path)

    def run(*words):
        command = [sys.executable, "-m", "densenet_port", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.returncode, done.stdout, done.stderr

    converted = run("convert", f"hf://{REPO}@v1", "--out", str(tmp_path / "x.weights.h5"), "--json")
    failed = run("inspect", "hf://octo/nothing")

    result = json.loads(converted[1])
    assert (converted[0], converted[2], result["target"]["path"]) == (0, "", str(tmp_path / "x.weights.h5"))
    assert result["contract"]["input"]["mean"] == [0.1, 0.2, 0.3]
    assert failed == (
        5,
        "",
        (
            "error: hf://octo/nothing: no such repository that you may see\n"
            f"  is it spelled right? a private one needs {LOGIN}\n"
        ),
    )
