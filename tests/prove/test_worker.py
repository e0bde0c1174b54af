"""The references in their own processes, judged by numpy's forward pass; one process serves as many jobs as it can."""

import os
import pickle
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from densenet_port.checkpoint import array_digest
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import CorruptError, DiskError, MisfitError, PortError, UsageError
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.numpy import forward
from densenet_port.prove import worker
from densenet_port.prove.job import Job, Reading
from densenet_port.prove.runners import runner
from densenet_port.prove.worker import run, run_all
from tests.support.networks import checkpoint_file, images
from tests.support.ports import write_ours
from tests.support.random_weights import random_weights

SMALL = Architecture.named("layers=2-3-2,growth_rate=8,init_channels=16,classes=7")
DEEP = replace(SMALL, stem="deep")
TINY = Architecture.named("layers=1-1,growth_rate=4,init_channels=8,classes=7")
FULL = 1e-10  # of the logits' deviation: what two right float64 passes must agree to
SINGLE = 1e-5  # and two float32 passes of networks of this size
LAYER = {"block2.layer3.norm2": "features.denseblock2.denselayer3.norm2", "head.dense": "classifier"}


@pytest.fixture(scope="module", autouse=True)
def _cold():
    """Workers are really started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "subprocess", subprocess)
        yield


# -- helpers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """What makes a Keras job on random weights, in a file of our own."""
    folder = tmp_path_factory.mktemp("given")

    def job(architecture, contract=None, **how):
        path = folder / f"{len(list(folder.iterdir()))}.safetensors"
        write_ours(path, architecture, contract or Contract(), random_weights(architecture))
        pictures = images(2, 40, architecture.channels)[:, :34]
        return Job(network="keras", images=pictures, path=path, architecture=architecture, **how)

    return job


def by_numpy(job):
    """What numpy makes of a job, with its taps: float64, whatever the job computes in."""
    taps, source = {}, read(job.path)
    architecture = replace(source.architecture, classes=(job.architecture or source.architecture).classes)
    weights = {slot: source.weights[slot] for slot in architecture.slots}
    truth = forward(architecture, source.contract, weights, job.images, tap=taps.__setitem__)
    return truth, {unit: taps[unit] for unit in job.taps}


def apart(found, truth):
    """The largest difference, in deviations of the truth."""
    assert found.shape == truth.shape
    return float(np.abs(found - truth).max() / truth.std())


def farthest(job, result):
    """The largest difference of a run's logits and taps from numpy's, in their deviations."""
    truth, taps = by_numpy(job)
    assert list(result.taps) == list(taps)
    return max(apart(result.logits, truth), *(apart(result.taps[unit], taps[unit]) for unit in taps), 0.0)


def checkpoint(files, form="zip", **how):
    """A torchvision job on one of the small checkpoints."""
    how = {"architecture": SMALL, "dtype": "float64"} | how
    return Job(network="torchvision", images=images(2, 40)[:, :, :37], path=files[form], **how)


@dataclass
class Evil:
    """Unpickled, it makes a folder."""

    path: Path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@contextmanager
def started():
    """The processes that are started meanwhile."""
    processes, start = [], subprocess.Popen

    def noted(*command, **how):
        processes.append(start(*command, **how))
        return processes[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", noted)
        yield processes


def here(job):
    """What the worker would do, in this process, which has torch already."""
    return runner(job.network)(job)


# -- torchvision -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch_jobs(files, tmp_path_factory):
    """Title → torchvision job."""
    folder = tmp_path_factory.mktemp("heads")
    grey = Architecture.named("layers=1-2,growth_rate=4,init_channels=8,channels=1,bottleneck=2,classes=3")
    return {
        "zip": checkpoint(files, taps=LAYER),
        "float32": checkpoint(files, dtype="float32"),
        "hosted": checkpoint(files, "hosted"),
        "dotted": checkpoint(files, "dotted"),
        "half": checkpoint(files, "half"),
        "safetensors": checkpoint(files, "safetensors"),
        "parallel": checkpoint(files, "parallel", reading=Reading(prefix="module.")),
        "wrapped": checkpoint(files, "wrapped", reading=Reading(prefix="state_dict.")),
        "other head": checkpoint({"zip": other_head(files["zip"], folder)}, reading=Reading(head="classifier.0")),
        "no head": checkpoint(files, architecture=SMALL.without_head()),
        "grey": replace(
            checkpoint({"zip": checkpoint_file(folder, grey, "zip")}, architecture=grey), images=images(1, 30, 1)
        ),
    }


def other_head(path, folder):
    """The checkpoint with its head in a Sequential, as fine-tuned networks have it."""
    import torch

    state = {name.replace("classifier.", "classifier.0."): value for name, value in torch.load(path).items()}
    torch.save(state, folder / "other_head.pth")
    return folder / "other_head.pth"


@pytest.fixture(scope="module")
def torch_runs(torch_jobs):
    return dict(zip(torch_jobs, run_all(list(torch_jobs.values())), strict=True))


@pytest.mark.parametrize(
    "title",
    ["zip", "hosted", "dotted", "half", "safetensors", "parallel", "wrapped", "other head", "no head", "grey"],
)
def test_torchvision_runs_checkpoints_of_every_form_in_float64(torch_jobs, torch_runs, title):
    result = torch_runs[title]

    assert result.computed_in == "float64"
    assert farthest(torch_jobs[title], result) <= FULL


def test_torchvision_in_float32_says_so(torch_jobs, torch_runs):
    result = torch_runs["float32"]

    assert (result.computed_in, result.logits.dtype.name) == ("float32", "float32")
    assert FULL < farthest(torch_jobs["float32"], result) <= SINGLE


def test_a_run_tells_what_the_network_held(files, torch_runs):
    """Digests of torch's variables, in the run's dtype, are those of the file's tensors."""
    tensors = read(files["zip"]).checkpoint.tensors
    floating = {name: tensor.load() for name, tensor in tensors.items() if tensor.dtype == "float32"}

    assert torch_runs["float32"].variables == {name: array_digest(array) for name, array in floating.items()}


def test_a_run_tells_who_took_part(torch_runs):
    assert list(torch_runs["zip"].versions) == ["python", "numpy", "torch", "torchvision"]


def test_a_checkpoint_of_another_network_is_a_misfit(files):
    with pytest.raises(MisfitError) as error:
        here(checkpoint(files, architecture=replace(SMALL, layers=(2, 3, 3))))

    assert "torchvision does not take it" in str(error.value)
    assert 'Missing key(s) in state_dict: "features.denseblock3.denselayer3.norm1.weight"' in str(error.value)


def test_a_wrong_prefix_is_a_misfit(files):
    with pytest.raises(MisfitError, match=r"Missing key\(s\) in state_dict"):
        here(checkpoint(files, "parallel", reading=Reading(prefix="model.")))


def test_a_file_that_torch_does_not_read_is_corrupt(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")

    with pytest.raises(CorruptError, match=r"bad\.pth: torch does not read it"):
        here(checkpoint({"zip": tmp_path / "bad.pth"}))


def test_a_file_that_would_run_code_is_not_loaded(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))

    with pytest.raises(CorruptError, match=r"evil\.pth: torch does not read it"):
        here(checkpoint({"zip": tmp_path / "evil.pth"}))

    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(DiskError, match=r"absent\.pth: cannot be read: No such file or directory"):
        here(checkpoint({"zip": tmp_path / "absent.pth"}))


def test_a_file_is_known_by_its_content(files, torch_runs, tmp_path):
    """Safetensors under torch's ending."""
    (tmp_path / "renamed.pth").write_bytes(files["safetensors"].read_bytes())

    result = here(checkpoint({"zip": tmp_path / "renamed.pth"}))

    assert apart(result.logits, torch_runs["zip"].logits) <= FULL


# -- Keras -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensorflow_jobs(given, files, tmp_path_factory):
    """Title → job for Keras on TensorFlow."""
    applications = tmp_path_factory.mktemp("applications") / "121.h5"
    convert(checkpoint_file(applications.parent, "121", "zip", classes=7), out=applications, dst="keras-applications")
    full = {"dtype": "float64"}
    every, deep = ({unit: unit.replace(".", "_") for unit in network.units} for network in (SMALL, DEEP))
    return {
        "last": given(SMALL, taps=every, **full),
        "first": given(SMALL, data_format="channels_first", taps=every, **full),
        "same, first": given(
            SMALL, Contract(stem_padding="same", epsilon=1.1e-5), data_format="channels_first", **full
        ),
        "same": given(SMALL, Contract(stem_padding="same"), **full),
        "cifar": given(replace(SMALL, bottleneck=0, stem="cifar", reduction=0.0), Contract(epsilon=1e-3), **full),
        "deep, blur, ceil": given(DEEP, Contract(stem_pool="blur", pool_rounding="ceil"), taps=deep, **full),
        "deep, same": given(DEEP, Contract(stem_padding="same"), data_format="channels_first", taps=deep, **full),
        "no head": given(SMALL.without_head(), Contract(stem_padding="same"), **full),
        "no head, first": given(SMALL.without_head(), data_format="channels_first", **full),
        "file": Job(network="keras", images=images(2, 40), path=files["zip"], **full),
        "float32": given(SMALL, taps=every),
        "applications": Job(
            network="keras.applications",
            images=images(1, 34),
            path=applications,
            architecture=replace(Architecture.named("121"), classes=7),
            taps={"block1.layer1.norm1": "conv2_block1_0_bn"},
            **full,
        ),
    }


@pytest.fixture(scope="module")
def tensorflow_runs(tensorflow_jobs):
    """By a process that was begun before it had anything to run."""
    with started() as processes, worker.Processes() as own:
        own.begin("tensorflow")
        runs = run_all(list(tensorflow_jobs.values()), processes=own)
        assert len(processes) == 1
    return dict(zip(tensorflow_jobs, runs, strict=True))


@pytest.mark.parametrize(
    "title",
    [
        *("last", "first", "same, first", "same", "cifar", "deep, blur, ceil", "deep, same"),
        *("no head", "no head, first", "file", "applications"),
    ],
)
def test_keras_on_tensorflow_is_numpys_network_in_float64(tensorflow_jobs, tensorflow_runs, title):
    """Logits and every tapped unit, in either order of the input's axes."""
    result = tensorflow_runs[title]

    assert result.computed_in == "float64"
    assert farthest(tensorflow_jobs[title], result) <= FULL


def test_keras_on_jax_is_numpys_network_with_a_deep_stem_a_blur_pool_and_rounding_up(given):
    """And says which it computed in: JAX says float32. The torch backend is tested with the models."""
    job = given(DEEP, Contract(stem_pool="blur", pool_rounding="ceil"), backend="jax", threads=1)
    wide = given(TINY, backend="jax", dtype="float64", data_format="channels_first", threads=1)

    result, narrow = run_all([job, wide])

    assert farthest(job, result) <= SINGLE
    assert narrow.computed_in == "float32"
    assert FULL < farthest(wide, narrow) <= SINGLE


def test_keras_on_tensorflow_in_float32_says_so(tensorflow_jobs, tensorflow_runs):
    result = tensorflow_runs["float32"]

    assert result.computed_in == "float32"
    assert FULL < farthest(tensorflow_jobs["float32"], result) <= SINGLE


def test_keras_holds_the_very_bits(tensorflow_jobs, tensorflow_runs):
    weights = random_weights(tensorflow_jobs["float32"].architecture)

    assert tensorflow_runs["float32"].variables == {str(slot): array_digest(array) for slot, array in weights.items()}


def test_a_float64_run_that_was_none_is_noticed(given):
    """Keras says float64 on torch, and computes in float32."""
    job = given(TINY, backend="torch", dtype="float64", data_format="channels_first", threads=1)

    result = run(job)

    assert result.computed_in == "float32"
    assert FULL < farthest(job, result) <= SINGLE


# -- refusals and accidents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "caffe"}, "no reference is caffe in float32"),
        ({"backend": "theano"}, "no reference is keras on theano in float32"),
        ({"dtype": "float16"}, "no reference is keras on tensorflow in float16"),
        ({"network": "torchvision", "architecture": None}, "torchvision in float32 must be told the architecture"),
        ({"network": "timm"}, "timm has no DenseNet layers=1-1,growth_rate=3,init_channels=8,classes=7"),
    ],
)
def test_a_job_that_cannot_be_run_is_refused_before_any_process(given, change, message):
    with pytest.raises(UsageError) as error:
        run(replace(given(replace(TINY, growth_rate=3)), **change))

    assert error.value.message == message


def test_no_jobs_give_no_runs():
    assert run_all([]) == []


def test_jobs_of_two_frameworks_share_no_process(given, files):
    with pytest.raises(UsageError, match="must share framework, backend and threads"):
        run_all([given(TINY), checkpoint(files)])


def test_torchvision_has_no_cifar_networks(files):
    with pytest.raises(UsageError, match="torchvision has no DenseNet cifar-40-12"):
        run(checkpoint(files, architecture=Architecture.named("cifar-40-12")))


def test_a_tap_that_the_network_lacks_is_named(files):
    with pytest.raises(UsageError, match=r"no module 'features\.norm9' to look at"):
        here(checkpoint(files, taps={"final.norm": "features.norm9"}))


def test_a_missing_framework_names_what_to_install(files, tmp_path, monkeypatch):
    """The worker sees this process's packages, and here torch is one that cannot be imported."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(UsageError) as error:
        run(checkpoint(files))

    assert error.value.message == "torch cannot be imported: No module named torch"
    assert error.value.hint == 'pip install "densenet-port[torch]"'


def stand_in(monkeypatch, folder, script):
    """Another program in Python's place."""
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_process_that_dies_shows_its_last_words(given, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, "seq 20 >&2; kill -SEGV $$")

    with pytest.raises(PortError) as error:
        run(given(TINY))

    how = signal.strsignal(signal.SIGSEGV)
    lines = "\n  ".join(map(str, range(13, 21)))
    assert error.value.message == f"keras on tensorflow in float32 ended with {how}\n  {lines}"


def test_a_process_that_fails_shows_its_exit_code(given, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, "echo out of memory >&2; exit 3")

    with pytest.raises(PortError) as error:
        run(given(TINY, backend="jax"))

    assert error.value.message == "keras on jax in float32 ended with exit code 3\n  out of memory"


def test_a_process_that_takes_too_long_is_stopped(given, tmp_path, monkeypatch):
    stand_in(monkeypatch, tmp_path, "echo still here >&2; exec sleep 60")

    with pytest.raises(PortError) as error:
        run(given(TINY), limit=0.5)

    assert error.value.message == "keras on tensorflow in float32 took longer than 0.5 s\n  still here"


def test_a_process_that_nobody_took_is_ended(given):
    """Jobs of another software, or of other threads, have a process of their own."""
    job = replace(given(TINY), network="numpy")

    with started() as processes, worker.Processes() as own:
        own.begin("tensorflow", 1)
        run_all([replace(job, threads=1)], processes=own)

    assert [process.returncode for process in processes] == [-signal.SIGKILL, 0]


# -- processes that are kept -----------------------------------------------------------------------------------------


@pytest.fixture
def kept():
    """Processes that stay for the next job, and those that were started."""
    with started() as processes, worker.Processes(kept=True) as own:
        yield own, processes
    assert all(process.returncode == -signal.SIGKILL for process in processes)


def test_a_process_that_is_kept_runs_the_next_jobs_too(given, kept):
    """Those of its software, threads and surroundings; and no run has anything of the one before."""
    own, processes = kept
    jobs = [replace(given(numbers), network="numpy", threads=1) for numbers in (TINY, SMALL)]
    own.begin("tensorflow", 1)

    runs = [*run_all(jobs, processes=own), *run_all(jobs[::-1], processes=own)]
    run_all([replace(jobs[0], threads=2)], processes=own)

    assert len(processes) == 2
    assert all(farthest(job, result) <= SINGLE for job, result in zip([*jobs, *jobs[::-1]], runs, strict=True))


def test_a_job_that_fails_ends_no_process_that_is_kept(given, kept, tmp_path):
    own, processes = kept
    job = replace(given(TINY), network="numpy")
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")

    with pytest.raises(CorruptError):
        run_all([replace(job, path=tmp_path / "bad.safetensors"), job], processes=own)
    (result,) = run_all([job], processes=own)

    assert len(processes) == 1
    assert farthest(job, result) <= SINGLE


def test_another_process_takes_the_place_of_one_that_ends(given, kept):
    own, processes = kept
    job = replace(given(TINY), network="numpy")
    run_all([job], processes=own)
    processes[0].kill()

    with pytest.raises(PortError, match=r"numpy in float32 was ended by signal 9 \(out of memory\?\)"):
        run_all([job], processes=own)

    assert farthest(job, run_all([job], processes=own)[0]) <= SINGLE


def test_a_process_that_is_kept_has_a_limit_for_each_job(given, kept, tmp_path, monkeypatch):
    own, _ = kept
    stand_in(monkeypatch, tmp_path, "exec sleep 60")

    with pytest.raises(PortError) as error:
        run_all([replace(given(TINY), network="numpy")], processes=own, limit=0.5)

    assert (error.value.message, error.value.hint) == ("numpy in float32 took longer than 0.5 s", worker.SLOW)


# -- what a process sees ---------------------------------------------------------------------------------------------


def test_the_worker_sees_one_backend_the_cpu_and_its_threads(given):
    environment = worker.environment("jax", 2)

    names = ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")
    assert [environment[name] for name in names] == ["jax", "", "2", "2"]
