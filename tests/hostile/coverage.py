"""Coverage-guided fuzzing of a reader by atheris, with our mutators; without atheris, mutants at random.

    python -m tests.hostile.coverage .onnx [-max_total_time=600 and other options of libFuzzer]

atheris (https://github.com/google/atheris) keeps what reaches code that nothing reached before, and changes that again.
An error that is not of our family ends the run, with the input that caused it in `crash-…`.
"""

import random
import sys
import tempfile
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path

try:
    import atheris
except ImportError:
    atheris = None


def main() -> None:
    """Fuzz the container that the first argument names."""
    container = sys.argv.pop(1)
    formats = _readers()  # before anything else imports them
    from tests.hostile.fuzz import seeds_in

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seed = seeds_in(folder)[container].read_bytes()
        target = _target(formats, folder / f"y{container}")
        if not atheris:
            _at_random(container, seed, target)
            return
        corpus = folder / "corpus"
        corpus.mkdir()
        (corpus / "seed").write_bytes(seed)
        atheris.Setup([*sys.argv, f"-max_len={2 * len(seed)}", str(corpus)], target, custom_mutator=_mutator(container))
        atheris.Fuzz()


def _readers():
    """The room of the readers, all of it imported, and told to say where it goes."""
    with atheris.instrument_imports(include=["densenet_port.formats"]) if atheris else nullcontext():
        from densenet_port import formats

        for module in formats.READERS:
            import_module(f"densenet_port.formats.{module}")
    return formats


def _target(formats, path):
    """What reads bytes as a file; it raises what is not of our family."""
    from densenet_port.errors import PortError

    def read(data):
        path.write_bytes(data)
        try:
            for tensor in formats.read(path).tensors.values():
                tensor.load()
        except PortError:
            pass

    return read


def _mutator(container):
    """Our mutators as libFuzzer wants them, now and then its own."""
    from tests.hostile.mutants import mutant

    def change(data, most, seed):
        generator = random.Random(seed)  # noqa: S311 (nothing is secret)
        if generator.random() < 0.2:
            return atheris.Mutate(data, most)
        try:
            return mutant(container, data, generator).data[:most]
        except Exception:  # noqa: BLE001 (a mutant of a mutant of a mutant need be nothing that we know)
            return atheris.Mutate(data, most)

    return change


def _at_random(container, seed, target, count=10_000):
    """Mutants, one after another."""
    from tests.hostile.mutants import mutant

    for number in range(count):
        target(mutant(container, seed, random.Random(number)).data)  # noqa: S311 (nothing is secret)


if __name__ == "__main__":
    main()
