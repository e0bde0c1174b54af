"""Commands for releases: build, verify, publish."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from densenet_port.about import __version__
from densenet_port.cli.base import Printing, app, help_of_group
from densenet_port.cli.options import BackendOption, Limit, Sizes, architecture_names, grouped, layout_names

if TYPE_CHECKING:
    from densenet_port.release.build import Built
    from densenet_port.release.publish import Published
    from densenet_port.release.verify import Verified

release_app = typer.Typer(
    callback=help_of_group,
    invoke_without_command=True,
    help="Weight files that anyone can verify: build, verify, publish.",
)
app.add_typer(release_app, name="release")


@release_app.command("build")
@grouped
def build_release(
    *,
    out: Annotated[Path, typer.Option(help="The release's folder; what is in it from the same inputs is kept.")],
    src: Annotated[
        str,
        typer.Option("--src", help="The layout of the checkpoints.", metavar="LAYOUT", autocompletion=layout_names),
    ] = "torchvision",
    arch: Annotated[
        list[str] | None,
        typer.Option(
            help="An architecture; may be given several times.", metavar="ARCH", autocompletion=architecture_names
        ),
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="A file for each --arch, in their order; without, the registered ones.")
    ] = None,
    tag: Annotated[str, typer.Option(help="The release's tag.")] = f"v{__version__}",
    licence: Annotated[str | None, typer.Option(help="The licence of files that are not registered.")] = None,
    backend: BackendOption = "tensorflow",
    size: Sizes = None,
    limit: Limit = 600.0,
    printing: Printing,
) -> None:
    """Convert and check networks, and lay out those that passed as a release; exit 1 when one did not."""
    from densenet_port.network.architecture import Architecture
    from densenet_port.release.build import build
    from densenet_port.release.network import Options

    options = Options(backend=backend, sizes=tuple(size)) if size else Options(backend=backend)
    with printing.bar("building") as progress:
        built = build(
            out,
            src=src,
            archs=[Architecture.named(name) for name in arch or ()],
            checkpoints=checkpoint or (),
            tag=tag,
            options=options,
            limit=limit,
            licence=licence,
            progress=progress,
        )
    printing.show("release-build", lambda: _built_json(built, out, tag), lambda: _built_text(built, out, tag))
    raise typer.Exit(0 if built.passed else 1)


def _built_json(built: "Built", folder: Path, tag: str) -> dict[str, Any]:
    networks = [
        {
            "network": network.name,
            "passed": network.passed,
            "kept": network.kept,
            "files": [file.name for file in network.files],
            "failed": list(network.failed),
            "report": str(network.report) if network.report else None,
        }
        for network in built.networks
    ]
    return {"folder": str(folder), "tag": tag, "passed": built.passed, "networks": networks}


def _built_text(built: "Built", folder: Path, tag: str) -> str:
    lines = []
    for network in built.networks:
        if network.passed:
            lines.append(f"{network.name}: {'kept' if network.kept else 'built'}, {len(network.files)} files")
        else:
            lines.append(f"{network.name}: FAILED its check, and is not in the release; see {network.report}")
            lines += [f"  {name}" for name in network.failed]
    any_passed = any(network.passed for network in built.networks)
    lines.append(f"{folder}: {f'release {tag}' if any_passed else 'no release'}")
    return "\n".join(lines)


@release_app.command("verify")
@grouped
def verify_release(
    place: Annotated[str, typer.Argument(help="A folder, the URL of a release's files, or OWNER/NAME@TAG on GitHub.")],
    *,
    key: Annotated[Path | None, typer.Option(help="The public key (PEM) that the signature must be of.")] = None,
    printing: Printing,
) -> None:
    """Verify a release: digests, signature, tensors and golden logits; exit 1 when anything is not as it was."""
    from densenet_port.release.verify import verify as verify_all

    with printing.bar("downloading") as progress:
        verified = verify_all(place, key=key, progress=progress)
    printing.show(
        "release-verify",
        lambda: _verified_json(verified, place),
        lambda: _verified_text(verified, place),
        cautions=[f"note: {note}" for note in verified.notes],
    )
    raise typer.Exit(0 if verified.passed else 1)


def _verified_json(verified: "Verified", place: str) -> dict[str, Any]:
    return {
        "place": place,
        "tag": verified.manifest.tag,
        "files": [file.name for file in verified.manifest.files],
        "passed": verified.passed,
        "checks": [{"name": e.name, "passed": e.passed, "says": e.detail} for e in verified.checks],
        "notes": list(verified.notes),
    }


def _verified_text(verified: "Verified", place: str) -> str:
    failed = [check for check in verified.checks if not check.passed]
    verdict = "every check passed" if verified.passed else f"{len(failed)} FAILED"
    counts = f"{len(verified.manifest.files)} weight files, {len(verified.checks)} checks, {verdict}"
    lines = [f"{place}: release {verified.manifest.tag}, {counts}"]
    for check in verified.checks:
        lines.append(f"  {check.name}: {check.detail}  {'ok' if check.passed else 'FAILED'}")
    lines += [f"note: {note}" for note in verified.notes]
    return "\n".join(lines)


@release_app.command("publish")
@grouped
def publish_release(
    folder: Annotated[Path, typer.Argument(help="The release's folder.")],
    *,
    repo: Annotated[str | None, typer.Option(help="The repository on GitHub, OWNER/NAME.")] = None,
    hub: Annotated[str | None, typer.Option(help="The repository on the Hugging Face Hub, OWNER/NAME.")] = None,
    tag: Annotated[str | None, typer.Option(help="The tag; it must be the one that was built.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Upload files anew that are there and differ.")] = False,
    sign_key: Annotated[Path | None, typer.Option(help="Sign the manifest with this private key (PEM).")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and change nothing.")] = False,
    printing: Printing,
) -> None:
    """Upload a release to GitHub (GITHUB_TOKEN or GH_TOKEN) or to the Hugging Face Hub, or go on with it."""
    from densenet_port.errors import UsageError

    if (repo is None) == (hub is None):
        hint = "--repo OWNER/NAME for GitHub, --hub OWNER/NAME for the Hugging Face Hub"
        raise UsageError("a release is published in one place", hint=hint)
    words: dict[str, Any] = {"tag": tag, "replace": replace, "dry_run": dry_run, "key": sign_key}
    with printing.bar("uploading") as progress:
        if hub is not None:
            from densenet_port.release.hub import publish as publish_on_hub

            published = publish_on_hub(folder, hub, **words, progress=progress)
        else:
            from densenet_port.release.github import GitHub
            from densenet_port.release.publish import publish

            published = publish(folder, GitHub.of_environment(str(repo)), **words, progress=progress)
    printing.show("release-publish", lambda: asdict(published), lambda: _published_text(published))


def _published_text(published: "Published") -> str:
    lines = [f"  {step.doing} {step.name}{f': {step.why}' if step.why else ''}" for step in published.steps]
    lines += [f"note: {note}" for note in published.notes]
    state = "would be done (--dry-run)" if published.dry_run else f"done: {published.page}"
    lines.append(f"{published.repo} {published.tag}: {state}")
    return "\n".join(lines)
