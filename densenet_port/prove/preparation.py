"""What two sides say of how pictures are prepared: no logits of prepared images tell, so their contracts must agree.

Both sides of a comparison see the same prepared images. Whoever runs a port prepares pictures by its contract, and
another input there is another result, however equal the logits: it is a fault where both sides know theirs, and a note
where one is an assumption.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from densenet_port.network.contract import Input, same_input
from densenet_port.prove.checks import Check
from densenet_port.prove.recording import Recording

TITLE = "of pictures, as in the original"


class Difference(NamedTuple):
    """An entry of the contract that is another in the port: which mistake that looks like, and how to say it.

    `is_judged` says that both sides know theirs.
    """

    entry: str
    mistake: str
    says: str
    is_judged: bool

    def check(self) -> Check:
        """The check that failed."""
        name = f"{self.entry} {TITLE}"
        return Check(kind="preparation", name=name, passed=False, measured=None, bound=None, says=self.says)

    def finding(self) -> dict[str, Any]:
        """As a diagnosis lists it: on no unit, and measured by nothing."""
        return {
            "mistake": self.mistake,
            "says": self.says,
            "units": [],
            "before": None,
            "after": None,
            "detail": {"entry": self.entry},
        }


def differences(reference: Recording, answers: Recording) -> Iterator[Difference]:
    """What the port says of its pictures otherwise than the original; a resizing that nobody knows is no difference."""
    origins = [side.metadata.get("origins", {}) for side in (reference, answers)]
    original, port = reference.contract, answers.contract
    channels = reference.architecture.channels
    if mistake := _input_mistake(original.input, port.input, channels):
        words = [_shown(picture) for picture in (original.input, port.input)]
        yield _difference("input", *mistake, words, origins)
    if original.resize and port.resize and original.resize != port.resize:
        words = [str(original.resize), str(port.resize)]
        yield _difference("resize", "resize", "pictures are resized otherwise", words, origins)


def _difference(
    entry: str, mistake: str, sentence: str, words: Sequence[str], origins: Sequence[Mapping[str, str]]
) -> Difference:
    """One entry, with what either side says and where it knows that from."""
    known = [origin.get(entry, "assumed") for origin in origins]
    sides = [f"{word} ({origin})" for word, origin in zip(words, known, strict=True)]
    says = f"{sentence}: {sides[0]} in the original, {sides[1]} in the port"
    return Difference(entry, mistake, says, "assumed" not in known)


def _shown(picture: Input) -> str:
    """An input in words."""
    mean, std = ("/".join(f"{number:.4g}" for number in numbers) for numbers in (picture.mean, picture.std))
    return f"{picture.order}, scale {picture.scale:g}, mean {mean}, std {std}"


def _input_mistake(original: Input, port: Input, channels: int) -> tuple[str, str] | None:
    """The mistake that makes one input of another, as `diagnose` calls it, and a sentence; None for the same input."""
    if same_input(original, port, channels):
        return None
    if channels == 3 and (original.order == "bgr") != (port.order == "bgr"):
        return "channel-order", f"colours come {port.order} for {original.order}"
    for mistake, sentence, other in _mistaken(original):
        if same_input(other, port, channels):
            return mistake, sentence
    return "input", "pictures are prepared by other numbers"


def _mistaken(right: Input) -> Iterator[tuple[str, str, Input]]:
    """The inputs that known mistakes make of a right one."""
    yield "scale", "pixels are not divided by 255", replace(right, scale=right.scale / 255)
    yield "scale", "pixels are divided by 255 twice", replace(right, scale=right.scale * 255)
    squares, roots = (tuple(abs(one) ** power for one in right.std) for power in (2, 0.5))
    yield "variance", "variances stand for deviations", replace(right, std=squares)
    yield "variance", "deviations stand for variances", replace(right, std=roots)
    yield "no-normalization", "neither mean nor deviation is taken", replace(right, mean=(0.0,), std=(1.0,))
