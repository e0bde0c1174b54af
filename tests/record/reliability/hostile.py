"""Mutants, malicious pickles, bombs, escapes and flipped bits, as sections of the page."""

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tests.record.reliability.part import Part, flowed, table

Measured = dict[str, Any]
REFUSED = ("corrupt", "misfit", "disk", "usage")
FATAL = ("signal", "hang", "memory")


def script(module: str, *words: str) -> str:
    """What a script of `tests.hostile` writes; it may end with 1, for what it found."""
    command = [sys.executable, "-m", f"tests.hostile.{module}", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"tests.hostile.{module} ended with {done.returncode}")
    return done.stdout


def of_kinds(counts: Counter, kinds: tuple[str, ...]) -> int:
    return sum(counts[kind] for kind in kinds)


# -- mutants -----------------------------------------------------------------------------------------------------------


def mutants(scale: float) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "fuzz.json")
        script("fuzz", "--count", str(round(20_000 * scale)), "--seed", "1", "--out", str(out))
        return dict(json.loads(out.read_text()))


def of_mutants(measured: Measured) -> str:
    from tests.hostile.fuzz import CHECKED
    from tests.hostile.mutants import MUTATORS

    rows, lacking = [], [f"`{container}`" for container in MUTATORS if container not in measured["containers"]]
    for container, result in measured["containers"].items():
        kinds, wrong = Counter(result["kinds"]), Counter(each["kind"] for each in result["wrong"])
        row = [f"`{container}`", f"{result['count']:,}", of_kinds(kinds, REFUSED), kinds["same"], kinds["other"]]
        row += [wrong["other"] if container in CHECKED else "–", kinds["untyped"], of_kinds(kinds, FATAL)]
        rows.append([*row, f"{result['slowest']:.2f} s", f"{result['memory'] / 2**20:.0f} MiB"])
    words = f"""A file of a small network, changed: bits and bytes anywhere, and by who knows the container, in its
        headers, entries, operations, fields, addresses and texts; sometimes so that the container's own checksums are
        made anew (a forgery). Each is read tensor by tensor, and as a network, in a process that may take 512 MiB and
        five seconds. *Another network* is what a file says that carries nothing against it, or was forged; *believed*
        are those of files with digests or checksums that should have shown it. Seed {measured["seed"]}; 20,000 of
        each is the aim, and the table says how many were run.
        {f"Not run at length yet: {', '.join(lacking)}." if lacking else ""}"""
    columns = ["container", "mutants", "refused", "the same", "another network", "believed", "other errors"]
    columns += ["signals, hangs, memory", "slowest", "memory at most"]
    return f"{flowed(words)}\n\n{table(columns, rows)}"


# -- others ------------------------------------------------------------------------------------------------------------


def incumbents(scale: float) -> Measured:
    return dict(json.loads(script("incumbents", str(round(2000 * scale)))))


def of_incumbents(measured: Measured) -> str:
    rows = []
    for reader, containers in measured["readers"].items():
        for container, both in containers.items():
            sides = [Counter(both[side]) for side in ("theirs", "ours")]
            cells = [cell for side in sides for cell in (side["other"], of_kinds(side, FATAL))]
            rows.append([reader, f"`{container}`", *cells])
    words = f"""{measured["count"]} damaged files of each container, bytes changed behind the writer's back, read by the
        library that people use, and by us: how many are read as other numbers, or under other names, without a word;
        and how many end the process, or take more than five seconds or 4 GiB. `.pth`, `.safetensors`, `.h5`,
        `.weights.h5`, `.onnx` and `.npz` are our own, whose digests only we know; that is what they are for.
        `packed.pth` is PyTorch's, packed again, `numpy.npz` NumPy's; `stream.pth` and `.caffemodel.h5` carry nothing
        that could show it."""
    columns = ["reader", "container", "other numbers", "fatal", "ours: other numbers", "ours: fatal"]
    return f"{flowed(words)}\n\n{table(columns, rows)}"


# -- pickles, bombs, escapes, bits -------------------------------------------------------------------------------------


def pickles(scale: float) -> Measured:
    return dict(json.loads(script("pickles", str(max(1, round(1 / scale))))))


def of_pickles(measured: Measured) -> str:
    outcomes = measured["outcomes"]
    counts = {kind: sum(outcomes[key] for key in outcomes if key.startswith(kind)) for kind in ("refused", "untyped")}
    heard = ", ".join(measured["heard"]) or "nothing"
    return flowed(f"""{measured["count"]:,} pickles: {measured["names"]} names, from the lists and advisories of
        picklescan, fickling, modelscan and modelaudit, in {measured["forms"]} forms (every operation that names or
        calls, protocols 0 to 5, nested, truncated, with a second pickle behind, hidden in hooks, types and storages),
        in {measured["containers"]} containers in turn, among them zips whose flags, names and checksums make scanners
        stop. {counts["refused"]:,} were refused, {outcomes.get("inert", 0):,} read as inert data beside a tensor: the
        call is written down, and `inspect` names it. {counts["untyped"]} ended in another error. Python's audit hook,
        which tells of imports, `exec`, processes, sockets and files that are opened, heard {heard} but the file itself
        being opened. Harm done: {len(measured["harm"])}.""")


def bombs(scale: float) -> Measured:
    return {"bombs": [json.loads(line) for line in script("fuse").splitlines()]}


def of_bombs(measured: Measured) -> str:
    rows = []
    for each in measured["bombs"]:
        outcome = "refused" if each["refused"] else f"**{each['kind']}**"
        size = f"{each['bytes'] / 1e6:.1f} MB" if each["bytes"] >= 1e5 else f"{each['bytes'] / 1e3:.1f} kB"
        taken = f"{each['seconds']:.2f} s", f"{each['memory'] / 2**20:.0f} MiB"
        rows.append([each["name"], f"`{each['container']}`", size, outcome, *taken])
    good = sum(each["refused"] for each in measured["bombs"])
    words = f"""{good} of {len(rows)} are refused in less than a second of the processor and with less than 256 MiB.
        `tests/hostile/bombs.py` says what each would do, `densenet_port/formats/bounds.py` what no file needs."""
    return f"{flowed(words)}\n\n{table(['bomb', 'container', 'file', '', 'time', 'memory'], rows)}"


def escapes(scale: float) -> Measured:
    return dict(json.loads(script("escapes")))


def of_escapes(measured: Measured) -> str:
    return flowed(f"""{measured["count"]} files that point out of themselves: external data of ONNX (absolute, upwards,
        drives, shares, devices, links, a pipe), names of members of zips and tars, links in tars, HDF5's soft and
        external links, external storage and virtual datasets in both forms of the format, tables that include others,
        shards of an index, files and sums of a release, files of a repository on the Hub.
        {measured["refused"]} were refused, {len(measured["inert"])} read as what is in them,
        {len(measured["outside"])} opened or wrote anything outside, {len(measured["untyped"])} ended in another
        error.""")


def flips(scale: float) -> Measured:
    return dict(json.loads(script("flips", str(round(1000 * scale)))))


def of_flips(measured: Measured) -> str:
    rows = []
    outcomes: Counter = Counter()
    for container, ways in measured["containers"].items():
        cells = (
            " / ".join(str(counts.get(kind, 0)) for kind in ("found", "same", "other")) for counts in ways.values()
        )
        other = measured["beside"].get(container)
        bits = f"{other['bits'] - other['missed']:,} / {other['missed']}" if other else "–"
        rows.append([f"`{container}`", measured["count"][container], *cells, bits])
        for counts in ways.values():
            outcomes.update(counts)
    missed = outcomes["same"] + outcomes["other"] + sum(other["missed"] for other in measured["beside"].values())
    words = f"""One bit in each of so many files of each container that we write, anywhere, whether a reader looks at it
        or not: found / not found, and nothing that is read has changed / not found, and something else was read. The
        last column is of bits that are no tensor's, and of every bit near the record's schema: found when the file is
        opened / not. 1,000 of each container is the aim, and the table says how many were tried.
        {f"{missed} were missed" if missed else "All were found"}. In `.prototxt` the bit is in the text beside a
        `.caffemodel`. Every other command reads as these do. How, `densenet_port/formats/record.py` tells: every tensor
        has a digest, and all other bytes of the file have one together."""
    columns = ["container", "files", *next(iter(measured["containers"].values())), "beside the tensors"]
    return f"{flowed(words)}\n\n{table(columns, rows)}"


PARTS = {
    "mutants": Part("Mutants", mutants, of_mutants),
    "incumbents": Part("The same damage, read by others", incumbents, of_incumbents),
    "pickles": Part("Malicious pickles", pickles, of_pickles),
    "bombs": Part("Bombs", bombs, of_bombs),
    "escapes": Part("Paths that lead outside", escapes, of_escapes),
    "flips": Part("One flipped bit", flips, of_flips),
}
