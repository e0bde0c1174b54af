"""What may be a reference, and what agreeing with it is worth: no proof comes of a reading that both sides share."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from densenet_port.checkpoint import Checkpoint
from densenet_port.conversion.load import Network
from densenet_port.extras import SOFTWARE
from densenet_port.file_graph import FileGraph
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.layouts.match import Ledger
from densenet_port.layouts.scan import Place
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import ENTRIES
from densenet_port.prove import reference as references
from densenet_port.prove.images import Probe
from densenet_port.prove.job import PRECISIONS, Run
from densenet_port.prove.recording import Settings, plan
from densenet_port.prove.reference import Reference, dependence, read_by, reference_of

OTHER = {"epsilon": 3e-4, "stem_padding": "same", "stem_pool": "none", "pool_rounding": "ceil"}
IMAGENET = Architecture.named("121")
NUMBERS = {
    "andreasveit": Architecture.named("cifar-bc-100-12"),
    "fastai": replace(IMAGENET, head="no-relu/max+mean/norm/dense:512/relu/norm/dense"),
    "kuangliu": Architecture.named("layers=6-12-24-16,growth_rate=12,init_channels=24,stem=cifar"),
    "torchreid": replace(IMAGENET, head="mean/dense:512/norm/relu/dense"),
    "timm-blur": Architecture.named("121d"),
    "timm-deep": Architecture.named("264d"),
}
GRADES = {  # of a port that agrees with the reference of a file of weights in each layout
    "andreasveit": "agrees",
    "caffe": "proven",
    "fastai": "agrees",
    "flyyufelix": "agrees",
    "gluon": "agrees",
    "gpleiss": "agrees",
    "keras": "agrees",
    "keras-applications": "proven",
    "keras-hub": "proven",
    "kimm": "proven",
    "kuangliu": "agrees",
    "mmpretrain": "agrees",
    "monai": "proven",
    "onnx": "proven",
    "onnx-caffe2": "proven",
    "paddle": "agrees",
    "slim": "agrees",
    "timm-blur": "proven",
    "timm-deep": "proven",
    "titu1994": "agrees",
    "titu1994-v2": "agrees",
    "torchreid": "agrees",
    "torchvision": "proven",
    "torchxrayvision": "proven",
}
CLASSES = {  # software → what its class computes: epsilon, stem padding, stem pool, rounding of the average pools
    "keras-hub": [(1.001e-5, "same", "max", "floor")],
    "keras.applications": [(1.001e-5, "symmetric", "max", "floor")],
    "kimm": [(1e-5, "symmetric", "max", "floor")],
    "monai": [(1e-5, "symmetric", "max", "floor")],
    "timm": [(1e-5, "symmetric", "max", "floor"), (1e-5, "symmetric", "blur", "floor")],
    "torchvision": [(1e-5, "symmetric", "max", "floor")],
    "torchxrayvision": [(1e-5, "symmetric", "max", "floor")],
}
FILES = {"onnxruntime", "opencv"}  # they run the file itself


def network_of(layout, path, *, architecture=None, origin="software", metadata=None, **entries):
    """A network in a layout, with other entries of the contract, which come from `origin`. It has no tensors."""
    numbers = architecture or NUMBERS.get(layout.name, IMAGENET)
    ledger = Ledger(
        layout=layout,
        architecture=numbers,
        place=Place(),
        claims={},
        ignored={},
        missing={},
        unclaimed={},
        ambiguous={},
        wrong_shapes=(),
        kernels=None,
        kernels_assumed=False,
    )
    return Network(
        architecture=numbers,
        contract=replace(layout.contract, **entries),
        weights={},
        checkpoint=Checkpoint(path=path, container="", tensors={}, metadata=metadata or {}),
        ledger=ledger,
        origins=dict.fromkeys(ENTRIES, "software") | dict.fromkeys(entries, origin),
    )


def planned(network):
    """The recording that the planned runs of a network's reference give, each as its runner tells it."""
    reference = reference_of(network)
    probe = Probe(name="noise", images=np.zeros((2, 4, 4, 3), np.float32))
    runs = plan(network, reference.software, (probe,), Settings(), reference.because)
    done = [
        Run(
            logits=np.zeros((2, 1)),
            taps={},
            computed_in=precision,
            variables={},
            versions={},
            read_by=SOFTWARE[job.network].reads,
        )
        for precision in PRECISIONS
        for job in runs.jobs[precision]
    ]
    return runs.recording(done, 0.0)


def grade_of(recording):
    """What a port is graded that agrees with it in every number."""
    return "proven" if recording.independent else "agrees"


@pytest.fixture
def file(tmp_path):
    """A file, which nobody opens but for its digest."""
    (tmp_path / "weights").write_bytes(b"")
    return tmp_path / "weights"


def test_every_layout_has_a_grade():
    """And every software is a class, runs files, or reads by our tables."""
    assert (sorted(GRADES), sorted({*CLASSES, *FILES, "keras", "numpy"})) == (sorted(layouts()), sorted(SOFTWARE))


@pytest.mark.parametrize("layout", GRADES)
def test_a_layout_s_own_reference(layout, file):
    """A proof where its software reads the file, an agreement where our table does."""
    assert grade_of(planned(network_of(Layout.load(layout), file))) == GRADES[layout]


@pytest.mark.parametrize(("layout", "origin"), product(GRADES, ["graph", "record", "user", "assumed"]))
def test_a_class_is_no_reference_for_what_it_does_not_compute(layout, origin, file):
    """Whoever says of an entry that it is another one than the class's: numpy stands in, and proves nothing."""
    table = Layout.load(layout)
    for key, value in OTHER.items():
        if value != getattr(table.contract, key):
            recording = planned(network_of(table, file, origin=origin, **{key: value}))

            expected = "proven" if table.reference in FILES else "agrees"
            assert (key, grade_of(recording)) == (key, expected)


@pytest.mark.parametrize(("layout", "software"), product(GRADES, SOFTWARE))
def test_a_user_s_own_table_with_any_reference(layout, software, file, tmp_path):
    """It proves what that software runs of it: a file, or a class that computes what the table says."""
    path = tmp_path / "own.toml"
    path.write_bytes(Layout.load(layout).path.read_bytes())
    own = replace(Layout.load(path), reference=software)

    for entries in ({}, *({key: value} for key, value in OTHER.items())):
        network = network_of(own, file, origin="user", **entries)
        contract = network.contract
        computed = (contract.epsilon, contract.stem_padding, contract.stem_pool, contract.pool_rounding)
        deep = software == "timm" and network.architecture.stem == "deep"
        buildable = network.architecture == IMAGENET or deep or software in ("keras-hub", *FILES)
        proof = software in FILES or (computed in CLASSES.get(software, []) and buildable)
        assert (entries, grade_of(planned(network))) == (entries, "proven" if proof else "agrees")


@pytest.mark.parametrize("software", ["torchvision", "timm", "monai", "torchxrayvision", "keras.applications", "kimm"])
def test_numbers_that_a_class_cannot_have_leave_numpy(software, file):
    """A CIFAR network of torchvision's names is none of torchvision's."""
    layout = next(Layout.load(name) for name in layouts() if Layout.load(name).reference == software)
    network = network_of(layout, file, architecture=Architecture.named("cifar-bc-100-12"))

    assert reference_of(network) == Reference("numpy", f"{software} has no DenseNet cifar-bc-100-12")


@pytest.mark.parametrize("head", ["max+mean/dense", "no-relu/mean/dense", "mean/norm/dense"])
def test_another_head_than_a_class_has_leaves_numpy(head, file):
    """A class has the mean behind a ReLU, and one dense layer."""
    network = network_of(Layout.load("torchvision"), file, architecture=replace(IMAGENET, head=head))

    assert reference_of(network) == Reference("numpy", f"torchvision has no DenseNet {network.architecture.name}")


def test_software_that_runs_the_whole_file_asks_neither(file, monkeypatch):
    """Whatever its graph computes: what ran is the file."""
    whole = {**SOFTWARE, "torchvision": SOFTWARE["torchvision"]._replace(whole="whole")}
    monkeypatch.setattr(references, "SOFTWARE", whole)
    network = network_of(Layout.load("torchvision"), file, origin="graph", metadata={"whole": "model"}, epsilon=1e-3)
    network = replace(network, checkpoint=replace(network.checkpoint, graph=lambda: FileGraph(steps={}, outputs=())))
    bare = replace(network, checkpoint=replace(network.checkpoint, metadata={}))

    assert [reference_of(one).software for one in (network, bare)] == ["torchvision", "numpy"]


def test_of_several_runs_the_one_that_proves_least_counts(file):
    """OpenCV without a graph beside the file runs one of ours."""
    network = network_of(Layout.load("caffe"), file)
    probes = [Probe(name=name, images=np.zeros((2, 4, 4, 3), np.float32)) for name in "ab"]
    run = Run(logits=np.zeros((2, 1)), taps={}, computed_in="float32", variables={}, versions={}, read_by="file")

    runs = plan(network, "opencv", tuple(probes), Settings())

    assert runs.recording([run] * 4, 0.0).read_by == "file"
    assert runs.recording([run] * 3 + [replace(run, read_by="table")], 0.0).read_by == "table"


@pytest.mark.parametrize(
    ("metadata", "by"),
    [
        ({"name": "torchvision"}, "class"),
        ({"name": "keras.applications on tensorflow"}, "class"),
        ({"name": "onnxruntime"}, "file"),
        ({"name": "keras on jax"}, "table"),
        ({"name": "numpy"}, "table"),
        ({"name": "somebody's"}, "table"),
        ({"name": "mynet.Net", "read_by": "model"}, "model"),
        ({"name": "opencv", "read_by": "table"}, "table"),
    ],
)
def test_how_a_recording_came_by_the_network(metadata, by):
    """It says so; one that does not is known by its software, and nobody knows a stranger."""
    assert read_by(metadata) == by


def test_an_agreement_says_why_it_is_none_better(file):
    """The table, what the class has instead, what both sides take on somebody's word, and what would prove it."""
    network = network_of(Layout.load("torchvision"), file, origin="user", epsilon=1e-3)

    assert dependence(planned(network).metadata) == (
        "the reference (numpy) read the original by torchvision, the table that the port was made by; torchvision's "
        "own class has the epsilon 1e-05, the original 0.001 by your word; both sides take epsilon 0.001 by your word; "
        "what would prove the port: a recording of the original's own code (densenet-port record), or logits that the "
        "original's own software gives for the same images"
    )
