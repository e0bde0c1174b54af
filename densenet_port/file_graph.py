"""The graph that a file has of its own: what its author's framework would run, operation by operation.

A reader of a container makes one of what stands in the file (a Keras model's configuration, a pickled module's classes
and attributes) and decides nothing: `network.follow` compares it with the graph of the network that the weights are.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

INPUT = "input"  # what goes in
AS_IN_TRAINING = "as in training"  # in the title of a step that works by each batch, or by chance

Pair = tuple[int, int]  # along height and width
_BLUR = ((2, 2), (0, 0, 0, 0))  # kernel and padding of the averages that are one blur, one behind the other


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One operation of a file's own graph.

    `name` says where it stands in the file and is its own; a layer that does several things is several steps
    (`predictions`, `predictions:activation`). `inputs` are names of steps, or INPUT. `title` is what a message calls
    it. `holder` is what the names of its tensors begin with, "" where it has none. The kinds are

        conv, dense                  with `holder`; a bias is for the tensors to tell
        norm                         batch normalisation by stored statistics along the channels; `holder`, `epsilon`
        scale                        a factor and an offset for each channel, as tensors of `holder`
        relu, concat (channels), mean, max (over height and width), identity
        flatten                      of a map with its channels last, or in the order that `function` says ("c h w")
        max_pool, average_pool       `kernel`, `stride`, `padding`, `rounding`
        zeros                        zeros around, `padding`
        pad                          one place around, mirrored
        blur                         [1 2 1]/4 along both axes for each channel, `stride`
        activation                   `function`, over all classes where it is a softmax
        affine                       times `factors` plus `offsets`: one number, or one for each channel; `held` are
                                     the tensors that the numbers are
        reverse                      the channels in the opposite order
        unknown                      what somebody's code makes of `inputs`, which is not in the file; steps within it
                                     read another such step, of which nothing is known

    and anything else is another kind, whatever the file calls it. `padding` is what stands above, left, below and
    right, or "same": TensorFlow's rule. `rounding` says whether a window that hangs over the edge counts ("ceil").
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    title: str
    holder: str = ""
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding: tuple[int, int, int, int] | Literal["same"] = (0, 0, 0, 0)
    rounding: Literal["floor", "ceil"] = "floor"
    epsilon: float = 0.0
    function: str = ""
    factors: tuple[float, ...] = (1.0,)
    offsets: tuple[float, ...] = (0.0,)
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGraph:
    """The steps by name, in an order in which each reads what stands before it, and the names of the outputs.

    `size` are the height and width of the images where the file fixes them. `unknown` says whose code stands around
    the steps, or between them, and is not in the file ("__main__.Net"): steps of the kind `unknown` are its.
    `notes` say what the file does that the steps leave out, `assumed` in words what code that is not followed may
    do beside steps that are all there.
    """

    steps: Mapping[str, Step]
    outputs: tuple[str, ...]
    size: Pair | None = None
    unknown: str = ""
    notes: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def below(self, name: str) -> "FileGraph":
        """The steps within a model or module; what they read from outside is the input, of a size that is not known."""
        starts = tuple(name.rstrip("./") + sign for sign in "./:")
        inside = {key: step for key, step in self.steps.items() if key.startswith(starts)}
        steps = {
            key: replace(step, inputs=tuple(read if read in inside else INPUT for read in step.inputs))
            for key, step in inside.items()
        }
        read = {name for step in steps.values() for name in step.inputs}
        unknown = self.unknown if any(step.kind == "unknown" for step in steps.values()) else ""
        outputs = tuple(name for name in steps if name not in read)
        return replace(self, steps=steps, outputs=outputs, unknown=unknown, size=None)


def with_blurs(steps: Mapping[str, Step]) -> dict[str, Step]:
    """The steps with two averages of two places, one behind the other, as the one blur that they are."""
    readers = Counter(read for step in steps.values() for read in step.inputs)
    made = dict(steps)
    for name, step in steps.items():
        before = steps.get(step.inputs[0]) if step.inputs else None
        if before and _is_half(step, (2, 2)) and _is_half(before, (1, 1)) and readers[before.name] == 1:
            made[name] = replace(step, kind="blur", inputs=before.inputs)
            del made[before.name]
    return made


def _is_half(step: Step, stride: Pair) -> bool:
    """Whether a step averages two by two places, without padding."""
    return step.kind == "average_pool" and (step.kernel, step.padding) == _BLUR and step.stride == stride
