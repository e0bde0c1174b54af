"""A network written as a folder that its software loads by itself: weights, and the configuration beside them.

What nobody knows of pictures is not written: a software then takes what it usually does, and a reader is told so.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

from densenet_port.checkpoint import digest
from densenet_port.conversion.source import Source
from densenet_port.conversion.write import Conversion, Progress, helper, labels_of, plan, silent, write_plan
from densenet_port.errors import DiskError, MisfitError, UsageError
from densenet_port.files import folder as new_folder
from densenet_port.formats.beside import Form, forms
from densenet_port.layouts.layout import Kernels, Layout, Ordering
from densenet_port.network.architecture import Architecture
from densenet_port.network.contract import Contract, Input
from densenet_port.network.units import FINAL_NORM, HEAD, Slot, is_head

COUNTED = {"layers", "growth_rate", "bottleneck", "reduction", "stem", "init_channels"}  # what a name stands for


def is_folder(out: str | PathLike[str]) -> bool:
    """Whether a place to write to is a folder: there is one, or it ends in a slash."""
    return os.fspath(out).endswith(("/", os.sep)) or Path(out).is_dir()


class Options(NamedTuple):
    """The ways in which tensors are stored, as `write.plan` takes them."""

    dtype: str = "float32"
    kernels: Kernels | None = None
    dim_ordering: Ordering | None = None


class Hashing(NamedTuple):
    """The source's digest, which is being taken, where other digests are taken, and who is told of it."""

    digest: Future[str]
    pool: Executor
    progress: Progress


def check_folder(source: Path, out: Path | None, target: Layout, *, force: bool) -> Form:
    """The form of the folder that a layout is written as. Raises UsageError and DiskError where it would fail."""
    assert out is not None  # noqa: S101 (`is_folder` saw it)
    form = next((form for form in forms() if target.name in form.writes), None)
    if form is None:
        hint = f"name a file; folders are written in {', '.join(name for form in forms() for name in form.writes)}"
        if out.is_dir():
            raise DiskError(f"{out}: cannot be written: is a directory", hint=hint)
        raise UsageError(f"{out}: {target.name} does not come as a folder", hint=hint)
    if out.exists() and source.exists() and out.samefile(source if source.is_dir() else source.parent):
        raise UsageError(f"{out}: is the checkpoint's own folder", hint="write to another folder")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, not a folder", hint="name another place")
    if out.is_dir() and any(out.iterdir()) and not force:
        hint = "pass --force to replace its files of the same names, or name another folder"
        raise UsageError(f"{out}: exists already, and is not empty", hint=hint)
    return form


def write_folder(
    source: Source, out: Path, target: Layout, options: Options, hashing: Hashing, *, force: bool
) -> Conversion:
    """Write a network as the folder of its software; it appears whole or not at all.

    Only in a folder that has files already (`force`) those of the same names are replaced one by one, the configuration
    last. Errors are those of `write.write`; MisfitError too for a network, or for pictures, that the software has no
    words for.
    """
    form = check_folder(source.checkpoint.path, out, target, force=force)
    parts = _parts(source, form, lambda part: plan(part, target, *options))
    words, notes = _words(source, parts[form.weights[0]], form)
    documents = {name: made for name in form.written if (made := _document(form, name, words)) is not None}
    _refuse_strays(out, form, {*parts, *documents})
    with new_folder(out, form.files[0]) as temporary:
        done = {name: write_plan(part, temporary / name, *hashing) for name, part in parts.items()}
        for name, content in documents.items():
            (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    whole, *rest = done.values()
    tensors = {name: digest for part in done.values() for name, digest in part.record["tensors"].items()}
    return replace(
        whole,
        source=source,
        out=out,
        record={**whole.record, "architecture": source.architecture.to_json(), "tensors": tensors},
        tensors={**whole.tensors, **{name: tensor for part in rest for name, tensor in part.tensors.items()}},
        notes=(*whole.notes, *notes),
    )


def as_folder(source: Source, out: Path, target: Layout, options: Options, *, force: bool) -> Conversion:
    """The same, for a network by itself, whose source's digest is still to be taken."""
    with helper() as pool:
        hashing = Hashing(pool.submit(digest, source.checkpoint), pool, silent)
        return write_folder(source, out, target, options, hashing, force=force)


def _parts(source: Source, form: Form, planned: Callable[[Source], Conversion]) -> dict[str, Conversion]:
    """File → what is written into it: the network, or its body, and a head for itself."""
    first = form.weights[0]
    if form.head is None or source.architecture.classes is None:
        return {first: planned(source)}
    body: Any = replace(cast("Any", source), architecture=source.architecture.without_head())
    whole = planned(source)
    specs = {key: spec for key, spec in whole.specs.items() if is_head(key.unit)}
    names = {spec.name for spec in specs.values()}
    tensors = {name: tensor for name, tensor in whole.tensors.items() if name in names}
    return {first: planned(body), form.head: replace(whole, specs=specs, tensors=tensors)}


def _refuse_strays(out: Path, form: Form, names: set[str]) -> None:
    """Refuse a folder that has other files of the software's, which would not go with what is written."""
    known = {*form.weights, *form.files, *([form.head] if form.head else [])}
    if strays := [name for name in sorted(known - names) if (out / name).exists()]:
        what = f"{out}: has {', '.join(strays)}, which would not go with what is written"
        raise UsageError(what, hint="remove it, or name another folder")


# -- what is said of it ------------------------------------------------------------------------------------------------


def _document(form: Form, name: str, words: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of a file; None for one that needs a word that is not known."""
    template = dict(form.written[name])
    if words.get(template.pop("needs", "name")) is None:
        return None
    content: dict[str, Any] = _filled(template, form, words)
    return content


def _filled(value: Any, form: Form, words: Mapping[str, Any]) -> Any:
    """A part of a template with its words; what stands for none is left out of objects."""
    if isinstance(value, dict):
        inner = {key: _filled(part, form, words) for key, part in value.items()}
        return {key: part for key, part in inner.items() if part is not None}
    if isinstance(value, str) and value.startswith("{") and value.endswith("}"):
        word = value[1:-1]
        return _document(form, word, words) if word in form.written else words.get(word)
    return value


def _words(source: Source, planned: Conversion, form: Form) -> tuple[dict[str, Any], list[str]]:
    """The words of a form for a network, in the software's own values; and what is not told by any."""
    numbers, notes = source.architecture, list[str]()
    units = planned.target.spell_units(numbers)
    words = {
        **_network_words(numbers, planned.contract, form),
        "channels": numbers.channels,
        "shape": [None, None, numbers.channels],
        "classes": numbers.classes if numbers.classes or form.head else 0,
        "features": numbers.slots[Slot(FINAL_NORM, "scale")][0],
        "parameters": numbers.without_head().trainable + numbers.without_head().statistics,
        "head": _theirs(form, "head", numbers.head),
        "stem_name": next(iter(units.values())),
        "head_name": units.get(HEAD),
        "labels": labels_of(source),
    }
    for told in (_picture_words(source, form, notes), _resize_words(source, form, notes)):
        words |= told
    return words, notes


def _network_words(numbers: Architecture, contract: Contract, form: Form) -> dict[str, Any]:
    """The name of a network, and the numbers that it does not stand for. Raises MisfitError where no name will do."""
    own = {key: value for key, value in numbers.to_json().items() if key in COUNTED}
    stem = {"stem": numbers.stem, "stem_pool": contract.stem_pool}
    fitting = []
    for name, network in form.networks.items():
        known = Architecture.named(network["arch"]).to_json() if "arch" in network else {}
        known = {key: value for key, value in {**known, **network}.items() if key in {*COUNTED, "stem_pool"}}
        if all(known.get(key, value) == value for key, value in stem.items()):
            fitting.append((sum(known.get(key) != value for key, value in own.items()), name, known))
    if not fitting:
        raise MisfitError(f"{form.software} has no network with a {numbers.stem} stem and {contract.stem_pool} pool")
    _, name, known = min(fitting, key=lambda network: network[0])
    widths = own["growth_rate"] * form.widths if form.widths else known.get("init_channels")
    if widths != own["init_channels"]:
        what = f"{form.software}'s {name} has {widths} init_channels, this network {own['init_channels']}"
        raise MisfitError(what, hint="write a file in place of a folder")
    told = {key: value for key, value in own.items() if known.get(key) != value}
    return {"name": name, "compression": round(1 - own["reduction"], 9), **told}


def _picture_words(source: Source, form: Form, notes: list[str]) -> dict[str, Any]:
    """How the values of pictures are prepared, where that is known. Raises MisfitError for what has no word."""
    picture, channels = source.contract.input, source.architecture.channels
    if source.origins.get("input", "assumed") == "assumed":
        notes.append(f"how pictures are prepared is an assumption, and not written into {form.files[0]}")
        return {}
    lengths = {len(picture.mean), len(picture.std)}
    if picture.order == "bgr" or (picture.order == "grey") != (channels == 1) or not lengths <= {1, channels}:
        what = f"{form.software}'s configuration has no word for {channels} channels in the order {picture.order}"
        raise MisfitError(f"{what}, prepared by {len(picture.mean)} means", hint="write a file in place of a folder")
    return dict(_values(picture, form.scale, channels))


def _values(picture: Input, scale: float | None, channels: int) -> Iterator[tuple[str, list[float]]]:
    """The preparation of pictures as mean and deviation of pixels that `scale` divides, or as factor and offset."""
    mean, std = (list(values) * (1 if len(values) == channels else channels) for values in (picture.mean, picture.std))
    if scale is not None:
        by = picture.scale / scale
        yield "mean", [value * by for value in mean] if by != 1 else mean
        yield "std", [value * by for value in std] if by != 1 else std
    else:
        yield "factor", [1 / picture.scale / value for value in std]
        yield "offset", [-middle / value for middle, value in zip(mean, std, strict=True)]


def _resize_words(source: Source, form: Form, notes: list[str]) -> dict[str, Any]:
    """How pictures are brought to a size, where that is known, and the software has words for it."""
    resize = source.contract.resize
    if resize is None or source.origins.get("resize", "assumed") == "assumed":
        return {}
    fit, interpolation = (_theirs(form, word, getattr(resize, word)) for word in ("fit", "interpolation"))
    if None in (fit, interpolation) or ("crop" not in form.tells and resize.crop != 1):
        height, width = resize.size
        how = f"{height} by {width} pixels of a picture cut to {resize.crop:g}, {resize.interpolation}"
        notes.append(f"how pictures are resized ({how}) is not written: {form.software} has no words for it")
        return {}
    size = list(resize.size)
    words = {"fit": fit, "interpolation": interpolation, "crop": resize.crop, "size": size, "antialias": True}
    return {**words, "picture": [source.architecture.channels, *size]}


def _theirs(form: Form, word: str, value: str) -> Any:
    """The software's value for one of our words; None where it has none."""
    theirs = next((theirs for theirs, ours in form.words[word].items() if ours == value), None)
    return {"true": True, "false": False}.get(theirs or "", theirs)
