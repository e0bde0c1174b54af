"""Pictures are prepared as torchvision's presets and timm's transforms prepare them, to the bit."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from torchvision.models import DenseNet121_Weights

import densenet_port as dp
from densenet_port.errors import PortError
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.network.contract import Contract, Input, Resize, input_of, same_input
from densenet_port.network.pictures import prepared

CROPS = ("center", "squash", "border")  # as timm calls what `Resize.fit` says


@pytest.fixture(scope="module")
def photographs():
    """Scikit-learn's two, one of them also upright and one tiny: every way round of a ratio."""
    wide, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    return [wide, flower, wide.rotate(90, expand=True), flower.resize((100, 90))]


def bits(images):
    return [image.tobytes() for image in images]


def theirs(transform, pictures):
    """What a transform of torch's makes of pictures, channels last."""
    return [np.ascontiguousarray(transform(picture).numpy().transpose(1, 2, 0)) for picture in pictures]


def test_torchvision_s_preset_is_the_contract_of_its_table(photographs):
    """256 pixels, bilinear, the middle 224, then mean and deviation."""
    contract = Layout.load("torchvision").contract

    assert bits(dp.preprocess(photographs, contract)) == bits(
        theirs(DenseNet121_Weights.DEFAULT.transforms(), photographs)
    )


def test_timm_s_transforms_are_resizings(photographs):
    """What timm's densenets are evaluated with, every way to fit, an oblong, and interpolations."""
    usual = [(side, crop, fit, "bicubic") for side, crop in ((224, 0.875), (288, 0.95), (224, 1.0)) for fit in CROPS]
    others = [
        ((192, 256), 0.95, "center", "bilinear"),
        (224, 0.875, "center", "nearest"),
        (96, 0.9, "border", "lanczos"),
    ]

    different = []
    for side, crop, fit, interpolation in [*usual, *others]:
        transform = create_transform(side, crop_pct=crop, crop_mode=fit, interpolation=interpolation)
        sides = side if isinstance(side, tuple) else (side, side)
        fitting = "crop" if fit == "center" else fit
        resize = Resize(size=sides, crop=crop, interpolation=interpolation, fit=fitting)
        if bits(dp.preprocess(photographs, Contract(), size=resize)) != bits(theirs(transform, photographs)):
            different.append((side, crop, fit, interpolation))

    assert different == []


def test_timm_s_own_tables_resize_as_timm_does():
    """As the configuration of each network says it."""
    import timm

    for layout, name in (("timm-blur", "densenetblur121d"), ("timm-deep", "densenet264d")):
        known = timm.models.get_pretrained_cfg(name)
        resize = Layout.load(layout).contract.resize
        assert (resize.size, resize.crop, resize.interpolation) == (
            known.input_size[1:],
            known.crop_pct,
            known.interpolation,
        )


def test_files_of_every_mode_are_what_torchvision_s_loader_makes_of_them(photographs, tmp_path):
    """Palettes, transparency, grey, one bit, four inks; and an orientation that nobody applies."""
    small, preset = photographs[1].resize((300, 280)), DenseNet121_Weights.DEFAULT.transforms()
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    clear = small.convert("P")
    clear.info["transparency"] = bytes(range(256))
    files = {
        "palette.png": (clear, {"transparency": bytes(range(256))}),
        "alpha.png": (small.convert("RGBA"), {}),
        "grey.png": (small.convert("L"), {}),
        "grey-alpha.png": (small.convert("LA"), {}),
        "ink.png": (small.convert("1"), {}),
        "four-inks.jpg": (small.convert("CMYK"), {}),
        "turned.jpg": (small, {"exif": turned}),
    }
    paths = []
    for name, (image, options) in files.items():
        image.save(tmp_path / name, **options)
        paths.append(tmp_path / name)

    images = dp.preprocess(paths, Contract(resize=Resize()))

    opaque = [Image.open(path).convert("RGBA" if path.stem == "palette" else "RGB").convert("RGB") for path in paths]
    assert bits(images) == bits(theirs(preset, opaque))


def test_sixteen_bits_are_not_cut_off_at_255(photographs, tmp_path):
    """As Pillow does it: the picture is that of its upper eight bits."""
    grey = np.asarray(photographs[0].convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "flat.png")

    deep, flat = dp.preprocess([tmp_path / "deep.png", str(tmp_path / "flat.png")], Contract(), size=64)

    assert np.array_equal(deep, flat)


def test_arrays_and_images_are_the_same_pictures(photographs):
    """One, several, and in a list of anything; floats within a level of what eight bits round."""
    contract, pixels = Contract(resize=Resize(size=(64, 64))), np.asarray(photographs[0])
    expected = dp.preprocess(photographs[0], contract)

    several = dp.preprocess(np.stack([pixels, pixels]), contract)
    mixed = dp.preprocess([photographs[0], pixels, np.dstack([pixels, pixels[..., 0]])], contract)
    floats = dp.preprocess(pixels.astype(np.float64), contract)

    assert bits([*several, *mixed]) == bits([expected[0]] * 5)
    level = 1 / 255 / min(contract.input.std)
    assert np.abs(floats - expected).max() <= 2 * level  # each of two passes rounds by half a level at most, and cuts


def test_a_size_alone_leaves_the_rest_as_the_contract_says(photographs):
    """And pictures of that very size are taken as they are where nothing is cut off."""
    squashed = Contract(resize=Resize(crop=1.0, interpolation="bicubic", fit="squash"))

    images = dp.preprocess(photographs[0], squashed, size=64)

    whole = np.asarray(photographs[0].resize((64, 64), Image.Resampling.BICUBIC))
    assert bits(images) == bits(prepared(whole[None], Input())) == bits(dp.preprocess(whole, squashed, size=(64, 64)))


def test_pictures_are_prepared_as_the_contract_says():
    """Red first or blue first, any scale, grey where there is one channel."""
    pixels = np.array([[[[255, 0, 51]]]], np.uint8)
    caffe = Input(order="bgr", scale=1.0, mean=(103.94, 116.78, 123.68), std=(58.82, 58.82, 58.82))
    resize = Resize(size=(1, 1), crop=1.0)

    rgb, bgr = (dp.preprocess(pixels, Contract(input=picture, resize=resize)) for picture in (Input(), caffe))
    grey = dp.preprocess(pixels, Contract(resize=resize), channels=1)
    bright = dp.preprocess(pixels.astype(np.float32), Contract(resize=resize), channels=1)

    assert np.allclose(rgb, [[[[(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]]]])
    assert np.allclose(bgr, [[[[(51 - 103.94) / 58.82, -116.78 / 58.82, (255 - 123.68) / 58.82]]]])
    assert np.allclose(grey, [[[[(82 / 255 - 0.485) / 0.229]]]])
    assert np.allclose(bright, [[[[((0.299 * 255 + 0.114 * 51) / 255 - 0.485) / 0.229]]]])


@pytest.mark.parametrize("layout", layouts())
def test_an_input_is_found_again_by_what_it_does(layout):
    """Of every table: the factors and offsets that it means are those of the same input."""
    picture = Layout.load(layout).contract.input
    channels = len(picture.mean)

    again = input_of(*picture.linear(channels), picture.order)

    assert same_input(again, picture, channels)


NUMBERS = st.floats(0.001, 300).map(lambda number: float(f"{number:.6g}"))
INPUTS = st.builds(
    Input,
    order=st.sampled_from(["rgb", "bgr"]),
    scale=st.sampled_from([1.0, 127.5, 255.0, 58.82352941176471]),
    mean=st.tuples(*[st.just(0.0) | NUMBERS] * 3),
    std=st.tuples(*[NUMBERS] * 3),
)


@given(INPUTS, st.integers(0, 255))
def test_any_input_is_found_again_by_what_it_does(picture, level):
    """And it prepares the same images, up to float32's rounding of three operations and its numbers."""
    again = input_of(*picture.linear(3), picture.order)

    pixels = np.full((1, 1, 1, 3), level, np.uint8)
    one, other = (np.float64(prepared(pixels, each)) for each in (picture, again))
    size = (level / picture.scale + np.abs(picture.mean)) / picture.std
    assert same_input(again, picture, 3)
    assert np.all(np.abs(one - other) <= 16 * np.finfo(np.float32).eps / 2 * size)


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (
            np.zeros((8, 8, 3), np.uint8),
            {},
            (
                "the contract does not say how pictures are resized\n"
                "  size=224 takes the middle of 256 pixels; Resize(...) says it in full"
            ),
        ),
        ([], {"size": 8}, "no pictures were given"),
        (
            7,
            {"size": 8},
            "no picture: expected a path, bytes, an image of Pillow's, an array, or several of them, found int",
        ),
        (
            np.zeros((3, 8, 8), np.uint8),
            {"size": 8},
            "no picture: expected an array h w c or n h w c, red first or grey, found (3, 8, 8)",
        ),
        (np.zeros((8, 8, 3), int), {"size": 8}, "no picture: expected uint8, or floats from 0 to 255, found int64"),
        (
            np.full((8, 8, 3), 0.7),
            {"size": 8},
            "values up to 0.7 are no pixels\n  they run from 0 to 255: multiply by 255",
        ),
        (np.full((8, 8, 3), -0.5), {"size": 8}, "no picture: expected values from 0 to 255, found -0.5 to -0.5"),
        (np.full((8, 8, 3), np.nan), {"size": 8}, "no picture: expected values from 0 to 255, found nan to nan"),
        (
            np.zeros((8, 8, 3), np.uint8),
            {"size": 8, "channels": 4},
            "pictures have 1 or 3 channels, this network takes 4\n  give arrays n h w 4, pixels from 0 to 255",
        ),
        (
            np.zeros((8, 8, 4), np.uint8),
            {"size": 8, "channels": 4},
            "contract: input: expected numbers of 4 channels, found 3 means and 3 deviations",
        ),
        (
            Image.new("I", (8, 8)),
            {"size": 8},
            "a picture of mode 'I' has no known range\n  give it as floats from 0 to 255",
        ),
        ("none.png", {"size": 8}, "none.png: cannot be read: No such file or directory"),
        ("text.png", {"size": 8}, "text.png: cannot be read as a picture: cannot identify image file 'text.png'"),
    ],
)
def test_what_is_no_picture_is_said(images, settings, message, tmp_path, monkeypatch):
    """With the next step, where there is one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")

    with pytest.raises(PortError) as failure:
        dp.preprocess(images, Contract(), **settings)

    assert str(failure.value) == message


def test_files_need_pillow_and_arrays_of_the_right_size_do_not(monkeypatch):
    """The extra that brings it is named."""
    for name in ("PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)

    exact = dp.preprocess(np.zeros((8, 8, 3), np.uint8), Contract(), size=Resize(size=(8, 8), crop=1.0))
    with pytest.raises(PortError) as failure:
        dp.preprocess("cat.jpg", Contract(), size=8)

    assert exact.shape == (1, 8, 8, 3)
    assert failure.value.hint == 'pip install "densenet-port[pictures]"'
