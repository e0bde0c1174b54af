"""The command line: the only file that prints or exits.

Every command gathers one plain JSON object and prints it as such with `--json`, or as text. Errors go to stderr as
`error: …` and end in the exit code of their kind; with `--json` they are an object on stdout too.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.about import __version__
from densenet_port.cli import terminal
from densenet_port.errors import MisfitError, PortError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from densenet_port.checkpoint import Checkpoint
    from densenet_port.conversion.load import Network
    from densenet_port.conversion.write import Conversion
    from densenet_port.network.architecture import Architecture

ClickException: Any = typer.BadParameter.__mro__[2]  # Typer brings its own Click, or before 0.16 the real one
WIDE = 240  # columns where there is no terminal to ask

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Move DenseNet weights between frameworks, and prove that the port is the same network.",
)

Kernels = Annotated[
    str | None, typer.Option(help="theano or tensorflow: how the checkpoint stores its kernels, where it does not say.")
]
Within = Annotated[
    str | None, typer.Option(help="The name that the network to take stands below, where a file holds several.")
]
Against = Annotated[Path | None, typer.Option(help="The checkpoint it was made from.")]
Reference = Annotated[Path | None, typer.Option(help="A saved run of the reference, in place of the framework.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Layout = Annotated[str | None, typer.Option("--src", help="The checkpoint's layout; found out without it.")]
Table = Annotated[Path | None, typer.Option("--mapping", help="A mapping table of your own, read instead of --src.")]
Arch = Annotated[
    str | None, typer.Option(help="121, 161, 169, 201, 264, 121d, 264d, a CIFAR name or numbers; found out without it.")
]


def main() -> None:
    """Run the command line and exit with the code that its result has."""
    try:
        code = app(standalone_mode=False)
    except PortError as error:
        code = _fail(error.kind, error.message, error.hint, error.exit_code)
    except ClickException as error:
        code = _fail("usage", error.format_message(), f"see: {_help_command()}", UsageError.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", "interrupted; nothing was left half written", None, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code if isinstance(code, int) else 0)


def _fail(kind: str, message: str, hint: str | None, code: int) -> int:
    """Say what went wrong, on stderr or as JSON."""
    if "--json" in sys.argv[1:]:
        _print_json("error", {"error": {"kind": kind, "message": message, "hint": hint}})
    else:
        sys.stderr.write(f"error: {message}\n" + (f"  {hint}\n" if hint else ""))
    return code


def _help_command() -> str:
    """The help call nearest to what was typed."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    return " ".join(filter(None, ("densenet-port", command, "--help")))


# -- commands ----------------------------------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"densenet-port {__version__}")
        raise typer.Exit


@app.command()
def convert(
    checkpoint: Annotated[Path | None, typer.Argument(help="The file; without it, the registered one.")] = None,
    src: Layout = None,
    arch: Arch = None,
    dst: Annotated[str, typer.Option(help="The layout to write, or a mapping table of your own (.toml).")] = "keras",
    out: Annotated[Path | None, typer.Option(help="Where to; the ending decides the container.")] = None,
    no_top: Annotated[bool, typer.Option("--no-top", help="Leave the head out.")] = False,
    dtype: Annotated[str, typer.Option(help="float32, float16 or float64.")] = "float32",
    kernels: Kernels = None,
    within: Within = None,
    dst_kernels: Annotated[
        str | None, typer.Option(help="theano or tensorflow: how to store the kernels, where the layout has both.")
    ] = None,
    dim_ordering: Annotated[
        str | None, typer.Option(help="th or tf: out channels first or last, where the layout has both.")
    ] = None,
    mapping: Table = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Translate a checkpoint into another layout, every tensor accounted for."""
    from densenet_port.conversion import convert as verbs

    started = perf_counter()
    architecture = _architecture(arch)
    path = checkpoint or _registered(src, architecture)
    layout = Path(dst) if dst.endswith(".toml") else dst
    target = out or (Path(_stem(path) + _default_ending(layout)) if not dry_run else None)
    with _bar("converting") as progress:
        done = verbs.convert(
            path,
            out=None if dry_run else target,
            src=mapping or src,
            arch=architecture,
            dst=layout,
            kernels=_choice("--kernels", kernels, KERNELS),
            within=within,
            dst_kernels=_choice("--dst-kernels", dst_kernels, KERNELS),
            dim_ordering=_choice("--dim-ordering", dim_ordering, ("th", "tf")),
            no_top=no_top,
            dtype=dtype,
            force=force,
            progress=progress,
        )
    result = {**_conversion(done, target), "seconds": round(perf_counter() - started, 3)}
    _say("convert", result, as_json, terminal.conversion)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint.")],
    src: Layout = None,
    kernels: Kernels = None,
    within: Within = None,
    mapping: Table = None,
    as_json: AsJson = False,
) -> None:
    """Show a checkpoint's container, layout, architecture, contract and tensors."""
    from densenet_port import formats
    from densenet_port.conversion.load import read

    checkpoint = formats.read(file)
    try:
        word = _choice("--kernels", kernels, KERNELS)
        told, misfit = read(checkpoint, src=mapping or src, kernels=word, within=within), None
    except MisfitError as error:
        told, misfit = None, error
    _say("inspect", _inspection(checkpoint, told, misfit), as_json, terminal.inspection)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(help="Another one, of any layout.")],
    as_json: AsJson = False,
) -> None:
    """Compare two checkpoints of any layouts, tensor by tensor; exit 1 when they differ."""
    from densenet_port.conversion.compare import diff as difference
    from densenet_port.conversion.load import read

    found = difference(read(first), read(second))
    result = {
        "same": found.same,
        "files": [str(first), str(second)],
        "layouts": [found.first.layout, found.second.layout],
        "identical": found.identical,
        "differing": [{"slot": str(d.slot), "absolute": d.absolute, "ulps": d.ulps} for d in found.differing],
        "only": [[str(slot) for slot in found.only_first], [str(slot) for slot in found.only_second]],
        "contracts": {key: list(pair) for key, pair in found.contracts.items()},
    }
    _say("diff", result, as_json, terminal.difference)
    raise typer.Exit(0 if found.same else 1)


@app.command()
def check(
    converted: Annotated[Path, typer.Argument(help="The port: a converted file.")],
    against: Against = None,
    reference: Reference = None,
    src: Layout = None,
    kernels: Kernels = None,
    within: Within = None,
    mapping: Table = None,
    backend: Annotated[str, typer.Option(help="What runs the port: tensorflow, torch, jax or numpy.")] = "tensorflow",
    size: Annotated[list[int] | None, typer.Option(help="Pixels of the noise; may be given several times.")] = None,
    batch: Annotated[int, typer.Option(help="Images of noise at each size.")] = 2,
    images: Annotated[Path | None, typer.Option(help="A folder of your own pictures.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    limit: Annotated[float, typer.Option(help="Seconds that each run may take.")] = 600.0,
    save_reference: Annotated[Path | None, typer.Option(help="Keep the reference's run in this file (.npz).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write JSON, JUnit, Markdown and HTML into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a converted file is the same network; exit 1 when it is not."""
    from densenet_port.prove import images as probes
    from densenet_port.prove import parity
    from densenet_port.prove import report as reports

    found = parity.check(
        converted,
        against=against,
        src=mapping or src,
        kernels=_choice("--kernels", kernels, KERNELS),
        within=within,
        reference=reference,
        backend=backend,
        sizes=tuple(size) if size else probes.SIZES,
        batch=batch,
        images=images,
        seed=seed,
        limit=limit,
        save_reference=save_reference,
    )
    if report is not None:
        reports.write(found, report)
    _say("check", reports.to_json(found), as_json, lambda _data: reports.terminal(found))
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def diagnose(
    converted: Annotated[Path, typer.Argument(help="The port: a converted file.")],
    against: Against = None,
    reference: Reference = None,
    src: Layout = None,
    kernels: Kernels = None,
    within: Within = None,
    mapping: Table = None,
    backend: Annotated[str, typer.Option(help="What runs the port: tensorflow, torch, jax or numpy.")] = "numpy",
    as_json: AsJson = False,
) -> None:
    """Say which known mistake explains a difference, and on which units; exit 1 when there is one."""
    from densenet_port.prove import parity

    found = parity.check(
        converted,
        against=against,
        src=mapping or src,
        kernels=_choice("--kernels", kernels, KERNELS),
        within=within,
        reference=reference,
        backend=backend,
        sizes=(),
    )
    result = {"passed": found.passed, "where": found.where, "off": found.off, "findings": list(found.diagnosis)}
    _say("diagnose", result, as_json, terminal.diagnosis)
    raise typer.Exit(0 if found.passed else 1)


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A file that densenet-port wrote.")],
    golden: Annotated[
        Path | None, typer.Option(help="A saved reference; FILE.golden.npz is taken where it is.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a converted file's digests, and its logits against golden ones; no framework."""
    from densenet_port.conversion.convert import verify as verify_digests

    checkpoint = verify_digests(file)
    beside = golden or file.with_name(f"{file.name}.golden.npz")
    checks: list[dict[str, Any]] = []
    if golden or beside.is_file():
        from dataclasses import asdict

        from densenet_port.prove.parity import replay

        checks = [asdict(check) for check in replay(file, beside)]
    result = {
        "file": str(file),
        "tensors": len(checkpoint.tensors),
        "golden": str(beside) if checks else None,
        "passed": all(check["passed"] for check in checks),
        "checks": checks,
        "manifest": checkpoint.record,
    }
    _say("verify", result, as_json, terminal.verification)
    raise typer.Exit(0 if result["passed"] else 1)


@app.command()
def layouts(as_json: AsJson = False) -> None:
    """List the layouts that have a table, the networks each can hold, and what verifies it."""
    from dataclasses import asdict

    from densenet_port.layouts import cards as support
    from densenet_port.layouts.layout import Layout
    from densenet_port.network.contract import Contract

    cells = list(support.matrix())
    rows = []
    for table in map(Layout.load, dict.fromkeys(cell.layout for cell in cells)):
        card = support.card_of(table.layout)
        whole = table.carried >= Contract().to_json().keys()
        rows.append(
            {
                "layout": table.layout,
                "about": table.about,
                "writes": list(table.containers),
                "contract": "the source's" if whole else table.contract.to_json(),
                "carried": sorted(table.carried),
                "reference": table.reference,
                "support": {c.architecture: [c.source, c.target] for c in cells if c.layout == table.layout},
                "card": asdict(card) if card else None,
                "sha256": table.digest,
            }
        )
    _say("layouts", {"layouts": rows}, as_json, terminal.layouts)


@app.command()
def archs(as_json: AsJson = False) -> None:
    """List the architectures that have a name."""
    from densenet_port.network.architecture import NAMED

    rows = [
        {
            "arch": name,
            "depth": arch.depth,
            "trainable": arch.trainable,
            "statistics": arch.statistics,
            "tensors": len(arch.slots),
            "classes": arch.classes,
            "numbers": arch.to_json(),
            "spec": arch.spec,
        }
        for name, arch in NAMED.items()
    ]
    _say("archs", {"archs": rows}, as_json, terminal.archs)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, and where things are."""
    from densenet_port.fetch.registry import cache, registry
    from densenet_port.files import resource
    from densenet_port.layouts.layout import Layout
    from densenet_port.layouts.layout import layouts as known

    result = {
        "version": __version__,
        "python": sys.version.split()[0],
        "core": _versions("numpy", "typer", "rich", "jinja2", "platformdirs", "urllib3", "filelock"),
        "extras": {extra: _versions(*names) for extra, names in EXTRAS.items()},
        "mappings": str(resource("mappings")),
        "layouts": [Layout.load(name).layout for name in known()],
        "registered": [f"{source} {arch}" for source, arch in registry()],
        "cache": str(cache()),
    }
    _say("doctor", result, as_json, terminal.doctor)


@app.command()
def demo(as_json: AsJson = False) -> None:
    """Convert the small trained network that comes with the package, and show that it is still the same."""
    from dataclasses import asdict

    from densenet_port.conversion.demo import demo as run

    _say("demo", asdict(run()), as_json, terminal.demo)


# -- releases ----------------------------------------------------------------------------------------------------------

release_app = typer.Typer(no_args_is_help=True, help="Weight files that anyone can verify: build, verify, publish.")
app.add_typer(release_app, name="release")


@release_app.command("build")
def build_release(
    out: Annotated[Path, typer.Option(help="The release's folder; what is in it from the same inputs is kept.")],
    src: Annotated[str, typer.Option("--src", help="The layout of the checkpoints.")] = "torchvision",
    arch: Annotated[list[str] | None, typer.Option(help="An architecture; may be given several times.")] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="A file for each --arch, in their order; without, the registered ones.")
    ] = None,
    tag: Annotated[str, typer.Option(help="The release's tag.")] = f"v{__version__}",
    licence: Annotated[str | None, typer.Option(help="The licence of files that are not registered.")] = None,
    backend: Annotated[str, typer.Option(help="What runs the port: tensorflow, torch, jax or numpy.")] = "tensorflow",
    size: Annotated[list[int] | None, typer.Option(help="Pixels of the noise; may be given several times.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds that each run may take.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Convert and check networks, and lay out those that passed as a release; exit 1 when one did not."""
    from densenet_port.network.architecture import Architecture
    from densenet_port.release.build import build
    from densenet_port.release.network import Options

    options = Options(backend=backend, sizes=tuple(size)) if size else Options(backend=backend)
    archs = [Architecture.named(name) for name in arch or ()]
    with _bar("building") as progress:
        done = build(
            out,
            src=src,
            archs=archs,
            checkpoints=checkpoint or (),
            tag=tag,
            options=options,
            limit=limit,
            licence=licence,
            progress=progress,
        )
    networks = [
        {
            "network": network.name,
            "passed": network.passed,
            "kept": network.kept,
            "files": [file.name for file in network.files],
            "failed": list(network.failed),
            "report": str(network.report) if network.report else None,
        }
        for network in done.networks
    ]
    _say(
        "release-build",
        {"folder": str(out), "tag": tag, "passed": done.passed, "networks": networks},
        as_json,
        terminal.built,
    )
    raise typer.Exit(0 if done.passed else 1)


@release_app.command("verify")
def verify_release(
    place: Annotated[str, typer.Argument(help="A folder, the URL of a release's files, or OWNER/NAME@TAG on GitHub.")],
    key: Annotated[Path | None, typer.Option(help="The public key (PEM) that the signature must be of.")] = None,
    as_json: AsJson = False,
) -> None:
    """Verify a release: digests, signature, tensors and golden logits; exit 1 when anything is not as it was."""
    from dataclasses import asdict

    from densenet_port.release.verify import verify as verify_all

    with _bar("downloading") as progress:
        found = verify_all(place, key=key, progress=progress)
    result = {
        "place": place,
        "tag": found.manifest.tag,
        "files": [file.name for file in found.manifest.files],
        "passed": found.passed,
        "checks": [asdict(check) for check in found.checks],
        "notes": list(found.notes),
    }
    _say("release-verify", result, as_json, terminal.verified)
    raise typer.Exit(0 if found.passed else 1)


@release_app.command("publish")
def publish_release(
    folder: Annotated[Path, typer.Argument(help="The release's folder.")],
    repo: Annotated[str, typer.Option(help="The repository on GitHub, OWNER/NAME.")],
    tag: Annotated[str | None, typer.Option(help="The tag; it must be the one that was built.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Upload files anew that are there and differ.")] = False,
    sign_key: Annotated[Path | None, typer.Option(help="Sign the manifest with this private key (PEM).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a release to GitHub, or go on with it; the token is GITHUB_TOKEN or GH_TOKEN."""
    from dataclasses import asdict

    from densenet_port.release.github import GitHub
    from densenet_port.release.publish import publish

    with _bar("uploading") as progress:
        done = publish(
            folder,
            GitHub.of_environment(repo),
            tag=tag,
            replace=replace,
            dry_run=dry_run,
            key=sign_key,
            progress=progress,
        )
    _say("release-publish", asdict(done), as_json, terminal.published)


EXTRAS = {
    "keras": ("keras", "tensorflow"),
    "jax": ("keras", "jax"),
    "torch": ("torch", "torchvision"),
    "caffe": ("opencv-python-headless",),
    "onnx": ("onnx", "onnxruntime"),
    "sign": ("model-signing",),
}


# -- weight files by name, and the cache -------------------------------------------------------------------------------

cache_app = typer.Typer(no_args_is_help=True, help="The weight files that were fetched: list, verify, import, prune.")
app.add_typer(cache_app, name="cache")


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A registered file, such as torchvision-121 or imagenet-121.")],
    as_json: AsJson = False,
) -> None:
    """Take a registered weight file from the cache, or download it; print its path."""
    from densenet_port.fetch import stock
    from densenet_port.fetch.registry import named

    with _bar("downloading") as progress:
        path = named(name, progress=progress)
    _say("fetch", {"name": name, **stock.told(stock.entry_of(path))}, as_json, lambda data: str(data["path"]))


@cache_app.command("list")
def list_cache(as_json: AsJson = False) -> None:
    """List the weight files in the cache."""
    from densenet_port.fetch import stock
    from densenet_port.fetch.registry import cache

    result = {"folder": str(cache()), "files": [stock.told(entry) for entry in stock.held()]}
    _say("cache-list", result, as_json, terminal.cache)


@cache_app.command("verify")
def verify_cache(as_json: AsJson = False) -> None:
    """Hash every weight file in the cache anew; exit 4 when one is not what it was."""
    from densenet_port.errors import CorruptError
    from densenet_port.fetch import stock
    from densenet_port.fetch.registry import cache

    files = [stock.verified(entry) for entry in stock.held()]
    _say("cache-verify", {"folder": str(cache()), "files": files}, as_json, terminal.cache)
    raise typer.Exit(0 if all(file["state"] == "right" for file in files) else CorruptError.exit_code)


@cache_app.command("import")
def import_into_cache(
    file: Annotated[Path, typer.Argument(help="A registered file, brought by hand, whatever it is called.")],
    as_json: AsJson = False,
) -> None:
    """Copy a file into the cache, if its digests are those of a registered one."""
    from densenet_port.fetch import stock

    _say("cache-import", stock.told(stock.brought(file)), as_json, lambda data: str(data["path"]))


@cache_app.command("prune")
def prune_cache(
    everything: Annotated[
        bool, typer.Option("--all", help="Remove what was fetched, and what first came, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what broken downloads left in the cache."""
    from densenet_port.fetch import stock

    removed = [str(path) for path in stock.pruned(everything=everything)]
    _say("cache-prune", {"removed": removed}, as_json, lambda _data: "\n".join(removed) or "nothing to remove")


# -- what the commands stand on ----------------------------------------------------------------------------------------

KERNELS = ("theano", "tensorflow")


def _choice(option: str, value: str | None, allowed: tuple[str, ...]) -> Any:
    """The value of an option, if it is one of those allowed."""
    if value is not None and value not in allowed:
        raise UsageError(f"unknown {option} {value!r}", hint=f"known: {', '.join(allowed)}")
    return value


def _architecture(text: str | None) -> "Architecture | None":
    """The architecture of `--arch`."""
    from densenet_port.network.architecture import Architecture

    return Architecture.named(text) if text else None


def _registered(src: str | None, architecture: "Architecture | None") -> Path:
    """The registered file for `--src` and `--arch`, when no checkpoint is named."""
    from densenet_port.fetch.registry import registered

    if src is None or architecture is None:
        raise UsageError("no CHECKPOINT given", hint="name a file; or give --src and --arch to take the registered one")
    with _bar("downloading") as progress:
        return registered(src, architecture, progress=progress)


def _stem(path: Path) -> str:
    """The file's name without the endings of any container."""
    return re.sub(r"(\.(weights\.h5|h5|hdf5|keras|safetensors|pth\.tar|pth|pt|bin|ckpt|tar))+$", "", path.name)


def _default_ending(dst: str | Path) -> str:
    from densenet_port.layouts.layout import Layout

    return Layout.load(dst).containers[0]


@contextmanager
def _bar(label: str) -> "Iterator[Callable[[int, int], None]]":
    """A progress bar on stderr while work lasts; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    with typer.progressbar(length=1, label=label, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total or done + 1
            bar.update(done - bar.pos)

        yield progress


def _versions(*names: str) -> dict[str, str | None]:
    """Distribution → installed version, or None; nothing is imported."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _conversion(done: "Conversion", target: Path | None) -> dict[str, Any]:
    """A conversion as JSON."""
    ledger = done.source.ledger
    rules: dict[str, int] = {}
    for rule in ledger.ignored.values():
        rules[rule] = rules.get(rule, 0) + 1
    return {
        "source": {
            "path": str(done.source.checkpoint.path),
            "container": done.source.checkpoint.container,
            "layout": done.source.layout,
            "prefix": ledger.prefix,
            "sha256": done.record["source"]["sha256"] or None,
        },
        "architecture": {"name": done.source.architecture.name, **done.source.architecture.to_json()},
        "contract": done.contract.to_json(),
        "ledger": {
            "used": len(ledger.claims),
            "ignored": rules,
            "filled": len(ledger.filled),
            "slots": len(done.source.architecture.slots),
        },
        "absorbed": done.absorbed,
        "target": {
            "path": str(done.out) if done.out else None,
            "would_be": None if done.out or target is None else str(target),
            "layout": done.target.layout,
            "bytes": done.out.stat().st_size if done.out else None,
        },
        "tensors": dict(done.record["tensors"]),
        "notes": list(done.notes),
    }


def _inspection(checkpoint: "Checkpoint", told: "Network | None", misfit: PortError | None) -> dict[str, Any]:
    """A checkpoint as JSON, fitting or not."""
    from densenet_port.checkpoint import array_digest

    slots = {claim.name: str(place) for place, claim in told.ledger.claims.items()} if told else {}
    ignored = told.ledger.ignored if told else {}
    return {
        "file": str(checkpoint.path),
        "bytes": checkpoint.path.stat().st_size,
        "container": checkpoint.container,
        "layout": told.layout if told else None,
        "prefix": told.ledger.prefix if told else None,
        "architecture": {"name": told.architecture.name, **told.architecture.to_json()} if told else None,
        "contract": told.contract.to_json() if told else None,
        "misfit": {"message": misfit.message, "hint": misfit.hint} if misfit else None,
        "metadata": {key: value for key, value in checkpoint.metadata.items() if key != "config"},
        "written_by": (checkpoint.record or {}).get("tool"),
        "tensors": [
            {
                "name": name,
                "slot": slots.get(name),
                "ignored": ignored.get(name),
                "shape": list(tensor.shape),
                "dtype": tensor.dtype,
                "sha256": array_digest(tensor.load()),
            }
            for name, tensor in checkpoint.tensors.items()
        ],
    }


# -- text --------------------------------------------------------------------------------------------------------------


def _say(command: str, result: Mapping[str, Any], as_json: bool, text: Callable[[Mapping[str, Any]], Any]) -> None:
    """Print a result as JSON, or as its text: a string or things that rich can draw."""
    if as_json:
        _print_json(command, result)
        return
    shown = text(result)
    if isinstance(shown, str):
        sys.stdout.write(shown + "\n")
        return
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    for part in shown:
        if isinstance(part, str):
            console.print(part, markup=False, soft_wrap=True)
        else:
            console.print(part)


def _print_json(command: str, result: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps({"schema": f"densenet-port/{command}/1", **result}, default=str, allow_nan=True) + "\n")


if __name__ == "__main__":
    main()
