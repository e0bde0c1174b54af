"""The sides of an evaluation: each a network in a process of its own, that answers batches.

A side is run by the software that `check` has run it, prepared by its own contract: what is evaluated is what whoever
uses the network gets. Frameworks do not share a process well, so every worker of an evaluation has a process for each
side beside it, which starts once; the worker decodes and prepares pictures, and asks one side after the other.
"""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from densenet_port.checkpoint import Array
from densenet_port.conversion.load import Network
from densenet_port.conversion.prediction import usual_resize
from densenet_port.errors import PortError
from densenet_port.evaluation.data import DataSet
from densenet_port.evaluation.statistics import SideName, Unread, of_batch
from densenet_port.network.contract import Input, Origin, Resize
from densenet_port.network.pictures import prepared, resized
from densenet_port.prove.job import Job
from densenet_port.prove.recording import job_of
from densenet_port.prove.reference import Reference
from densenet_port.prove.runners import runner
from densenet_port.prove.worker import environment
from densenet_port.work.pool import Process

Batch = tuple[int, int]  # the numbers of its pictures: from one up to another
Ran = dict[str, Any]  # what ran a side: its versions, how it came by the network, in which precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A network, the job that runs it, and how its pictures are resized; `resize_origin` says where that is known from.

    `because` says why it is not the software of its layout that runs, where it is not.
    """

    network: Network
    job: Job
    resize: Resize
    resize_origin: Origin
    because: str | None

    @property
    def preparation(self) -> Input:
        """What its pictures are after that."""
        return self.network.contract.input


def side_of(
    network: Network,
    reference: Reference,
    *,
    backend: str,
    threads: int,
    resize: Resize | None,
    other: Network | None,
    trust: bool,
) -> Side:
    """A network as a software runs it.

    `resize` is the user's word; without one a network's own word counts, then that of the `other` side, and then what
    is usual.
    """
    images = cast("Array", None)  # those come later
    job = job_of(network, reference.software, images, dtype="float32", backend=backend, threads=threads, trust=trust)
    known: Origin = network.origins.get("resize", "assumed")
    own, others = network.contract.resize, other and other.contract.resize
    return Side(
        network=network,
        job=replace(job, path=job.path.absolute(), repeated=True),  # whoever runs it may be in another folder
        resize=resize or own or others or usual_resize(network),
        resize_origin="user" if resize else known if own or not other else other.origins.get("resize", "assumed"),
        because=reference.because,
    )


# -- in a side's own process -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answerer:
    """What makes the function that answers batches of images `n h w c` by a job's network."""

    job: Job

    def __call__(self) -> Callable[[Array], dict[str, Any]]:
        """The function; the network is loaded when it is first asked."""
        run = runner(self.job.network)

        def answer(images: Array) -> dict[str, Any]:
            try:
                done = run(replace(self.job, images=images, taps={}))
            except PortError as error:
                return {"error": error}
            ran = {"read_by": done.read_by, "computed_in": done.computed_in, "versions": dict(done.versions)}
            return {"logits": np.asarray(done.logits), "ran": ran}

        return answer


# -- in a worker -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """What makes the function of a worker process: batches in, their statistics out, as plain JSON values.

    `jobs`, `resizes` and `inputs` are of each side, pictures of `channels`; `batch` is the number of images that a
    network gets at a time, always. `calibrated` is as in `of_batch`.
    """

    data: DataSet
    jobs: Mapping[SideName, Job]
    resizes: Mapping[SideName, Resize]
    inputs: Mapping[SideName, Input]
    channels: int
    batch: int
    calibrated: bool

    def __call__(self) -> Callable[[Batch], dict[str, Any]]:
        """The function, which keeps a process for each side; they end with this one."""
        sides = {side: _Process(job) for side, job in self.jobs.items()}

        def evaluate(batch: Batch) -> dict[str, Any]:
            try:
                return self._statistics(batch, sides)
            except PortError as error:
                return {"error": [error.kind, error.message, error.hint]}

        return evaluate

    def _statistics(self, batch: Batch, sides: Mapping[SideName, "_Process"]) -> dict[str, Any]:
        """The statistics of a batch, and what ran each side."""
        pictures = [*zip(range(*batch), self.data.read(*batch, self.channels), strict=True)]
        unread = [picture for _, picture in pictures if isinstance(picture, Unread)]
        read = {number: picture for number, picture in pictures if not isinstance(picture, Unread)}
        answers = self._answers([*read.values()], sides) if read else {}
        labels = None if self.data.labels is None else [self.data.labels[number] for number in read]
        logits = {side: answer["logits"][: len(read)] for side, answer in answers.items()}
        statistics = of_batch([*read], labels, logits, unread, calibrated=self.calibrated)
        return {"statistics": statistics.to_json(), "ran": {side: answer["ran"] for side, answer in answers.items()}}

    def _answers(
        self, pictures: Sequence[Array], sides: Mapping[SideName, "_Process"]
    ) -> dict[SideName, dict[str, Any]]:
        """What the sides answer; pictures are prepared once where both prepare them alike."""
        answers, before, images = {}, None, np.empty(0)
        for side, process in sides.items():
            how = self.resizes[side], self.inputs[side]
            if how != before:
                images = self._images(pictures, *how)
            answers[side], before = process.answer(images), how
        return answers

    def _images(self, pictures: Sequence[Array], resize: Resize, preparation: Input) -> Array:
        """Images `n h w c` float32, as many as a batch has: what is missing of it are zeros."""
        if self.data.prepared:
            ready = np.stack([np.asarray(picture, np.float32) for picture in pictures])
        else:
            ready = prepared(np.stack([resized(picture, resize, preparation) for picture in pictures]), preparation)
        missing = self.batch - len(ready)
        return np.concatenate([ready, np.zeros((missing, *ready.shape[1:]), np.float32)]) if missing else ready


class _Process:
    """A side's process, which is started again once where it ends."""

    def __init__(self, job: Job) -> None:
        """Start it."""
        self._job = job
        self._process = self._started()

    def _started(self) -> Process:
        """A process that has made its function. Raises PortError for one that cannot begin."""
        process = Process(environment(self._job.backend, self._job.threads))
        self._ask(process, pickle.dumps(Answerer(self._job)))
        return process

    def _ask(self, process: Process, message: bytes) -> Any:
        """What a process answers. Raises PortError, with its last line, where it ends."""
        try:
            return process.ask(message)
        except (OSError, EOFError) as error:
            raise PortError(f"{self._job.title} {process.ended()}") from error

    def answer(self, images: Array) -> dict[str, Any]:
        """Logits of a batch, and what ran. Raises what the run raises, and PortError where the process ends again."""
        message = pickle.dumps(images, protocol=5)
        try:
            answer, lost = self._process.ask(message)
        except (OSError, EOFError):
            self._process.ended()
            self._process = self._started()
            answer, lost = self._ask(self._process, message)
        if lost is not None:
            raise PortError(f"{self._job.title}: {lost}")
        if "error" in answer:
            raise answer["error"]
        result: dict[str, Any] = answer
        return result
