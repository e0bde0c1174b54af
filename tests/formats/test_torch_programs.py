"""TorchScript archives and exported programs are read by their own graph, without torch, and nothing of them runs."""

import copy
import json
import re
import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms

import densenet_port as dp
from densenet_port.errors import CorruptError, MisfitError, PortError
from densenet_port.formats import read
from tests.formats.test_torch_graph import PIXELS, SIDE, SMALL, Change, verdict
from tests.support.networks import torchvision_network
from tests.support.torch_networks import timm_network

pytestmark = pytest.mark.filterwarnings("ignore")


def script(module, path, _pixels=None):
    """A program that torch compiled."""
    try:
        program = torch.jit.script(module)
    except RuntimeError as error:  # torch tells builtins by their addresses, which a list may come to have
        if "builtin cannot be used as a value" not in str(error):
            raise
        program = torch.jit.script(copy.deepcopy(module))
    program.save(path)


def trace(module, path, pixels=PIXELS[3]):
    """A program of what ran on pictures."""
    torch.jit.trace(module, pixels).save(path)


def export(module, path, pixels=PIXELS[3]):
    """An exported program."""
    torch.export.save(torch.export.export(module, (pixels,)), path)


SAVED = {"script": (script, "pt"), "trace": (trace, "pt"), "export": (export, "pt2")}
STOCK = {
    "stem_padding": "symmetric",
    "stem_stride": None,
    "epsilon": 1e-5,
    "stem_pool": "max",
    "pool_rounding": "floor",
    "output": "logits",
}


def changed(change):
    """A network in float64 with a change."""
    network = torchvision_network(SMALL, 0).double()
    change(network)
    return network.eval()


def norms_with(epsilon):
    """Another epsilon in every norm."""

    def change(network):
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = epsilon

    return change


def attribute(path, **values):
    """Other attributes of a module."""
    return lambda network: vars(network.get_submodule(path)).update(values)


def part(path, module):
    """Another module in a place."""

    def change(network):
        parent, _, own = path.rpartition(".")
        network.get_submodule(parent)._modules[own] = copy.deepcopy(module)

    return change


def head(*modules):
    """Modules behind the head."""

    def change(network):
        network.classifier = nn.Sequential(network.classifier, *modules)

    return change


LAYER = "features.denseblock1.denselayer1"
CHANGES = {
    "nothing": lambda _: None,
    "epsilon": norms_with(1e-3),
    "one epsilon": attribute("features.norm0", eps=1e-3),
    "stride": attribute("features.conv0", stride=(1, 1)),
    "padding": attribute("features.conv0", padding=(2, 2)),
    "dilation": attribute(f"{LAYER}.conv2", dilation=(2, 2), padding=(2, 2)),
    "no pool": part("features.pool0", nn.Identity()),
    "an average for the pool": part("features.pool0", nn.AvgPool2d(3, 2, 1)),
    "a pool that rounds up": attribute("features.pool0", ceil_mode=True),
    "transitions that round up": attribute("features.transition1.pool", ceil_mode=True),
    "a maximum for the average": part("features.transition1.pool", nn.MaxPool2d(2, 2)),
    "LeakyReLU": part("features.relu0", nn.LeakyReLU(0.1)),
    "SiLU": part(f"{LAYER}.relu1", nn.SiLU()),
    "Identity": part(f"{LAYER}.relu2", nn.Identity()),
    "Hardtanh": part("features.transition1.relu", nn.Hardtanh()),
    "Dropout": part("features.pool0", nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Dropout(0.5))),
    "zeros in front": part("features.relu0", nn.Sequential(nn.ReLU(), nn.ZeroPad2d(1))),
    "Sigmoid": head(nn.Sigmoid()),
    "Softmax": head(nn.Softmax(dim=1)),
    "LogSoftmax": head(nn.LogSoftmax(dim=-1)),
    "Softmax over the batch": head(nn.Softmax(dim=0)),
    "Tanh": head(nn.Dropout(0.5), nn.Tanh()),
    "ReLU6": head(nn.ReLU6()),
}
RIGHT = {
    "nothing",
    "epsilon",
    "stride",
    "no pool",
    "transitions that round up",
    "Dropout",
    *("Sigmoid", "Softmax"),
    "LogSoftmax",
    "Tanh",
}


@pytest.mark.parametrize("form", SAVED)
def test_no_change_of_a_program_makes_another_function_unseen(tmp_path, form):
    """Each is read rightly, with logits that agree, or refused."""
    save, ending = SAVED[form]
    verdicts = {
        what: verdict(Change(what, partial(changed, change)), "torchvision", tmp_path / f"x.{ending}", save)
        for what, change in CHANGES.items()
    }

    assert {what for what, kind in verdicts.items() if kind == "right"} == RIGHT
    assert Counter(verdicts.values()) == {"right": len(RIGHT), "refused": len(CHANGES) - len(RIGHT)}


@pytest.mark.parametrize("form", SAVED)
def test_a_program_says_its_contract(tmp_path, form):
    """All but the preparation of pictures, which is nowhere in it."""
    save, ending = SAVED[form]
    save(torchvision_network(SMALL, 0).double(), tmp_path / f"x.{ending}")

    network = dp.read(tmp_path / f"x.{ending}")

    assert (dict(network.evidence.facts), network.evidence.assumed) == (STOCK, ())


# -- preparations ------------------------------------------------------------------------------------------------------

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class Prepared(nn.Module):
    """A network behind a preparation of pictures, with tensors of its own."""

    def __init__(self, **tensors):
        """`kept` says whether they are in the state dict."""
        super().__init__()
        self.net = torchvision_network(SMALL, 0)
        kept = tensors.pop("kept", True)
        for name, values in tensors.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=kept)


class Numbers(Prepared):
    """Two numbers for all channels."""

    def forward(self, x):
        """The logits."""
        return self.net((x - 127.5) / 63.75)


class Negated(Prepared):
    """A number less the picture, which TorchScript has as a sum."""

    def forward(self, x):
        """The logits."""
        return self.net(2.0 * (255.0 - x))


class Mapped(Prepared):
    """Tensors of `c 1 1`, in place on a copy."""

    def forward(self, x):
        """The logits."""
        return self.net(x.clone().div_(255).sub_(self.mean.view(-1, 1, 1)).div_(self.std[:, None, None]))


class Batched(Prepared):
    """Tensors of `1 c 1 1`."""

    def forward(self, x):
        """The logits."""
        return self.net((x / 255 - self.mean[None, :, None, None]) * self.std.reshape(1, 3, 1, 1))


class Turned(Prepared):
    """Blue first, by a list of channels."""

    def forward(self, x):
        """The logits."""
        return self.net(x[:, [2, 1, 0]] / 255)


class Flipped(Prepared):
    """Blue first, and then numbers for each."""

    def forward(self, x):
        """The logits."""
        return self.net((x.flip(1) / 255 - self.mean.view(1, 3, 1, 1)) / self.std.view(1, 3, 1, 1))


class Last(Prepared):
    """Pictures whose channels are last, of bytes."""

    def forward(self, x):
        """The logits."""
        return self.net(x.permute(0, 3, 1, 2).to(torch.float64) / 255)


class Transformed(Prepared):
    """Torchvision's own normalisation."""

    def __init__(self):
        super().__init__()
        self.transform = transforms.Normalize(MEAN, STD)

    def forward(self, x):
        """It is a module, and its code a function of torchvision's."""
        return self.net(self.transform(x))


PREPARED = {
    "numbers": Numbers,
    "negated": Negated,
    "mapped": partial(Mapped, mean=MEAN, std=STD),
    "batched": partial(Batched, mean=MEAN, std=STD),
    "not in the state dict": partial(Mapped, mean=MEAN, std=STD, kept=False),
    "turned": Turned,
    "flipped": partial(Flipped, mean=MEAN, std=STD),
    "last": Last,
    "transformed": Transformed,
}


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("name", PREPARED)
def test_a_program_says_how_it_prepares_pictures(tmp_path, name, form):
    """The port, given pictures prepared by its contract, answers as the program does given the pictures."""
    if (name, form) == ("transformed", "export"):
        pytest.skip("torch cannot export torchvision's normalisation, which looks at its numbers")
    module = PREPARED[name]().double().eval()
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    given = torch.from_numpy(pixels if name == "last" else pixels.transpose(0, 3, 1, 2).astype(np.float64))
    save, ending = SAVED[form]
    path = tmp_path / f"x.{ending}"
    save(module, path, given)

    network = dp.read(path)

    assert (network.origins["input"], network.evidence.assumed) == ("graph", ())
    with torch.inference_mode():
        truth = module(given).numpy()
    np.testing.assert_allclose(network(prepared(pixels, network.contract.input)), truth, rtol=1e-9, atol=1e-9)


def prepared(pixels, said):
    """Pictures (`n h w c`, red first, from 0 to 255) as an input says, in float64."""
    ordered = pixels[..., ::-1] if said.order == "bgr" else pixels
    return (ordered / said.scale - np.array(said.mean)) / np.array(said.std)


class Squared(Prepared):
    """A product of two maps."""

    def forward(self, x):
        """The logits."""
        return self.net(x * x)


class Subtracted(Prepared):
    """Another number at each place."""

    def forward(self, x):
        """The logits."""
        return self.net(x - self.mean)


class Cut(Prepared):
    """What is behind the point is cut off."""

    def forward(self, x):
        """The logits."""
        return self.net((x / 2).to(torch.int64).to(torch.float64))


class CutMean(Prepared):
    """A mean whose part behind the point is cut off."""

    def forward(self, x):
        """The logits."""
        return self.net(x - self.mean.to(torch.int64).to(torch.float64).view(1, 3, 1, 1))


class Rounded(Prepared):
    """A division of whole numbers."""

    def forward(self, x):
        """The logits."""
        return self.net(torch.div(x, 2, rounding_mode="floor"))


class Shuffled(Prepared):
    """An order of channels that is none of colours."""

    def forward(self, x):
        """The logits."""
        return self.net(x[:, [1, 0, 2]])


class Tempered(Prepared):
    """Logits divided by a number."""

    def forward(self, x):
        """The logits."""
        return self.net(x) / 1.5


class Dropped(Prepared):
    """A tensor that is no part of it."""

    def forward(self, x):
        """The logits."""
        return self.net(x)


OTHERS = {
    "squared": Squared,
    "subtracted": partial(Subtracted, mean=np.ones((1, 3, SIDE, SIDE)).tolist()),
    "cut": Cut,
    "cut mean": partial(CutMean, mean=(123.675, 116.28, 103.53)),
    "rounded": Rounded,
    "shuffled": Shuffled,
    "tempered": Tempered,
    "dropped": partial(Dropped, mean=MEAN),
}


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_preparation_is_refused(tmp_path, name, form):
    """Nor is a tensor left out that no preparation has."""
    save, ending = SAVED[form]
    save(OTHERS[name]().double().eval(), tmp_path / f"x.{ending}")

    with pytest.raises(MisfitError):
        dp.read(tmp_path / f"x.{ending}")


class Ended(nn.Module):
    """A network whose last map becomes the head's vector in one of the ways that people write."""

    def __init__(self, end):
        super().__init__()
        self.net, self.end = torchvision_network(SMALL, 0), end
        self.wide: int = self.net.classifier.in_features
        self.half: int = self.wide // 2

    def forward(self, x):  # noqa: C901, PLR0911, PLR0912 (a way a line)
        """The logits."""
        last = torch.relu(self.net.features(x))
        if self.end == "mean":
            return self.net.classifier(last.mean([2, 3]))
        if self.end == "two means":
            return self.net.classifier(last.mean(-1).mean(-1))
        if self.end == "a mean of places":
            return self.net.classifier(last.flatten(2).mean(2))
        if self.end == "a mean of rows":
            return self.net.classifier(last.mean(3)[:, :, 0])
        if self.end == "a mean of its places":
            return self.net.classifier(last.view(last.size(0), last.size(1), -1).mean(2))
        if self.end == "a mean of height by width":
            n, c, h, w = last.shape
            return self.net.classifier(last.reshape(n, c, h * w).mean(2))
        if self.end == "a window of its size":
            return self.net.classifier(torch.nn.functional.avg_pool2d(last, last.size()[2:]).flatten(1))
        if self.end == "a mean of two channels":
            halves = last.view(last.size(0), self.half, -1).mean(2)
            return self.net.classifier(halves.repeat(1, 2))
        if self.end == "a mean of channels":
            return self.net.classifier(last.mean(1).flatten(1)[:, :1].expand(-1, self.net.classifier.in_features))
        mean = torch.nn.functional.adaptive_avg_pool2d(last, 1)
        if self.end == "squeeze twice":
            vector = mean.squeeze(-1).squeeze(-1)
        elif self.end == "squeeze":
            vector = mean.squeeze(3).squeeze(2)
        elif self.end == "squeeze all":
            vector = mean.squeeze()
        elif self.end == "places":
            vector = mean[:, :, 0, 0]
        elif self.end == "view":
            vector = mean.view(mean.size(0), -1)
        elif self.end == "reshape":
            vector = mean.reshape(x.shape[0], -1)
        elif self.end == "view of channels":
            vector = mean.view(-1, self.wide)
        elif self.end == "maximum":
            vector = torch.nn.functional.adaptive_max_pool2d(last, 1).flatten(1)
        elif self.end == "first channel":
            vector = last.mean([2, 3])[:, :1].expand(-1, self.net.classifier.in_features)
        elif self.end == "first place":
            vector = last[:, :, 0, 0]
        else:
            vector = last.std((2, 3))
        return self.net.classifier(vector)


OTHER_ENDS = (
    "a mean of two channels",
    "first channel",
    "first place",
    "deviation",
    "a mean of rows",
    "a mean of channels",
)
ENDS = (
    "mean",
    "two means",
    "a mean of places",
    "a mean of its places",
    "a mean of height by width",
    "a window of its size",
    "squeeze twice",
    "squeeze",
    "squeeze all",
    "places",
    "view",
    "view of channels",
    "reshape",
    "maximum",
)


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("end", [*ENDS, *OTHER_ENDS])
def test_a_vector_of_the_last_map_is_read_however_it_is_made(tmp_path, end, form):
    """Where it is a mean or a maximum; anything else is refused."""
    save, ending = SAVED[form]
    pixels = PIXELS[3].repeat(2, 1, 1, 1)
    module = Ended(end).double().eval()
    save(module, tmp_path / f"x.{ending}", pixels)

    if end not in ENDS:
        with pytest.raises(MisfitError):
            dp.read(tmp_path / f"x.{ending}")
        return
    network = dp.read(tmp_path / f"x.{ending}")
    with torch.inference_mode():
        truth = module(pixels).numpy()
    assert network.evidence.assumed == ()
    np.testing.assert_allclose(network(pixels.permute(0, 2, 3, 1).numpy()), truth, rtol=1e-9, atol=1e-12)


def test_a_compiled_network_of_timm_s_is_followed(tmp_path):
    """Its norms check the axes of what they read, and its layers take a map or a list of them."""
    module = timm_network(SMALL, "max").double()
    script(module, tmp_path / "x.pt")

    network = dp.read(tmp_path / "x.pt")

    assert network.evidence.assumed == ()
    with torch.inference_mode():
        truth = module.eval()(PIXELS[3]).numpy()
    np.testing.assert_allclose(network(PIXELS[3].permute(0, 2, 3, 1).numpy()), truth, rtol=1e-9, atol=1e-12)


class Looping(nn.Module):
    """A network within a loop."""

    def __init__(self):
        super().__init__()
        self.network = torchvision_network(SMALL, 0)

    def forward(self, x):
        """As many times as there are pictures."""
        total = self.network(x)
        for _ in range(x.shape[0]):
            total = total + self.network(x)
        return total


def test_a_program_that_is_not_followed_is_an_assumption(tmp_path):
    """Its tensors are read; nothing of its function is known."""
    script(Looping(), tmp_path / "x.pt")

    network = dp.read(tmp_path / "x.pt")

    assert network.evidence.assumed == (
        "what a TorchScript program whose code is not followed does around the network",
    )
    assert set(network.origins.values()) == {"assumed"}


@pytest.mark.parametrize("form", SAVED)
@pytest.mark.parametrize("count", [6, 3])
def test_an_answer_in_another_shape_is_another(tmp_path, form, count):
    """As many classes as there are do nothing; half as many make two rows of each picture."""

    class Shaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.count = torchvision_network(replace(SMALL, classes=6), 0), count

        def forward(self, x):
            return self.net(x).view(-1, self.count)

    save, ending = SAVED[form]
    module = Shaped().double().eval()
    save(module, tmp_path / f"x.{ending}", PIXELS[3].repeat(2, 1, 1, 1))

    if count == 3:
        with pytest.raises(MisfitError, match="behind head.dense expected the end, found view"):
            dp.read(tmp_path / f"x.{ending}")
        return
    with torch.inference_mode():
        truth = module(PIXELS[3]).numpy()
    answer = dp.read(tmp_path / f"x.{ending}")(PIXELS[3].permute(0, 2, 3, 1).numpy())
    assert np.allclose(answer, truth, rtol=1e-9, atol=1e-12)


class Clamped(nn.Module):
    """A network whose pictures are cut off in front."""

    def __init__(self):
        super().__init__()
        self.net = torchvision_network(SMALL, 0)

    def forward(self, x):
        """Logits of `n c h w`."""
        return self.net(x.clamp(0, 1))


@pytest.mark.parametrize("form", SAVED)
def test_the_network_within_a_program_is_found(tmp_path, form):
    """The refusal names the way, which leads to it."""
    save, ending = SAVED[form]
    module = Clamped().double().eval()
    save(module, tmp_path / f"x.{ending}")

    with pytest.raises(MisfitError, match="found clamp") as caught:
        dp.read(tmp_path / f"x.{ending}")
    assert caught.value.hint == "--within net takes what is a DenseNet of it"
    network = dp.read(tmp_path / f"x.{ending}", within="net")

    with torch.inference_mode():
        truth = module.net(PIXELS[3]).numpy()
    assert network.evidence.assumed == ()
    assert np.allclose(network(PIXELS[3].permute(0, 2, 3, 1).numpy()), truth, rtol=1e-9, atol=1e-12)


class Answering(nn.Module):
    """A network whose answer is in something."""

    def __init__(self, network, answer):
        super().__init__()
        self.network, self.answer = network, answer

    def forward(self, x):
        """Logits of `n c h w`, or with the last map."""
        features = self.network.features(x)
        mean = torch.nn.functional.adaptive_avg_pool2d(torch.relu(features), 1).flatten(1)
        return self.answer(self.network.classifier(mean), features)


ANSWERS = {
    "a tuple": (lambda logits, features: (logits, features), 2),
    "a dict": (lambda logits, features: {"logits": logits, "features": features}, 2),
    "a dict of one": (lambda logits, _: {"logits": logits}, 1),
    "without an axis of one class": (lambda logits, _: logits.squeeze(1), 1),
    "squeezed": (lambda logits, _: torch.sigmoid(logits).squeeze(), 1),
}


@pytest.mark.parametrize("form", ["trace", "export"])
@pytest.mark.parametrize("name", ANSWERS)
def test_the_answer_is_found_in_what_a_program_puts_out(tmp_path, name, form):
    """Nothing is assumed; that there are several values is said."""
    answer, count = ANSWERS[name]
    module = Answering(torchvision_network(replace(SMALL, classes=1), 0).double(), answer).eval()
    path = tmp_path / f"x.{SAVED[form][1]}"
    if form == "trace":
        torch.jit.trace(module, PIXELS[3], strict=False).save(path)
    else:
        export(module, path)

    port = dp.read(path)

    several = "the program puts out 2 values; a DenseNet has one, its head's or its last map"
    assert [note for note in port.evidence.notes if note == several] == [several] * (count - 1)
    assert port.evidence.assumed == ()
    with torch.inference_mode():
        truth = module.network(PIXELS[3]).numpy()
    assert np.allclose(port(PIXELS[3].permute(0, 2, 3, 1).numpy()), truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["trace", "export"])
def test_a_program_of_training_is_refused(tmp_path, form):
    """It normalises each batch by itself, whatever is called on it later; what was compiled asks its own setting."""
    save, ending = SAVED[form]
    network = torchvision_network(SMALL, 0).double().train()
    if form == "trace":
        torch.jit.trace(network, PIXELS[3].repeat(2, 1, 1, 1), check_trace=False).save(tmp_path / "x.pt")
    else:
        save(network, tmp_path / f"x.{ending}", PIXELS[3].repeat(2, 1, 1, 1))

    expected = r"expected a batch normalisation, found batch_norm \(.+\), as in training"
    with pytest.raises(MisfitError, match=expected) as caught:
        dp.read(tmp_path / f"x.{ending}")
    assert caught.value.hint == "call `model.eval()` on the module, and trace or export it again"
    script(network, tmp_path / "compiled.pt")
    assert dp.read(tmp_path / "compiled.pt").evidence.assumed == ()


def test_a_frozen_program_has_no_names(tmp_path):
    """Its tensors are constants with numbers."""
    torch.jit.freeze(torch.jit.script(torchvision_network(SMALL, 0))).save(tmp_path / "x.pt")

    with pytest.raises(MisfitError) as caught:
        dp.read(tmp_path / "x.pt")

    assert str(caught.value) == (
        f"{tmp_path / 'x.pt'}: a frozen TorchScript program, whose tensors have no names\n"
        "  in PyTorch, save the module's `state_dict()` before `torch.jit.freeze`"
    )


# -- hostile ones ----------------------------------------------------------------------------------------------------


def edited(path, end, edit):
    """The archive with another content in the member that ends so; torch may number a class that it compiles again."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            plain = re.sub(r"/___torch_mangle_\d+", "", name)
            archive.writestr(name, edit(data) if plain.endswith(end) else data)
    return path


CODE = {
    "no Python": b"def forward(self, x:\n",
    "endless brackets": b"x = " + b"[" * 100_000,
    "endless signs": b"x = " + b"-" * 200_000 + b"1",
    "endless calls": b"class DenseNet(Module):\n  def forward(self, x):\n    return (self).forward(x, )\n",
    "an import": b"import os\nclass DenseNet(Module):\n  def forward(self, x):\n    return os.system('touch sprung')\n",
    "a lambda": b"class DenseNet(Module):\n  def forward(self, x):\n    return (lambda: x)()\n",
    "no class": b"",
    "no text": b"\xff\xfe",
}


@pytest.mark.parametrize("code", CODE.values(), ids=CODE.keys())
def test_code_that_is_none_is_not_followed(tmp_path, monkeypatch, code):
    """Nothing of it runs, whatever it is."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    script(torchvision_network(SMALL, 0), path)

    network = dp.read(edited(path, "torchvision/models/densenet.py", lambda _: code))

    assert network.evidence.assumed == (
        "what a TorchScript program whose code is not followed does around the network",
    )
    assert not (tmp_path / "sprung").exists()


NUMBERS = {
    "a number without end": b"torch.sub(x, 1" + b"0" * 400 + b")",
    "a factor without end": b"torch.sub(x, 2, alpha=1" + b"0" * 400 + b")",
    "a list of no channels": b"torch.index(x, [None, torch.tensor([])])",
    "a constant that is none": b"torch.sub(x, CONSTANTS.c0)",
    "a shape that is none": b"torch.sub(x, torch.view(torch.tensor([1, 2]), [x, -1]))",
    "a division by nothing": b"torch.div(x, 0)",
    "an axis of many": b"torch.sub(x, torch.unsqueeze(torch.tensor([1]), 999999999999))",
    "a text of numbers": b"torch.sub(x, torch.tensor(['a']))",
}


@pytest.mark.parametrize("code", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_that_prepare_nothing_are_refused_or_not_followed(tmp_path, code):
    """No error but ours, and no preparation."""
    path = tmp_path / "x.pt"
    script(torchvision_network(SMALL, 0), path)
    body = b"class DenseNet(Module):\n  def forward(self, x):\n    return " + code + b"\n"

    try:
        network = dp.read(edited(path, "torchvision/models/densenet.py", lambda _: body))
    except MisfitError as error:
        assert "its own graph is another network" in str(error)  # noqa: PT017 (either will do)
    else:
        assert network.origins["input"] == "assumed"


def program(**changes):
    """An edit of an exported program's JSON, at its top."""
    return lambda data: json.dumps(json.loads(data) | changes).encode()


PROGRAMS = {
    "no JSON": ("model.json", lambda _: b"{"),
    "no graph": ("model.json", program(graph_module=3)),
    "endless": ("model.json", lambda _: b"[" * 200_000),
    "no list of weights": ("model_weights_config.json", lambda _: b"{}"),
    "a weight cut short": ("weight_0", lambda data: data[:100]),
}


@pytest.mark.parametrize(("end", "edit"), PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_broken_exported_program_is_an_error_of_ours(tmp_path, end, edit):
    """Of a file that is broken."""
    path = tmp_path / "x.pt2"
    export(torchvision_network(SMALL, 0).double(), path)

    with pytest.raises(CorruptError, match="x.pt2: "):
        dp.read(edited(path, end, edit))


def test_an_exported_program_is_its_state_dict(tmp_path):
    """The same names, with the same bits."""
    network = torchvision_network(SMALL, 0).double()
    export(network, tmp_path / "x.pt2")

    tensors = {name: tensor.load().tobytes() for name, tensor in read(tmp_path / "x.pt2").tensors.items()}

    assert tensors == {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def test_any_order_of_the_members_is_read(tmp_path):
    """The graph may stand anywhere in the archive."""
    path = tmp_path / "x.pt2"
    export(torchvision_network(SMALL, 0).double(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in reversed(archive.namelist())}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)

    try:
        facts = dict(dp.read(path).evidence.facts)
    except PortError as error:
        facts = {"error": str(error)}

    assert facts == STOCK
