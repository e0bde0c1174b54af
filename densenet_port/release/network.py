"""One network of a release: its checkpoint converted, checked, and described, in a workspace.

The same inputs give the same bytes: nothing holds a path, a time or a duration, and the frameworks run on one thread,
because on another number of threads they round in another order. So do other versions of them, and processors with
other vector units: from one machine to another the figures may differ in their last digits, the weights do not.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from densenet_port.conversion.convert import convert, verify
from densenet_port.conversion.write import Conversion
from densenet_port.errors import ComparisonError, DiskError
from densenet_port.fetch import manifest
from densenet_port.fetch.manifest import Document, File
from densenet_port.files import whole
from densenet_port.formats import ending
from densenet_port.network.architecture import Architecture
from densenet_port.prove import parity, report
from densenet_port.prove.images import BATCH, SIZES
from densenet_port.prove.parity import Parity
from densenet_port.prove.recording import Recording
from densenet_port.prove.reference import read_by

LAYOUT = "keras"  # what is published
CONTAINERS = (".weights.h5", ".safetensors")
FORMS = {"report.json": "json", "report.html": "html", "summary.md": "md", "junit.xml": "xml"}
FOLLOWED = re.compile(r"stem\.conv\d*|transition\d+\.conv|final\.norm")  # units whose activations a golden file keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a network is checked, as `parity.check` takes it; a release says so."""

    backend: str = "tensorflow"
    sizes: tuple[int, ...] = SIZES
    batch: int = BATCH
    seed: int = 0
    threads: int = 1

    def to_json(self) -> dict[str, Any]:
        """The options as JSON gives them back."""
        return {**asdict(self), "sizes": list(self.sizes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint of a network. `url` is known of a registered file alone, `licence` where anybody said it."""

    path: Path
    layout: str
    architecture: Architecture
    sha256: str
    url: str | None
    licence: str | None

    @property
    def title(self) -> str:
        """What a report calls the checkpoint, wherever it lies."""
        return f"{self.layout} {self.architecture.name} (SHA-256 {self.sha256[:12]}…)"

    @property
    def network(self) -> str:
        """The name that the files of this network begin with: `densenet121-torchvision`."""
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.architecture.name)
        return f"densenet{name}-{self.layout}" if name.isdigit() else f"densenet-{name}-{self.layout}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltNetwork:
    """One network of a build: its files, or the names of the checks that it failed and the folder with the evidence.

    `kept` says that it was built before, from the same inputs.
    """

    name: str
    arch: str
    kept: bool = False
    files: tuple[File, ...] = ()
    documents: tuple[Document, ...] = ()
    failed: tuple[str, ...] = ()
    report: Path | None = None

    @property
    def passed(self) -> bool:
        """Whether the network is in the release."""
        return not self.failed


def convert_and_check(source: Source, work: Path, options: Options, limit: float) -> BuiltNetwork:
    """Convert and check a checkpoint in an empty workspace; every file of it that a release has lies there then.

    `limit` is in seconds for each side. A failed check leaves its report there and gives no files. Raises what reading,
    converting and checking raise.
    """
    conversions = _convert(source, work)
    first = next(iter(conversions))
    verdict, golden = _check(source, first, options, limit)
    reports = _write_reports(verdict, source.network, work)
    if not verdict.proven:
        failed = tuple(check.name for check in verdict.checks if not check.passed)
        failed += (f"the verdict is {verdict.grade!r}: a release takes 'proven' alone",)
        return BuiltNetwork(name=source.network, arch=source.architecture.name, failed=failed, report=work)
    figures = {"report": reports[0].name, **_figures(verdict, first.name, options)}
    files = tuple(_file(path, done, source, figures, golden.name) for path, done in conversions.items())
    card = write_text(work / f"{source.network}.card.md", render("card.md", files=files, figures=figures))
    documents = tuple(manifest.document(path) for path in (golden, card, *reports))
    return BuiltNetwork(name=source.network, arch=source.architecture.name, files=files, documents=documents)


# -- files -------------------------------------------------------------------------------------------------------------


def _convert(source: Source, work: Path) -> dict[Path, Conversion]:
    """Path → conversion of every weight file, the one that is checked first.

    All of them hold the very tensors of the first, those without the head all but the head's; each is read back.
    """
    conversions: dict[Path, Conversion] = {}
    for top in (True, False) if source.architecture.classes else (False,):
        for container in CONTAINERS:
            path = work / f"{source.network}{'' if top else '-notop'}{container}"
            conversions[path] = convert(
                source.path, out=path, src=source.layout, dst=LAYOUT, no_top=not top, force=True
            )
            verify(path)
    first, *others = conversions
    digests = conversions[first].record["tensors"]
    for path in others:
        tensors, slots = conversions[path].record["tensors"], conversions[path].source.architecture.slots
        if len(tensors) != len(slots) or not tensors.items() <= digests.items():
            raise ComparisonError(f"{path}: its tensors are not those of {first.name}")
    return conversions


def _check(source: Source, port: Path, options: Options, limit: float) -> tuple[Parity, Path]:
    """The verdict on a converted file, without paths and times; and the golden file, of the reference's run."""
    reference, golden = port.with_name("reference.npz"), port.with_name(f"{source.network}.golden.npz")
    verdict = parity.check(
        port, against=source.path, src=source.layout, save_reference=reference, limit=limit, **asdict(options)
    )
    _save_golden(reference, golden, source.title)
    timeless = replace(
        verdict,
        source=_timeless(verdict.source, source.title),
        port=_timeless(verdict.port, port.name),
        sides={name: _timeless(facts) for name, facts in verdict.sides.items()},
        seconds=0.0,
    )
    return timeless, golden


def _save_golden(reference: Path, golden: Path, title: str) -> None:
    """What `verify` replays of a saved reference: logits, and the activations of few units; the rest is large."""
    recording = Recording.load(reference)
    followed = {unit: tap for unit, tap in recording.taps["float64"].items() if FOLLOWED.fullmatch(unit)}
    bare = replace(
        recording,
        probes=tuple(replace(probe, pictures=None) for probe in recording.probes),
        taps={"float64": followed, "float32": {}},
        metadata=_timeless(recording.metadata, title),
    )
    bare.save(golden)
    remove(reference)


def _timeless(facts: Mapping[str, Any], path: str | None = None) -> dict[str, Any]:
    """Facts without how long it took, and with a name in the place of a path."""
    return {key: path if key == "path" else fact for key, fact in facts.items() if key != "seconds"}


def _write_reports(verdict: Parity, network: str, work: Path) -> list[Path]:
    """The report in all its forms, named as the release has them, JSON first."""
    paths = report.write(verdict, work)
    return [paths[name].rename(work / f"{network}.parity.{form}") for name, form in FORMS.items()]


# -- what the manifest says of them ------------------------------------------------------------------------------------


def _figures(verdict: Parity, checked: str, options: Options) -> dict[str, Any]:
    """What was measured, for the manifest: the worst check of each kind, on which file and with what."""
    figures: dict[str, Any] = {
        "grade": verdict.grade,
        "passed": verdict.passed,
        "checked": checked,
        "checks": len(verdict.checks),
    }
    for kind in ("float64", "float32", "weights"):
        checks = [check for check in verdict.checks if check.kind == kind]
        if checks:
            worst = max(checks, key=lambda check: (check.measured or 0.0) / (check.bound or 1.0))
            figures[kind] = {"check": worst.name, "measured": worst.measured, "bound": worst.bound}
    for name, side in verdict.sides.items():
        figures[name] = {key: side[key] for key in ("name", "versions", "read_by")}
    return {**figures, **options.to_json()}


def unproven(figures: Mapping[str, Any]) -> str | None:
    """Why a manifest's parity is no proof; None where it is one."""
    grade, reference = figures.get("grade", "none"), figures.get("reference")
    if grade != "proven" or figures.get("passed") is not True:
        return f"its parity is graded {grade!r}, passed {figures.get('passed')}: a release takes 'proven' alone"
    if not isinstance(reference, Mapping) or "name" not in reference or read_by(reference) == "table":
        return "its parity has no independent reference: a release takes 'proven' alone"
    return None


def _file(path: Path, done: Conversion, source: Source, figures: Mapping[str, Any], golden: str) -> File:
    """The manifest's entry of a converted file. Golden logits are those of the whole network."""
    record, architecture = done.record, done.source.architecture
    return File(
        **asdict(manifest.document(path)),
        network=source.network,
        arch=source.architecture.name,
        top=architecture.classes is not None,
        container=ending(path),
        layout=record["layout"],
        architecture=record["architecture"],
        contract=record["contract"],
        source={**record["source"], "url": source.url, "licence": source.licence},
        mappings=record["mappings"],
        tensors=record["tensors"],
        parity=figures,
        golden=golden if architecture == source.architecture else None,
    )


# -- documents ---------------------------------------------------------------------------------------------------------


def render(template: str, **values: Any) -> str:
    """A document in Markdown from a template of the package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 (only a release needs it)

    environment = Environment(  # noqa: S701 (Markdown, not HTML)
        loader=PackageLoader("densenet_port.release"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(**values)


def write_text(path: Path, text: str) -> Path:
    """Write a text, whole or not at all; its path."""
    with whole(path) as temporary:
        temporary.write_bytes(text.encode())
    return path


def remove(*paths: Path) -> None:
    """Remove files that may be there. Raises DiskError."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"{path}: cannot be removed: {error.strerror}") from error
