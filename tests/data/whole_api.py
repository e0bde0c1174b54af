"""Everything that the package offers, used from outside of it; it must be right in mypy's strictest mode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import densenet_port as dp


def main(source: str, folder: Path, teacher: Any) -> tuple[object, ...]:
    """Each name once."""
    network: dp.Network = dp.read(source)
    same: dp.Network = dp.read(Path(source), src="torchvision", arch="121", no_top=False)
    architecture: dp.Architecture = network.architecture
    contract: dp.Contract = network.contract
    kernel = network.weights[dp.Slot("stem.conv", "kernel")]
    used: int = len(network.ledger.claims)
    images = np.zeros((1, 64, 64, architecture.channels), np.float32)
    resize: dp.Resize | None = contract.resize
    picture: dp.Input = contract.input
    prepared = dp.preprocess([images[0]], contract, size=resize or 64)
    seen: dp.Prediction = dp.predict(network, [folder / "cat.png"], top=5)
    logits = network(images, dtype="float32")
    again = dp.forward(architecture, contract, network.weights, images)
    steps: dp.Graph = network.graph
    other: dp.Graph = dp.graph(architecture, contract)
    written: dp.Conversion = network.write(folder / "a.weights.h5", force=True)
    state = network.state("torchvision")
    names: list[str] = list(state)
    model: Any = network.keras(activation=None, backend=None)
    module: Any = network.torch(activation=None)
    live: list[dp.Network] = [dp.read(state), dp.read(module), dp.read(model), dp.read(np.load(folder / "state.npz"))]
    filled: dp.Conversion = network.assign(module)
    body: dp.Conversion = network.assign(model, no_top=True, src="keras")
    converted: dp.Conversion = dp.convert(source, out=str(folder / "b.onnx"), dst="onnx", force=True)
    many: dp.Batch = dp.batch([source, Path(source)], out=folder / "many", jobs=1, resume=False)
    codes: list[int] = [one.exit_code for one in many.outcomes]
    last: dp.Outcome = many.outcomes[-1]
    difference: dp.Difference = dp.diff(source, written.out or folder)
    equal: bool = difference.same and dp.diff(network, same).same
    notes: tuple[str, ...] = converted.notes
    checked = dp.verify(folder / "a.weights.h5")
    parity: dp.Parity = dp.check(folder / "a.weights.h5", against=source, backend="numpy", sizes=())
    explained: dp.Parity = dp.diagnose(folder / "a.weights.h5", against=source)
    objects: list[dp.Parity] = [dp.check(model, module, sizes=(64,)), dp.diagnose(state, teacher)]
    agree: bool = parity.passed and parity.independent and parity.grade == "proven"
    recording: dp.Recording = dp.record(teacher, folder / "reference.npz", source=source, sizes=(64,))
    recorded: dp.Parity = dp.check(folder / "a.weights.h5", reference=folder / "reference.npz", backend="numpy")
    evaluated: dp.Evaluation = dp.evaluate(str(folder / "a.weights.h5"), against=source, data=folder, backend="numpy")
    counted = (evaluated.is_whole, evaluated.dependence, evaluated.statistics.counts.get("agree", 0))
    findings = [finding["mistake"] for finding in explained.diagnosis]
    loaded: Any = dp.load(folder / "a.weights.h5", activation=None)
    builders: list[Callable[..., Any]] = [
        dp.DenseNet,
        dp.DenseNetImageNet121,
        dp.DenseNetImageNet161,
        dp.DenseNetImageNet169,
        dp.DenseNetImageNet201,
        dp.DenseNetImageNet264,
    ]
    facts = (recording.independent, recorded.grade, counted)
    pictures = (picture, prepared, seen.pictures[0][1][0].label)
    values = (
        pictures,
        facts,
        kernel,
        used,
        logits,
        again,
        steps,
        other,
        names,
        model,
        module,
        equal,
        notes,
        (codes, last.evidence),
        checked.container,
    )
    memory = (live, filled.absorbed, body.notes, objects)
    return (*values, memory, agree, findings, loaded, builders, problem(source), dp.__version__)


def problem(source: str) -> str | int | None:
    """What is wrong with a file, of each family of errors."""
    try:
        dp.read(source)
    except (dp.DiskError, dp.CorruptError, dp.MisfitError, dp.UsageError) as error:
        return error.exit_code
    except (dp.ComparisonError, dp.NetworkError) as error:
        return error.hint
    except dp.PortError as error:
        return error.message
    return None
