"""Networks that run in Keras 3, on any of its backends."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

import numpy as np

from densenet_port.checkpoint import array_digest
from densenet_port.errors import MisfitError, UsageError
from densenet_port.extras import SOFTWARE, framework
from densenet_port.layouts.layout import Layout
from densenet_port.network import keras as keras_network
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract
from densenet_port.network.numpy import forward
from densenet_port.prove.job import Job, Run
from densenet_port.prove.runners import last, versions
from densenet_port.prove.runners.keras_file import Answers, run_file
from densenet_port.prove.runners.numpy import read_by_table

Shape = tuple[int | None, ...]
Build = Callable[[Job, Architecture, Shape], Any]  # a network of the job's file, for images of a shape `h w c`

FLOAT64 = 1e-10  # of the logits' deviation: what float64 keeps and float32 (1e-7 and more) cannot


def run_keras(job: Job) -> Run:
    """The model in a file that holds one; else our own Keras model of a file of any layout."""
    _set_keras(job)
    if job.whole and (answers := run_file(job)):
        return run_of(answers, job)
    network, digests = _own_network(job.bare())
    return _outputs(network, digests, _with_own_names(job) if job.whole else job)


def _with_own_names(job: Job) -> Job:
    """A job on a file of another layout, whose units are to be seen by the names of our own."""
    assert job.architecture is not None  # noqa: S101 (a whole file's network has one)
    names = Layout.load("keras").spell_units(job.architecture)
    return replace(job, taps={unit: names[unit] for unit in job.taps})


@lru_cache(maxsize=1)
def _own_network(job: Job) -> tuple[Any, dict[str, str]]:
    """The file's network in the dtype that Keras is set to, and its digests; kept for the next job on it."""
    network = read_by_table(job).keras(activation=None, data_format=job.data_format)
    return network, _slot_digests(network)


def _slot_digests(network: Any) -> dict[str, str]:
    """The digests of our own network's variables, by slot."""
    return _digests({str(slot): variable for slot, variable in keras_network.slots(network).items()})


def _digests(variables: Mapping[str, Any]) -> dict[str, str]:
    """Name → digest of a variable in Keras's axes."""
    numpy = framework("keras").ops.convert_to_numpy
    return {name: array_digest(numpy(variable)) for name, variable in variables.items()}


def run_applications(job: Job) -> Run:
    """Keras's own DenseNet, which it builds for one size of image."""
    build = _applications_within if job.reading.prefix else _applications
    return _run_owned(job, build, job.images.shape[1:])


def run_keras_hub(job: Job) -> Run:
    """KerasHub's backbone, or its classifier where the architecture has classes."""
    return _run_owned(job, _keras_hub, (None, None, job.images.shape[-1]))


def run_kimm(job: Job) -> Run:
    """The DenseNet of kimm, without the preparation of pixels that it can hold."""
    return _run_owned(job, _kimm, (None, None, job.images.shape[-1]))


def _run_owned(job: Job, build: Build, shape: Shape) -> Run:
    """The model in the file where it holds one; else the software's own network, which loads the file itself."""
    _set_keras(job)
    if job.whole and (answers := run_file(job)):
        return run_of(answers, job)
    if job.reading.within is not None:
        message = f"{job.path}: {job.network} loads a file as a whole, not what is within {job.reading.within}"
        raise UsageError(message, hint="save that network to a file of its own to have it run")
    if job.data_format != "channels_last":
        raise UsageError(f"{job.network} runs channels_last, not {job.data_format}")
    try:
        network, digests = _owned_network(job.bare(), build, shape)
    except (ValueError, OSError, KeyError) as error:
        raise MisfitError(f"{job.path}: {job.network} does not take it: {error}") from error
    return _outputs(network, digests, job)


@lru_cache(maxsize=1)
def _owned_network(job: Job, build: Build, shape: Shape) -> tuple[Any, dict[str, str]]:
    """A network in the dtype that Keras is set to, and its digests by path; kept for the next job on it.

    Keras numbers models of a class through the session; a new one gives the first its plain name.
    """
    framework("keras").backend.clear_session()
    assert job.architecture is not None  # noqa: S101 (`Job.require_runnable` saw to it)
    network = build(job, job.architecture, shape)
    return network, _digests({variable.path: variable for variable in network.variables})


def _applications(job: Job, numbers: Architecture, shape: Shape) -> Any:
    return _blank_applications(numbers, shape, weights=str(job.path))


def _blank_applications(numbers: Architecture, shape: Shape, weights: str | None = None) -> Any:
    return _constructor("keras.applications", numbers)(
        include_top=numbers.classes is not None,
        weights=weights,
        input_shape=shape,
        classes=numbers.classes or 1,
        classifier_activation=None,
    )


def _applications_within(job: Job, numbers: Architecture, shape: Shape) -> Any:
    """The same, where the file is of a model that a user built around it: a body and, behind it, a head.

    Keras loads such a file by how layers lie in one another; the model that is made for it here shares its layers with
    the network.
    """
    keras, network = framework("keras"), _blank_applications(numbers, shape)
    head = network.layers[-1] if numbers.classes is not None else None
    body = keras.Model(network.input, head.input) if head else network
    output = body(network.input)
    keras.Model(network.input, head(output) if head else output).load_weights(job.path)
    return network


def _kimm(job: Job, numbers: Architecture, shape: Shape) -> Any:
    return _constructor("kimm.models", numbers)(
        include_preprocessing=False,
        include_top=numbers.classes is not None,
        weights=job.path,
        input_shape=shape,
        classes=numbers.classes or 1,
        classifier_activation=None,
    )


def _constructor(module: str, numbers: Architecture) -> Callable[..., Any]:
    """A module's own DenseNet of the architecture's name. Raises UsageError where it has none."""
    name = f"DenseNet{numbers.name}"
    constructor: Callable[..., Any] | None = getattr(framework(module), name, None)
    if constructor is None:
        raise UsageError(f"{module} has no {name}")
    return constructor


def _keras_hub(job: Job, numbers: Architecture, shape: Shape) -> Any:
    """A network of any numbers; KerasHub fixes the stem's channels and the bottleneck, and refuses the file if not."""
    models = framework("keras_hub.models")
    network = models.DenseNetBackbone(
        stackwise_num_repeats=list(numbers.layers),
        image_shape=shape,
        compression_ratio=1 - cast("float", numbers.reduction),
        growth_rate=numbers.growth_rate,
    )
    head = job.path.with_name("task.weights.h5")
    if numbers.classes is not None:
        network = models.DenseNetImageClassifier(network, num_classes=numbers.classes)
        if job.path.name == "model.weights.h5" and head.is_file():  # a preset, whose head is in a file of its own
            network.load_task_weights(head)
            network.backbone.load_weights(job.path)
            return network
    network.load_weights(job.path)
    return network


def _set_keras(job: Job) -> Any:
    """Keras in the job's dtype, whatever the user's own settings, or an earlier job's, say."""
    keras = framework("keras")
    keras.config.set_floatx(job.dtype)
    keras.config.set_dtype_policy(job.dtype)
    keras.config.set_image_data_format("channels_last")
    return keras


def _outputs(network: Any, digests: Mapping[str, str], job: Job) -> Run:
    """One call of a network, not in training, with every tap as one more output."""
    keras = framework("keras")
    tapped = {unit: _layer(network, name).output for unit, name in job.taps.items()}
    first = job.data_format == "channels_first"
    images = job.images.astype(job.dtype, copy=False)
    given = images.transpose(0, 3, 1, 2) if first else images
    if job.repeated:
        outputs = {"logits": network.predict_on_batch(given)}
    else:
        outputs = keras.Model(network.input, {"logits": network.output, **tapped})(given, training=False)
    arrays = {name: np.asarray(keras.ops.convert_to_numpy(output)) for name, output in outputs.items()}
    logits = arrays["logits"]
    package, *more = SOFTWARE[job.network].packages
    return Run(
        logits=last(logits) if first else logits,
        taps={unit: arrays[unit] for unit in job.taps},
        computed_in=_precision() if logits.dtype == np.float64 else logits.dtype.name,
        variables=digests,
        versions=versions(package, job.backend, *more),
        read_by=SOFTWARE[job.network].reads,
    )


def run_of(answers: Answers, job: Job) -> Run:
    """The run of a model that Keras loaded from its file."""
    logits = answers.logits
    package, *more = SOFTWARE["keras"].packages
    return Run(
        logits=logits,
        taps={unit: answers.taps[unit] for unit in job.taps if unit in answers.taps},
        computed_in=_precision() if logits.dtype == np.float64 else logits.dtype.name,
        variables=_digests(answers.variables),
        versions=versions(package, job.backend, *more),
        read_by="file",
    )


def _layer(network: Any, name: str) -> Any:
    """A layer by its name; `body/conv` is one of a model within the model."""
    layer = network
    for part in name.split("/"):
        layer = next((inner for inner in getattr(layer, "layers", ()) if inner.name == part), None)
    if layer is None:
        raise UsageError(f"the reference has no layer {name!r} to look at")
    return layer


@lru_cache(maxsize=1)
def _precision() -> str:
    """What Keras really computes in when its arrays say float64, found by a small network that numpy runs as well.

    On torch and JAX Keras turns float64 into float32 where it promotes types, and says float64 all the same.
    """
    keras = framework("keras")
    architecture = Architecture(layers=(2, 2), growth_rate=4, init_channels=8, classes=8)
    random = np.random.default_rng(0)
    weights = {
        slot: random.standard_normal(shape) if slot.role == "kernel" else random.uniform(0.5, 1.5, shape)
        for slot, shape in architecture.slots.items()
    }
    images = random.standard_normal((1, 32, 32, 3))
    network = keras_network.build(architecture, Contract(), blank=True)
    keras_network.assign(network, weights)
    logits = keras.ops.convert_to_numpy(network(images, training=False))
    truth = forward(architecture, Contract(), weights, images)
    return "float64" if np.abs(logits - truth).max() <= FLOAT64 * truth.std() else "float32"
