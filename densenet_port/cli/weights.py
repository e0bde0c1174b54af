"""Commands for weight files by name, and the cache: fetch, cache list, verify, import, prune."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from densenet_port.cli.base import Printing, app, help_of_group, rows
from densenet_port.cli.options import grouped, registered_names

cache_app = typer.Typer(
    callback=help_of_group,
    invoke_without_command=True,
    help="The weight files that were fetched: list, verify, import, prune.",
)
app.add_typer(cache_app, name="cache")


@app.command()
@grouped
def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="A registered file, such as torchvision-121 or imagenet-121.", autocompletion=registered_names
        ),
    ],
    *,
    printing: Printing,
) -> None:
    """Take a registered weight file from the cache, or download it; print its path."""
    from densenet_port.conversion.load import port
    from densenet_port.fetch.registry import described, known_file, named

    with printing.bar("downloading") as progress:
        path = named(name, port=port, progress=progress)
    printing.show("fetch", lambda: {"name": name, **asdict(described(known_file(path)))}, lambda: str(path))


@cache_app.command("list")
@grouped
def list_cache(*, printing: Printing) -> None:
    """List the weight files in the cache."""
    from densenet_port.fetch.registry import described, listed

    _show_cache("cache-list", [asdict(described(entry)) for entry in listed()], printing)


@cache_app.command("verify")
@grouped
def verify_cache(*, printing: Printing) -> None:
    """Hash every weight file in the cache anew; exit 4 when one is not what it was."""
    from densenet_port.errors import CorruptError
    from densenet_port.fetch.cache import examine
    from densenet_port.fetch.registry import described, listed

    files = []
    for entry in listed():
        finding = examine(entry.expected, entry.path)
        files.append({**asdict(described(entry)), **finding._asdict()})
    _show_cache("cache-verify", files, printing)
    raise typer.Exit(0 if all(file["state"] == "right" for file in files) else CorruptError.exit_code)


@cache_app.command("import")
@grouped
def import_into_cache(
    file: Annotated[Path, typer.Argument(help="A registered file, brought by hand, whatever it is called.")],
    *,
    printing: Printing,
) -> None:
    """Copy a file into the cache, if its digests are those of a registered one."""
    from densenet_port.fetch.registry import described, import_file

    entry = import_file(file)
    printing.show("cache-import", lambda: asdict(described(entry)), lambda: str(entry.path))


@cache_app.command("prune")
@grouped
def prune_cache(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove what was fetched, and what first came, too.")
    ] = False,
    printing: Printing,
) -> None:
    """Remove what broken downloads left in the cache."""
    from densenet_port.fetch.registry import prune

    removed = [str(path) for path in prune(everything=everything)]
    printing.show("cache-prune", lambda: {"removed": removed}, lambda: "\n".join(removed) or "nothing to remove")


def _show_cache(command: str, files: Sequence[Mapping[str, Any]], printing: Printing) -> None:
    """Print the files of the cache, and where it is."""
    from densenet_port.fetch.cache import folder

    printing.show(
        command,
        lambda: {"folder": str(folder()), "files": files},
        lambda: [str(folder()), _cache_rows(files) if files else "  empty"],
    )


def _cache_rows(files: Sequence[Mapping[str, Any]]) -> Any:
    cells = []
    for file in files:
        state = ": ".join(filter(None, (file.get("state"), file.get("fault"))))
        digest = (file["sha256"] or "not hashed")[:12]
        known = (file["file"], file["source"], file["arch"], f"{file['bytes']:,}", file["known_by"])
        cells.append((*known, digest, state))
    return rows(("file", "source", "arch", "bytes", "known by", "SHA-256", ""), cells)
