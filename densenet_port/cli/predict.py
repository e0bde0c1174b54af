"""The command that shows what a network sees: predict."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.cli.base import Printing, app, numbers
from densenet_port.cli.options import ContractWords, IgnoreInheritance, Src, Table, Within, grouped, registered_names

if TYPE_CHECKING:
    from densenet_port.conversion.prediction import Answer, Prediction

BY = {  # where something is known from, as it is said
    "assumed": "assumed",
    "graph": "by the file's own graph",
    "record": "by the file's record",
    "user": "by your word",
}


@app.command()
@grouped
def predict(
    file: Annotated[
        str,
        typer.Argument(help="A checkpoint, or a registered name: torchvision-121.", autocompletion=registered_names),
    ],
    images: Annotated[list[Path], typer.Argument(help="Pictures.")],
    *,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    labels: Annotated[Path | None, typer.Option(help="Names of the classes, one a line.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Pixels that the network gets, of either side.")] = None,
    src: Src = None,
    mapping: Table = None,
    within: Within = None,
    contract: ContractWords,
    ignore_inheritance: IgnoreInheritance = False,
    printing: Printing,
) -> None:
    """Show what a network sees in pictures: the likeliest classes, computed by numpy; no framework runs."""
    from densenet_port.conversion.load import read
    from densenet_port.conversion.prediction import predict as ask

    network = read(
        file,
        src=mapping or src,
        within=within,
        contract=contract.entries,
        ignore_inheritance=ignore_inheritance,
    )
    prediction = ask(network, images, top=top, size=size, labels=labels)
    known = _known(prediction, sized=size is not None)
    assumed = [f"{key}: {known[key]}" for key in prediction.assumed]
    printing.show("predict", lambda: _json(prediction), lambda: _text(prediction, known), cautions=assumed)


def _json(prediction: "Prediction") -> dict[str, Any]:
    network = prediction.network
    return {
        "file": str(network.checkpoint.path),
        "layout": network.layout,
        "architecture": numbers(network.architecture),
        "resize": prediction.resize.to_json(),
        "input": network.contract.input.to_json(),
        "output": network.contract.output,
        "values": prediction.values,
        "origins": dict(prediction.origins),
        "assumed": list(prediction.assumed),
        "pictures": [
            {"picture": title, "classes": [answer._asdict() for answer in answers]}
            for title, answers in prediction.pictures
        ],
    }


def _known(prediction: "Prediction", *, sized: bool) -> dict[str, str]:
    """How pictures are resized and prepared, and whose the names of classes are, with where that is known from."""
    picture, origins = prediction.network.contract.input, prediction.origins
    mean, std = ("/".join(f"{number:.4g}" for number in numbers) for numbers in (picture.mean, picture.std))
    by = {key: BY.get(origin, f"by {prediction.network.layout}'s software") for key, origin in origins.items()}
    if sized and origins["resize"] == "assumed":
        by["resize"] = "assumed, but for the size"
    names = {"none": "classes have no names", "assumed": "ImageNet's, assumed of so many classes"}
    return {
        "resize": f"{prediction.resize} ({by['resize']})",
        "input": f"{picture.order}, scale {picture.scale:g}, mean {mean}, std {std} ({by['input']})",
        "labels": names.get(origins["labels"], by["labels"]),
    }


def _text(prediction: "Prediction", known: Mapping[str, str]) -> str:
    """What is known of the pictures comes first, then the classes of each, the best first."""
    network = prediction.network
    lines = [
        f"{network.checkpoint.path}: {network.layout} {network.architecture.name}",
        *(f"  {key}: {words}" for key, words in known.items()),
        f"  values: {prediction.values}",
    ]
    for title, answers in prediction.pictures:
        lines += [title, *(_line(answer, prediction.values) for answer in answers)]
    return "\n".join(lines)


def _line(answer: "Answer", values: str) -> str:
    """One class: `99.98 %  7`, or the plain number where that is no probability."""
    value = f"{answer.value:7.2%}" if values.startswith("probabilities") else f"{answer.value:9.4g}"
    name = f"{answer.label} ({answer.number})" if answer.label else f"class {answer.number}"
    return f"  {value}  {name}"
