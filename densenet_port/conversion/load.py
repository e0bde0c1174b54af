"""A checkpoint read as a network: its layout found out, every tensor claimed once or ignored by a rule."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from densenet_port.checkpoint import Array, Checkpoint
from densenet_port.conversion.beside import agreed
from densenet_port.conversion.folder import Options, as_folder, is_folder
from densenet_port.conversion.opening import KerasModel, Opens, TorchModule, opened
from densenet_port.conversion.origins import known
from densenet_port.conversion.statistics import Witness, heard, wired
from densenet_port.conversion.write import Conversion, in_type, plan, write
from densenet_port.errors import MisfitError, UsageError
from densenet_port.file_graph import AS_IN_TRAINING, FileGraph
from densenet_port.layouts.heads import BARE, assumed_of
from densenet_port.layouts.identify import first_few, identify
from densenet_port.layouts.layout import SPLIT, Kernels, Layout, Ordering, TensorKey
from densenet_port.layouts.match import FOLDED, Ledger
from densenet_port.layouts.schema import kind_of
from densenet_port.layouts.transform import absorb, biased, folded, move, unbiased
from densenet_port.network.architecture import Architecture
from densenet_port.network.biases import offsets
from densenet_port.network.contract import Contract, Origin
from densenet_port.network.follow import Evidence, follow
from densenet_port.network.graph import Graph, graph
from densenet_port.network.units import Role, Slot

if TYPE_CHECKING:
    from densenet_port.network.contract import Activation
    from densenet_port.network.keras_input import DataFormat, Shape


class Weights(Mapping[Slot, Array]):
    """Slot → its tensor in our axes, read from the checkpoint each time that it is asked for and not kept."""

    def __init__(self, readers: Mapping[Slot, Callable[[], Array]]) -> None:
        """Keep how each slot's tensor is read."""
        self._readers = readers

    def __getitem__(self, slot: Slot) -> Array:
        """The tensor: the stored type (bfloat16 widened to float32), or float64 where a fold needs it."""
        return self._readers[slot]()

    def __contains__(self, slot: object) -> bool:
        """Whether there is such a slot; nothing is read."""
        return slot in self._readers

    def __iter__(self) -> Iterator[Slot]:
        """The slots in order of execution."""
        return iter(self._readers)

    def __len__(self) -> int:
        """How many slots there are."""
        return len(self._readers)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A DenseNet: its architecture, its contract and its weights, and where the weights came from.

    `weights` gives each slot's tensor in our axes (`h w i o`, `i o`, `c`) and the stored type (bfloat16 widened to
    float32), or in float64 where a fold computed it and the stored type cannot hold it; each look reads it anew.
    `origins` says for each entry of the contract where it is known from (`contract.ENTRIES`), `evidence` what the
    file's own graph says, None without one, and `witness` what its statistics say. `within` is what the names of this
    network begin with, where somebody had to say.
    """

    architecture: Architecture
    contract: Contract
    weights: Mapping[Slot, Array]
    checkpoint: Checkpoint
    ledger: Ledger
    within: str | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    evidence: Evidence | None = None
    witness: Witness | None = None

    @property
    def layout(self) -> str:
        """The name of the checkpoint's layout."""
        return self.ledger.layout.name

    @property
    def holders(self) -> dict[str, str]:
        """Unit → the file's own module or layer, which the names of its tensors begin with; `<unit>:scale` likewise."""
        return self.ledger.holders

    @property
    def graph(self) -> Graph:
        """What the network computes, operation by operation."""
        return graph(self.architecture, self.contract)

    def __call__(self, images: Array, *, dtype: Literal["float32", "float64"] = "float64") -> Array:
        """Logits `n classes` of prepared images `n h w c`, computed by numpy; without a head the last map `n h w c`.

        Images are prepared as `contract.input` says. Raises UsageError for images that the network cannot take.
        """
        from densenet_port.network.numpy import forward  # noqa: PLC0415 (converting runs nothing)

        return forward(self.architecture, self.contract, self.weights, images, dtype=dtype)

    def write(
        self,
        path: str | PathLike[str],
        *,
        layout: str | PathLike[str] = "keras",
        dtype: str = "float32",
        kernels: Kernels | None = None,
        dim_ordering: Ordering | None = None,
        force: bool = False,
    ) -> Conversion:
        """Write the network in a layout; the ending of `path` decides the container.

        `layout` is a layout's name, or the path of a table of one's own; the rest is as in `conversion.write.write`.
        Where `path` is a folder, or ends in a slash, the folder is written that the layout's software loads by itself.
        """
        if is_folder(path):
            options = Options(dtype, kernels, dim_ordering)
            return as_folder(self, Path(path), Layout.load(table(layout)), options, force=force)
        return write(
            self,
            Path(path),
            target=Layout.load(table(layout)),
            dtype=dtype,
            kernels=kernels,
            dim_ordering=dim_ordering,
            force=force,
        )

    def state(self, layout: str | PathLike[str] = "keras", *, dtype: str = "float32") -> dict[str, Array]:
        """The network's tensors under a layout's names, in its axes. Raises as `write` does."""
        planned = plan(self, Layout.load(table(layout)), dtype)
        return {name: tensor.load() for name, tensor in planned.tensors.items()}

    def assign(
        self,
        model: "TorchModule | KerasModel",
        *,
        no_top: bool = False,
        src: str | PathLike[str] | None = None,
    ) -> Conversion:
        """Set the weights of a model that is there already, of any layout that is read; everything is checked first.

        As `conversion.assign.assign`: `no_top` leaves the model's own head alone, `src` says which layout its names
        are. Raises UsageError and MisfitError, and then nothing is set.
        """
        from densenet_port.conversion.assign import assign  # noqa: PLC0415 (it reads the model as this module does)

        return assign(self, model, no_top=no_top, src=src)

    def keras(
        self,
        *,
        backend: str | None = None,
        input_shape: "Shape | None" = None,
        activation: "Activation | Literal['contract'] | None" = "contract",
        data_format: "DataFormat | None" = None,
        include_preprocessing: bool = False,
    ) -> Any:
        """The network as a Keras model, with its weights.

        `activation="contract"` puts out what the network's own software does; the rest is as in `network.keras.build`.
        With `include_preprocessing` pixels from 0 to 255 go in, red first, and the model prepares them by the contract.
        Without a head the output is the last map, after its ReLU. A process has one backend of Keras's: `backend` says
        which it must be. Raises UsageError where it is another, or Keras is not installed, MisfitError for numbers that
        Keras's own type cannot hold, ValueError for an input that the network cannot take.
        """
        from densenet_port.network.keras import assign, build, require_backend  # noqa: PLC0415 (as above)

        dtype = require_backend(backend)
        if activation == "contract":
            activation = None if self.contract.output == "logits" else self.contract.output
        model = build(
            self.architecture,
            self.contract,
            input_shape=input_shape,
            activation=activation,
            data_format=data_format,
            blank=True,
            include_preprocessing=include_preprocessing,
        )
        assign(model, self._held_in(dtype))
        return model

    def torch(self, *, activation: "Activation | Literal['contract'] | None" = "contract") -> Any:
        """The network as a torch module for images `n c h w`, with its weights, evaluating, in float32.

        `activation` is as in `keras`. Raises UsageError where torch is not installed, MisfitError for numbers that
        float32 cannot hold.
        """
        from densenet_port.network.torch import assign, build  # noqa: PLC0415 (as above)

        output = self.contract.output if activation == "contract" else activation or "logits"
        module = build(graph(self.architecture, replace(self.contract, output=output)))
        assign(module, self._held_in("float32"))
        return module.eval()

    def _held_in(self, dtype: str) -> dict[Slot, Array]:
        """Every tensor in a floating type, as it is written in one. Raises MisfitError for what that cannot hold."""
        return {slot: in_type(array, dtype, slot) for slot, array in self.weights.items()}


def read(
    source: Opens,
    *,
    src: str | PathLike[str] | None = None,
    arch: str | Architecture | None = None,
    kernels: Kernels | None = None,
    within: str | None = None,
    no_top: bool = False,
    output_name: str | None = None,
    contract: Mapping[str, Any] | None = None,
    ignore_inheritance: bool = False,
) -> Network:
    """The network in a file or folder, a registered file, an object in memory, or a checkpoint that is open.

    An object is a state dict (name → array, of any library), a torch module or a Keras model, read as its file would be
    (`formats.live`).

    A name such as "torchvision-121", where no file is called so, means the registered file, which is downloaded when it
    is first called for; "hf://owner/name@revision/file" means a repository of the Hugging Face Hub, or a file in it,
    at the default revision without one. What timm or KerasHub wrote beside the weights (`config.json` …) is read, and
    must agree with them. `src` is a layout's name, or the path of a table of the user's own; without it the tables are
    asked which of them fits. Without `arch` (a name, or an Architecture) the shapes say. `kernels` says how convolution
    kernels are stored where the file does not record it: as a true convolution has them ("theano"), or as a correlation
    ("tensorflow"). `within` is what stands before the names of the network to take (`state_dict_ema`), where a file
    holds several; all else is ignored then. `no_top` takes the body, whatever stands behind it. `output_name` names the
    output to take of an ONNX model that has several. `contract` has entries of the contract that the user knows
    (`{"epsilon": 1e-3, "stem_pool": "none"}`), in place of what the file does not say. Raises MisfitError when anything
    is left over, missing or of another shape, and where the file's own statistics contradict what it is read as, unless
    `ignore_inheritance`; DiskError and CorruptError for a file that cannot be read, UsageError for words that mean
    nothing.
    """
    checkpoint = opened(source, port=port, output=output_name, body=no_top)
    if kernels not in (None, "theano", "tensorflow"):
        raise UsageError(f"unknown --kernels {kernels!r}", hint="known: theano, tensorflow")
    numbers = Architecture.named(arch) if isinstance(arch, str) else arch
    chosen = checkpoint if within is None else _below(checkpoint, within)
    ledger = identify(chosen, src=None if src is None else table(src), arch=numbers, kernels=kernels, no_top=no_top)
    if kernels and kernels != (ledger.kernels or "tensorflow"):
        raise UsageError(f"{ledger.layout.name} never stores kernels as {kernels} does", hint="leave out --kernels")
    if within is not None:
        outside = {name: f"--within {within}" for name in checkpoint.tensors if name not in chosen.tensors}
        ledger = replace(ledger, ignored={**ledger.ignored, **outside})
    ledger = agreed(checkpoint, ledger, no_top=no_top)
    evidence = _evidence(chosen, ledger, within, no_top=no_top)
    ledger = ledger if evidence is None else _by_graph(ledger, evidence)
    function = known(checkpoint, ledger, evidence, contract)
    epsilon = function.contract.epsilon
    one = wired(checkpoint.path, ledger, Weights(_readers(ledger, epsilon)), ignore=ignore_inheritance)
    ledger, weights = one.ledger, Weights(_readers(one.ledger, epsilon))
    function, witness = heard(
        checkpoint.path,
        one,
        function,
        weights,
        is_told=evidence is not None or checkpoint.record is not None,
        ignore=ignore_inheritance,
    )
    return Network(
        architecture=ledger.architecture,
        contract=function.contract,
        origins=function.origins,
        weights=weights,
        checkpoint=checkpoint,
        ledger=ledger,
        within=within,
        evidence=evidence,
        witness=witness,
    )


def port(source: Path, layout: str, out: Path) -> None:
    """Write the network in a file of a layout as a file of our own: what a fetched one becomes on its first use."""
    read(source, src=layout).write(out, force=True)


def _evidence(checkpoint: Checkpoint, ledger: Ledger, within: str | None, *, no_top: bool) -> Evidence | None:
    """What the file's own graph says of the network; None without one.

    Raises MisfitError where it is another network than the tensors are taken for, with a way that works, if any does.
    """
    if checkpoint.graph is None:
        return None
    source = checkpoint.graph() if within is None else checkpoint.graph().below(within)
    if not source.steps:  # a state dict beside a module
        return None
    try:
        return follow(source, ledger.architecture, ledger.holders, no_top=no_top)
    except MisfitError as error:
        hint = error.hint or _other_way(source, ledger, no_top=no_top)
        raise MisfitError(f"{checkpoint.path}: {error.message}", hint=hint) from error


def _by_graph(ledger: Ledger, evidence: Evidence) -> Ledger:
    """The ledger with what the file's own graph says of the head, and of the order of channels."""
    layout, architecture = ledger.layout, ledger.architecture
    orders: dict[str, Any] = {
        key: order
        for key in ("concatenation", "flatten")
        if (order := getattr(evidence, key)) not in (None, getattr(layout, key))
    }
    if orders:
        ledger = replace(ledger, layout=replace(layout, **orders))
    if "concatenation" in orders:
        note = f"its graph joins the channels of dense layers {evidence.concatenation}: they are read in that order"
        ledger = replace(ledger, notes=(*ledger.notes, note))
    if evidence.epsilons:
        told = f"the head's norms have the epsilon {', '.join(f'{one:g}' for one in {*evidence.epsilons.values()})}"
        notes = (*ledger.notes, f"{told}: their variances or scales take up the difference")
        ledger = replace(ledger, epsilons=evidence.epsilons, notes=notes)
    if ledger.folded and not evidence.assumed:  # the graph has none there
        facts = tuple(text for text in ledger.assumed if text.startswith(FOLDED))
        assumed = tuple(text for text in ledger.assumed if text not in facts)
        ledger = replace(ledger, assumed=assumed, notes=(*ledger.notes, *facts))
    if evidence.head is None:
        return ledger
    known_now = {*assumed_of(architecture.head), BARE}
    assumed = tuple(text for text in ledger.assumed if text not in known_now)
    return replace(ledger, architecture=replace(architecture, head=evidence.head), assumed=assumed)


def _other_way(source: FileGraph, ledger: Ledger, *, no_top: bool) -> str:
    """How to take the network out of a graph that has more; found by trying."""
    holders = ledger.holders
    stem = re.split(f"[{SPLIT}]", holders[next(iter(ledger.architecture.units))])
    sign = "/" if any("/" in name for name in source.steps) else "."
    for depth in range(len(stem)):
        name = sign.join(stem[:depth])
        part = source.below(name) if depth else source
        for headless in (no_top, True):
            if part.steps and _follows(part, ledger, holders, no_top=headless):
                words = [*([f"--within {name}"] if depth else []), *(["--no-top"] if headless and not no_top else [])]
                return f"{' '.join(words)} takes what is a DenseNet of it"
    if any(step.title.endswith(AS_IN_TRAINING) for step in source.steps.values()):
        return "call `model.eval()` on the module, and trace or export it again"
    return "a DenseNet that was changed is another network: only its own software runs it"


def _follows(source: FileGraph, ledger: Ledger, holders: Mapping[str, str], *, no_top: bool) -> bool:
    """Whether a graph is the network."""
    try:
        follow(source, ledger.architecture, holders, no_top=no_top)
    except MisfitError:
        return False
    return True


def table(layout: str | PathLike[str]) -> str | Path:
    """A layout's name, or the path of a table of the user's own: what is no plain string, or ends in `.toml`."""
    plain = isinstance(layout, str) and not layout.endswith(".toml")
    return str(layout) if plain else Path(layout)


def _below(checkpoint: Checkpoint, within: str) -> Checkpoint:
    """The checkpoint with only the tensors below a name."""
    from densenet_port.layouts.structure import within as network_within  # noqa: PLC0415 (most files hold one network)

    part = network_within(checkpoint, within)
    if not part.tensors:
        tops = dict.fromkeys(re.split(f"[{SPLIT}]", name)[0] for name in checkpoint.tensors)
        start = within.rstrip(SPLIT)
        raise UsageError(
            f"{checkpoint.path}: no tensor's name begins with {start + '.'!r} or {start + '/'!r}",
            hint=f"its names begin with {', '.join(first_few([*tops]))}",
        )
    return part


def _readers(ledger: Ledger, epsilon: float) -> dict[Slot, Callable[[], Array]]:
    """Slot → a function that reads its tensor in our axes; means less the biases in front of their norms."""
    order = ledger.layout.channel_order(ledger.architecture)
    readers = {slot: _ordered(_reader(ledger, slot), ledger.architecture, slot, order) for slot in ledger.filled}
    if biases := {unit: claim.tensor.load for unit, claim in ledger.biases.items()}:
        for unit, parts in offsets(graph(ledger.architecture, Contract()), biases.keys()).items():
            pieces = [(biases[conv] if conv else None, channels) for conv, channels in parts]
            if kind_of(unit) == "norm":
                mean = Slot(unit, "mean")
                readers[mean] = partial(unbiased, readers[mean], pieces)
            else:
                bias, kernel = Slot(unit, "bias"), Slot(unit, "kernel")
                readers[bias] = partial(biased, readers[bias], readers[kernel], pieces)
    for unit, other in {**dict.fromkeys(ledger.folded, 0.0), **ledger.epsilons}.items():
        slots = Slot(unit, "scale"), Slot(unit, "variance")
        absorbed = partial(_absorbed, readers[slots[0]], readers[slots[1]], other, epsilon)
        readers |= {slot: partial(absorbed, place) for place, slot in enumerate(slots)}
    return readers


def _absorbed(
    scale: Callable[[], Array], variance: Callable[[], Array], source: float, target: float, place: int
) -> Array:
    """The scale (place 0) or variance (place 1) of a norm whose epsilon becomes another, in float64."""
    _, stretched, shifted = absorb(scale(), variance(), source, target, np.float64)
    return (stretched, shifted)[place]


def _ordered(
    read: Callable[[], Array], architecture: Architecture, slot: Slot, order: Mapping[str, Array]
) -> Callable[[], Array]:
    """What reads a slot's tensor with the channels in our order, where the layout has another."""
    axis = architecture.units[slot.unit].channel_axis(slot.role)
    return read if slot.unit not in order or axis is None else lambda: read().take(order[slot.unit], axis=axis)


def _reader(ledger: Ledger, slot: Slot) -> Callable[[], Array]:
    """A function that reads one slot's tensor in our axes, folded from its parts where the layout has several."""
    recipe = ledger.layout.recipe(slot)
    if recipe is None:
        return _part_reader(ledger, TensorKey(slot.unit, slot.role))
    parts = [_part_reader(ledger, TensorKey(slot.unit, part)) for part in recipe.parts]
    return lambda: folded(recipe, [part() for part in parts])


def _part_reader(ledger: Ledger, key: TensorKey) -> Callable[[], Array]:
    """A function that reads one part in our axes, or makes what stands for one that is not there."""
    if key in ledger.blank or key.unit in ledger.folded:
        shape = ledger.architecture.units[key.unit].shape(cast("Role", key.part))
        number = 1 if key.part in ("scale", "variance") else 0
        return lambda: np.full(shape, number, np.float32)
    claim, axes = ledger.claims[key], ledger.layout.canonical_axes(key)
    return lambda: move(claim.tensor.load(), claim.axes, axes)
