"""What every test module shares."""

import os
import subprocess

import pytest

# Tests run side by side: threads would wait for each other's, OpenMP's do so at full work. Before numpy is imported.
for _name in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
):
    os.environ.setdefault(_name, "1")


@pytest.fixture(scope="session", autouse=True)
def _warm():
    """Workers are forks of processes that have their framework, see `tests.support.warm`."""
    from tests.support import warm

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("densenet_port.prove.worker.subprocess", warm.Worker)
        yield
    warm.stop_all()


SMALL = "layers=2-3-2,growth_rate=8,init_channels=16,classes=7"  # the same shape of code as the published networks


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Small torchvision checkpoints of every form, written by torch: form → path."""
    from tests.support.networks import FORMS, checkpoint_file

    folder = tmp_path_factory.mktemp("checkpoints")
    return {form: checkpoint_file(folder, SMALL, form) for form in FORMS}


@pytest.fixture
def small(files):
    """A small torchvision checkpoint as `torch.save` writes it today."""
    return files["zip"]


@pytest.fixture(scope="session")
def tensorflow(tmp_path_factory):
    """A folder of what TensorFlow and Keras write, of one small network; nobody changes it."""
    from tests.support import warm

    folder = tmp_path_factory.mktemp("tensorflow")
    warm.keras("tests.support.tensorflow_script", folder)
    return folder


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """A release of two small networks with random weights; nobody changes it."""
    from tests.support.releases import SPECS, built, sources

    folder = tmp_path_factory.mktemp("releases")
    built(folder, sources(folder, *SPECS), *SPECS)
    return folder / "release"


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Two key pairs: private and public of each."""
    folder = tmp_path_factory.mktemp("keys")
    found = []
    for name in ("ours", "theirs"):
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        for words in (
            ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private),
            ("ec", "-in", private, "-pubout", "-out", public),
        ):
            subprocess.run(["openssl", *words], check=True, capture_output=True)
        found += [private, public]
    return found


STORE = 80 * 2**20  # bytes of a Ray node's object store, about the least that it takes
SOON = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
    "worker_niceness": 0,
}


@pytest.fixture(scope="session")
def nodes():
    """A cluster whose head does nothing, with one node of one CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # as other tests: Ray's workers make way for whatever else runs
        patch.setenv("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False, "_system_config": SOON}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.add_node(num_cpus=1, object_store_memory=STORE)
        yield cluster
        cluster.shutdown()
