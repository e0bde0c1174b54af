"""Tables are strict, and every tensor of every recorded checkpoint is claimed once."""

import ast
import hashlib
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from densenet_port.checkpoint import Checkpoint, Tensor
from densenet_port.conversion.convert import convert
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, UsageError
from densenet_port.files import resource
from densenet_port.layouts.identify import identify
from densenet_port.layouts.layout import Layout, layouts
from densenet_port.layouts.match import match
from densenet_port.layouts.scan import below, scan
from densenet_port.network.architecture import NAMED, Architecture, infer
from tests.record.keys import software_and_network

KEYS = Path(__file__).parent.parent / "data" / "keys"
LAYOUT_OF = {  # software whose names another table says
    "classification-models": "keras-applications",
    "pretrainedmodels": "torchvision",
    "timm": "torchvision",
    "torchreid_plain": "torchvision",
    "torchvision_dotted": "torchvision",
    "keras-applications_old": "keras-applications",
    "gluon_blocks": "gluon",
    "onnx_folded": "onnx",
}
SHARED = sorted((resource("mappings") / "shared").glob("*.toml"))
FIRST_TABLE = (resource("mappings") / "torchvision.toml").read_text(encoding="utf-8")


def recorded(path):
    """A checkpoint with the names, shapes and types that real software was seen to write; no values."""
    first, *lines = path.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    tensors = {name: (tuple(map(int, re.findall(r"\d+", shape))), dtype) for name, shape, dtype in rows}
    return sketch(tensors, path, **dict(re.findall(r"(\w+)=(\S+)", first)))


def sketch(tensors, path=Path("sketch.pth"), container="pth", **metadata):
    """A checkpoint of names → (shape, dtype) whose arrays are zeros."""
    return Checkpoint(
        path=path,
        container=container,
        metadata=metadata,
        tensors={n: Tensor(s, d, lambda s=s, d=d: np.zeros(s, d)) for n, (s, d) in tensors.items()},
    )


def spelled(layout, arch, prefix=""):
    """The names and shapes that a layout's table gives an architecture."""
    return spelled_by(Layout.load(layout), arch, prefix)


def spelled_by(layout, arch, prefix=""):
    """The names and shapes that a table gives an architecture."""
    rules = layout.spell(arch)
    return {
        prefix + rule.name: (
            tuple(arch.units[place.unit].sizes.get(a.strip("-"), 1) for a in rule.axes.split()),
            "float32",
        )
        for place, rule in rules.items()
    }


@pytest.mark.parametrize("path", sorted(KEYS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_recorded_tensor_is_claimed_once(path):
    """Table, architecture and real software agree: nothing missing, nothing left over, and the file says which."""
    software, name = software_and_network(path)

    ledger = identify(recorded(path))

    arch = Architecture.named(name)
    assert ledger.layout.name == LAYOUT_OF.get(software, software)
    assert (ledger.architecture.name, set(ledger.filled), ledger.problems) == (name, set(arch.slots), 0)
    assert len(ledger.claims) + len(ledger.ignored) == len(recorded(path).tensors)


@pytest.mark.parametrize("path", sorted((KEYS / "parts").glob("*.txt")), ids=lambda path: path.stem)
def test_the_encoder_of_a_recorded_network_is_read(path):
    """Segmentation networks keep torchvision's body below `encoder`, and a decoder beside it."""
    _, name = software_and_network(path)
    whole = recorded(path)

    ledgers = [identify(below(whole, "encoder"), no_top=True), identify(whole, no_top=True)]

    headless = Architecture.named(name).without_head()
    assert [(ledger.layout.name, ledger.architecture, ledger.problems) for ledger in ledgers] == [
        ("torchvision", headless, 0)
    ] * 2
    with pytest.raises(MisfitError, match="--no-top takes the body"):
        identify(whole)


def test_key_lists_of_every_layout_and_depth_are_recorded():
    """The lists that the test above stands on are all there."""
    found = {path.stem for path in KEYS.glob("*.txt")}

    depths = {
        **dict.fromkeys(("torchvision", "torchvision_dotted", "timm", "kimm", "caffe"), (121, 161, 169, 201)),
        **dict.fromkeys(("gpleiss", "mmpretrain", "pretrainedmodels", "torchreid_plain"), (121, 161, 169, 201)),
        **dict.fromkeys(("andreasveit", "gpleiss"), ("cifar-bc-100-12", "cifar-bc-250-24", "cifar-bc-190-40")),
        "classification-models": (121, 169, 201),
        **dict.fromkeys(("keras-applications", "keras-applications_old", "keras-hub"), (121, 169, 201)),
        "titu1994": (121, 161, 169),
        "monai": (121, 169, 201, 264),
        "torchxrayvision": (121,),
        "timm-blur": ("121d",),
        "timm-deep": ("264d",),
        "onnx": (121, 161, 169, 201),
        "onnx_folded": (121,),
        "onnx-caffe2": (121,),
    }
    assert found >= {f"{kind}-{arch}" for kind, many in depths.items() for arch in many}


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("layout", layouts())
def test_what_a_table_spells_it_also_reads(layout, name):
    """Source and target are one table: spelled names come back as the same slots."""
    arch, table = Architecture.named(name), Layout.load(layout)
    if any(getattr(arch, key) not in allowed for key, allowed in table.only.items()):
        with pytest.raises(MisfitError, match=f"{layout} cannot hold this network"):
            table.spell(arch)
        return

    ledger = match(scan(table, sketch(spelled(layout, arch))), arch)

    assert (ledger.filled, ledger.problems) == (tuple(arch.slots), 0)


@pytest.mark.parametrize("prefix", ["module.", "state_dict.module.densenet121.", "model.net."])
def test_a_prefix_is_found(prefix):
    """Whatever stands before every name is taken off, however deep."""
    ledger = identify(sketch(spelled("torchvision", NAMED["121"], prefix)))

    assert (ledger.prefix, ledger.problems) == (prefix, 0)


def test_two_networks_in_a_file_are_refused():
    """An ensemble or an EMA copy makes the choice the user's."""
    both = {**spelled("torchvision", NAMED["121"], "model."), **spelled("torchvision", NAMED["121"], "ema.")}

    with pytest.raises(MisfitError) as error:
        identify(sketch(both), src="torchvision")

    assert str(error.value) == (
        "sketch.pth: 2 networks in one file, under 'ema.', 'model.'\n"
        "  --within ema takes the network there; --within model takes the network there"
    )


@pytest.mark.parametrize("classes", [5, None])
def test_a_stem_that_no_software_builds_leaves_the_layout_that_has_the_head(classes):
    """The names of torchreid's body are torchvision's."""
    small = Architecture(layers=(2, 2), growth_rate=4, init_channels=8, stem="cifar-norm", classes=classes)
    table = replace(Layout.load("torchvision"), only={})

    ledger = identify(sketch(spelled_by(table, small)))

    assert (ledger.layout.name, ledger.architecture) == ("torchvision", small)


@pytest.mark.parametrize(("layers", "growth_rate"), [((2, 3, 2), 8), ((6, 12, 32, 32), 32)])
def test_numbers_never_decide_between_two_functions(layers, growth_rate):
    """A deep stem's pool has no tensors: nearly the numbers of one that is published are no evidence."""
    deep = Architecture(layers=layers, growth_rate=growth_rate, init_channels=2 * growth_rate, stem="deep")
    table = replace(Layout.load("timm-deep"), only={})

    with pytest.raises(MisfitError, match="2 layouts fit equally: timm-blur, timm-deep"):
        identify(sketch(spelled_by(table, deep)))


def test_without_names_the_order_decides():
    """Running numbers, wherever they start, give the k-th unit of a kind."""
    arch = Architecture(layers=(2, 2), growth_rate=4, init_channels=8, classes=5)
    counts = {"conv": 6, "norm": 6, "dense": 2}
    names, groups = {}, {"conv": "conv2d", "norm": "batch_normalization", "dense": "dense"}
    seen = {}
    for slot, rule in Layout.load("keras").spell(arch).items():
        kind = arch.units[slot.unit].kind
        numbers = seen.setdefault(kind, {})
        number = numbers.setdefault(slot.unit, counts[kind] + len(numbers))
        variable = rule.name.rpartition("/")[2]
        names[f"{groups[kind]}_{number}/{variable}"] = (arch.slots[slot], "float32")

    ledger = identify(sketch(dict(sorted(names.items())), container="weights-h5"), src="keras")

    assert (ledger.architecture, ledger.problems, len(ledger.claims)) == (arch, 0, len(arch.slots))


def test_two_layouts_that_fit_equally_are_refused():
    """Without names, ours and Keras's own 121 are the same file: the user must say."""
    arch, seen, names = NAMED["121"], {}, {}
    for slot, rule in Layout.load("keras").spell(arch).items():
        group = {"conv": "conv2d", "norm": "batch_normalization", "dense": "dense"}[arch.units[slot.unit].kind]
        number = seen.setdefault(group, {}).setdefault(slot.unit, len(seen[group]))
        names[f"{group}{f'_{number}' if number else ''}/{rule.name.rpartition('/')[2]}"] = (arch.slots[slot], "float32")

    with pytest.raises(MisfitError) as error:
        identify(sketch(names, container="weights-h5"))

    assert str(error.value) == (
        "sketch.pth: 5 layouts fit equally: keras, keras-applications, keras-hub, kimm, titu1994\n"
        "  say which one it is with --src keras or --src keras-applications or --src keras-hub or --src kimm "
        "or --src titu1994"
    )


def replaced(text, table=FIRST_TABLE):
    """The torchvision table with one `old → new` replacement, which must apply."""
    old, new = text
    assert old in table
    return table.replace(old, new, 1)


BODY_UNITS = "block{b}.layer{l}.conv1, block{b}.layer{l}.conv2, block{b}.layer{l}.norm1, block{b}.layer{l}.norm2"
UNITS = f"{BODY_UNITS}, final.norm, head.dense, stem.conv, stem.norm, transition{{b}}.conv, transition{{b}}.norm"
KEYS_OF_A_TABLE = ", ".join(
    [
        *(
            "about",
            "assumed",
            "body",
            "classes",
            "concatenation",
            "containers",
            "contract",
            "first",
            "flatten",
            "general",
        ),
        *("ignore", "include", "layout", "only", "order", "pool", "prefer", "reference", "tensors", "units", "when"),
    ]
)
CONTRACT = "epsilon, stem_stride, stem_padding, stem_pool, pool_rounding, head_pool, output, input, resize"
NUMBERS = "bottleneck, channels, classes, final_norm, growth_rate, head, init_channels, layers, reduction, stem"
FAULTS = [
    (("layout     =", "layuot     ="), f"unknown key 'layuot' (known: {KEYS_OF_A_TABLE})"),
    (('about      = "', 'about      = 3 # "'), "about: expected a string, found 3"),
    (("epsilon      = 1e-5", ""), "missing key 'contract.epsilon'"),
    (
        ("epsilon      = 1e-5", "epsilon = 1e-5\nmomentum = 0.9"),
        f"unknown key 'contract.momentum' (known: carried, {', '.join(sorted(CONTRACT.split(', ')))})",
    ),
    (("epsilon      = 1e-5", 'epsilon = "small"'), "contract.epsilon: expected a float, found 'small'"),
    (
        ('stem_padding = "symmetric"', 'stem_padding = "valid"'),
        "contract: stem_padding: expected one of symmetric, same, found 'valid'",
    ),
    (('order = "rgb", ', ""), "missing key 'contract.input.order'"),
    (('order = "rgb"', 'order = "rbg"'), "contract: input.order: expected one of rgb, bgr, grey, found 'rbg'"),
    (("mean = [0.485,", "mean = [485,"), "contract.input.mean[0]: expected a float, found 485"),
    (('"final.norm" ', '"final.norms" '), f"unknown key 'units.final.norms' (known: {UNITS})"),
    (('"stem.norm"               = "features.norm0"', ""), "missing key 'units.stem.norm'"),
    (
        ('"stem.norm"               = "features.norm0"', '"stem.norm" = []'),
        "units.stem.norm: expected at least one string, found []",
    ),
    (
        ('"classifier", "classifier.0"', '"out{_n}", "classifier.0"'),
        "units.head.dense: expected a pattern with no places, found 'out{_n}'",
    ),
    (
        ('"features.norm0"', '"features.norm{b}"'),
        "units.stem.norm: expected a pattern with no places, found 'features.norm{b}'",
    ),
    (
        ('"features.transition{b}.conv"', '"features.transition.conv"'),
        "units.transition{b}.conv: expected a pattern with {b}, found 'features.transition.conv'",
    ),
    (
        ('"features.norm5"', '"norm{b"'),
        "units.final.norm: expected a pattern, found 'norm{b': expected '}' before end of string",
    ),
    (('"{unit}.bias"\nnorm', '"bias"\nnorm'), "tensors.dense.bias.name: expected a pattern with {unit}, found 'bias'"),
    (
        ('axes = "o i h w"', 'axes = "o i h"'),
        "tensors.conv.kernel.axes: expected the axes 'h w i o' in some order, found 'o i h'",
    ),
    (('axes = "o i h w"', 'axis = "o i h w"'), "unknown key 'tensors.conv.kernel.axis' (known: axes, name)"),
    (
        ('{ name = "{unit}.weight", axes = "o i" }', '"{unit}.weight"'),
        "tensors.dense.kernel: expected an object, found '{unit}.weight'",
    ),
    ((', variance = "{unit}.running_var"', ""), "missing key 'tensors.norm.variance'"),
    (('include    = "torch"', 'include    = "tensorflow"'), "include: expected one of torch, found 'tensorflow'"),
    (('include    = "torch"', 'include    = ["torch"]'), "include: expected one of torch, found ['torch']"),
    (("first      = { b = 1", "first      = { c = 1"), "unknown key 'first.c' (known: b, h, l, n)"),
    (("only       = { stem", "only       = { stemm"), f"unknown key 'only.stemm' (known: {NUMBERS})"),
    (
        ('only       = { stem = "imagenet"', 'only       = { stem = "image"'),
        "only.stem: expected one of imagenet, cifar, cifar-norm, deep, or such as 5x5-norm, found 'image'",
    ),
    (("[units]", "[units"), "not TOML: Expected ']' at the end of a table declaration (at line 22, column 8)"),
    (
        ("[tensors]", '[order]\nconv = "conv_{n}"\nnorm = "n{_n}"\ndense = "d{_n}"\n[tensors]'),
        "order.conv: expected a pattern with {_n}, found 'conv_{n}'",
    ),
    (
        ("norm         = {", 'norm         = { fold = "divide",'),
        "tensors.norm.fold: expected one of batchnorm+scale, unscale, found 'divide'",
    ),
    (("norm         = {", 'norm         = { fold = "unscale",'), "missing key 'tensors.norm.factor'"),
    (
        ('axes = "o i h w"', 'axes = ["o i h w", "o i -h -x"]'),
        "tensors.conv.kernel.axes: expected the axes 'h w i o' in some order, found 'o i -h -x'",
    ),
    (('= "features.norm5"', '= { 201 = "features.norm5" }'), "missing key 'units.final.norm.any'"),
    (
        ('= "features.norm5"', '= { any = "features.norm5", 122 = "norm" }'),
        "units.final.norm: expected names of architectures, or any, found '122'",
    ),
    (
        ("epsilon      = 1e-5", 'epsilon = 1e-5\ncarried = ["epsilom"]'),
        f"contract.carried: expected some of {CONTRACT}, found 'epsilom'",
    ),
    (
        ('output       = "logits"', 'output = "logits"\nstem_pool = "mean"'),
        "contract: stem_pool: expected one of max, blur, none, found 'mean'",
    ),
    (
        ('conv.bias    = "{unit}.bias"', 'conv.bias    = "bias"'),
        "tensors.conv.bias.name: expected a pattern with {unit}, found 'bias'",
    ),
    (('"final.norm" ', '"stem.conv1" = "x"\n"final.norm" '), f"unknown key 'units.stem.conv1' (known: {UNITS})"),
    (
        ('only       = { stem = "imagenet"', 'only       = { stem = ["imagenet", "deep"]'),
        "missing key 'units.stem.conv1'",
    ),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_a_table_that_is_not_exactly_right_is_refused(tmp_path, change, message):
    """The error names the file and the key."""
    table = tmp_path / "mine.toml"
    table.write_text(replaced(change), encoding="utf-8")

    with pytest.raises(UsageError) as error:
        Layout.load(table)

    assert error.value.message == f"{table}: {message}"


def test_a_table_without_units_and_order_is_refused(tmp_path):
    """Nothing would say how a unit is called."""
    table = tmp_path / "mine.toml"
    table.write_text(re.sub(r"\[units\].*?(?=\[tensors\])", "", FIRST_TABLE, flags=re.DOTALL), encoding="utf-8")

    with pytest.raises(UsageError) as error:
        Layout.load(table)

    assert error.value.message == f"{table}: missing key 'units'"


@pytest.mark.parametrize(("unit", "kept"), [("stem.norm", "stem.conv"), ("stem.norm2", "stem.conv1")])
def test_a_stem_that_a_table_begins_must_be_whole(tmp_path, unit, kept):
    """A table that limits no stems names all units of those whose first convolution it has."""
    text = (resource("mappings") / "keras.toml").read_text(encoding="utf-8")
    table = tmp_path / "mine.toml"
    table.write_text(re.sub(rf'^"{unit}" .*$', "", text, flags=re.MULTILINE), encoding="utf-8")
    assert f'"{kept}"' in text

    with pytest.raises(UsageError) as error:
        Layout.load(table)

    assert error.value.message == f"{table}: missing key 'units.{unit}'"


@pytest.mark.parametrize("layout", layouts())
def test_every_key_of_a_table_is_read(layout, tmp_path):
    """No key can be misspelled without an error: a letter added to any of them is noticed."""
    text = (resource("mappings") / f"{layout}.toml").read_text(encoding="utf-8")
    text = re.sub(r"^(when|prefer) .*", r"\1 = {}", text, flags=re.MULTILINE)
    keys = set(re.findall(r'^"?([a-z][\w.{}]*)"? *=', text, re.MULTILINE)) | set(re.findall(r"[{,] *(\w+) +=", text))
    assert len(keys) > 20
    for key in keys:
        changed = tmp_path / "changed.toml"
        changed.write_text(
            re.sub(rf'(^|[ "{{,.]){re.escape(key)}("? *=)', rf"\g<1>{key}x\2", text, count=1, flags=re.MULTILINE)
        )
        assert changed.read_text() != text
        with pytest.raises(UsageError):
            Layout.load(changed)


def test_a_table_s_rules_are_those_it_includes_and_its_own():
    """In that order; every shared list is included by a table, and is none itself."""
    shared = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in SHARED}
    tables = {name: tomllib.loads(Layout.load(name).path.read_text(encoding="utf-8")) for name in layouts()}
    included = {name: table["include"] for name, table in tables.items() if "include" in table}

    for name, table in tables.items():
        rules = shared[included[name]]["ignore"] if name in included else []
        assert list(Layout.load(name).ignore) == [*rules, *table.get("ignore", [])]

    assert set(included.values()) == set(shared)
    assert set(shared) & set(layouts()) == set()


def test_a_table_s_digest_covers_what_it_includes():
    """Another rule in the shared list is another table."""
    plain, table = Layout.load("keras"), Layout.load("torchvision")
    (shared,) = SHARED

    assert plain.digest == hashlib.sha256(plain.path.read_bytes()).hexdigest()
    assert table.digest == hashlib.sha256(table.path.read_bytes() + shared.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ignore = []", "ignore: expected at least one string, found []"),
        ("", "missing key 'ignore'"),
        ('ignore = ["x"]\nwhen = {}', "unknown key 'when' (known: ignore)"),
        ("ignore =", "not TOML: Invalid value (at end of document)"),
    ],
)
def test_a_shared_list_holds_rules_and_nothing_else(tmp_path, monkeypatch, text, message):
    """An error names the shared file."""
    (tmp_path / "shared").mkdir()
    shared = tmp_path / "shared" / "torch.toml"
    shared.write_text(text, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(FIRST_TABLE, encoding="utf-8")
    monkeypatch.setattr("densenet_port.layouts.layout.resource", lambda _: tmp_path)

    with pytest.raises(UsageError) as error:
        Layout.load("mine")

    assert error.value.message == f"{shared}: {message}"


def test_an_unknown_layout_names_the_known_ones():
    """The error lists what there is."""
    with pytest.raises(UsageError) as error:
        Layout.load("mxnet")

    assert str(error.value) == f"unknown layout 'mxnet'\n  known: {', '.join(layouts())}"


def strings_of(path):
    """Every string that a module's code holds, docstrings aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docstrings
    ]


def test_no_layer_name_of_any_framework_stands_in_python():
    """Tables state facts, code holds none: no spelled unit of a table is in the package's strings."""
    package = resource("mappings").parent / "densenet_port"
    code = "\n".join(text for path in package.rglob("*.py") for text in strings_of(path))
    for layout in set(layouts()) - {"keras", "onnx", "onnx-caffe2"}:  # which have the names of our own units
        for patterns in Layout.load(layout).units.values():
            stems = {re.split(r"\{\w+\}", pattern)[0] for pattern in patterns} - {
                "transition",
                "linear",
                "batchnorm",
                "dense_block",
                "logits",
                "batch_norm",
                "output",
                "BatchNorm",
            }  # words of ours
            assert [stem for stem in stems if len(stem) > 5 and stem in code] == [], layout


def test_inference_needs_the_first_layer():
    """Without a stem or a first layer there is nothing to count from."""
    with pytest.raises(MisfitError, match=r"no DenseNet without block1.layer1.conv1"):
        infer({"stem.conv": {"h": 7, "w": 7, "i": 3, "o": 64}})


# -- folds, orders of axes, own names ----------------------------------------------------------------------------------

SMALL = Architecture(layers=(2, 2), growth_rate=4, init_channels=8, classes=5)
TWO_WAYS = 'conv.kernel  = { name = ["{unit}.weight", "{unit}.W"], axes = ["h w i o", "o i -h -w", "o i h w"] }'
TWO_MAPS = '{ fold = "batchnorm+scale", second_scale = "{unit}.s.weight", second_shift = "{unit}.s.bias", scale'
THEANO = {
    'layout     = "torchvision"': 'layout     = "mine"',
    'conv.kernel  = { name = "{unit}.weight", axes = "o i h w" }': TWO_WAYS,
    "norm         = { scale": f"norm         = {TWO_MAPS}",
}


@pytest.fixture
def mine(tmp_path):
    """A table of one's own with a fold, and kernels of either order and direction."""
    text = FIRST_TABLE
    for change in THEANO.items():
        text = replaced(change, text)
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    return Layout.load(tmp_path / "mine.toml")


def file_of(table, ordering=None, stored=None, **metadata):
    """A file as the table writes it."""
    rules = table.spell(SMALL, ordering, stored)
    sizes = {place: {**SMALL.units[place.unit].sizes, "1": 1} for place in rules}
    shapes = {
        rule.name: (tuple(sizes[place][axis.removeprefix("-")] for axis in rule.axes.split()), "float32")
        for place, rule in rules.items()
    }
    return sketch(shapes, **metadata)


def test_a_fold_s_parts_are_claimed_one_by_one(mine):
    """Six tensors fill the four slots of a norm; the ledger counts both."""
    ledger = match(scan(mine, file_of(mine)), SMALL)

    norms = sum(unit.kind == "norm" for unit in SMALL.units.values())
    assert (ledger.problems, len(ledger.claims)) == (0, len(SMALL.slots) + 2 * norms)
    assert ledger.filled == tuple(SMALL.slots)


def test_a_missing_part_of_a_fold_is_missed(mine):
    """The error names the part, and its slots are not filled."""
    file = file_of(mine)
    tensors = {name: tensor for name, tensor in file.tensors.items() if name != "features.norm0.s.bias"}

    ledger = match(scan(mine, Checkpoint(path=file.path, container="pth", tensors=tensors)), SMALL)

    assert {str(place): name for place, name in ledger.missing.items()} == {
        "stem.norm.second_shift": "features.norm0.s.bias"
    }
    assert set(SMALL.slots) - set(ledger.filled) == {("stem.norm", "shift")}


@pytest.mark.parametrize(
    ("ordering", "stored", "metadata", "axes", "assumed"),
    [
        ("tf", None, {}, "h w i o", False),
        ("th", "theano", {}, "o i -h -w", True),
        ("th", "theano", {"kernels": "tensorflow"}, "o i h w", False),
        ("th", "tensorflow", {"kernels": "theano"}, "o i -h -w", False),
    ],
)
def test_sizes_tell_the_order_and_the_file_s_record_the_direction(mine, ordering, stored, metadata, axes, assumed):
    """The first order that fits holds; where two directions do and the file records neither, one is assumed."""
    ledger = match(scan(mine, file_of(mine, ordering, stored, **metadata)), SMALL)

    kernels = {claim.axes for key, claim in ledger.claims.items() if key.unit.endswith(("conv", "conv1", "conv2"))}
    assert (ledger.problems, kernels, ledger.kernels_assumed) == (0, {axes}, assumed)


def test_the_user_s_word_overrules_the_record(mine):
    """`--kernels` is asked for because files are wrong or silent."""
    file = file_of(mine, "th", "theano", kernels="tensorflow")

    ledger = match(scan(mine, file, "theano"), SMALL)

    assert (ledger.kernels, ledger.kernels_assumed) == ("theano", False)


def test_kernels_are_turned_and_norms_folded_into_the_same_function(mine, tmp_path):
    """A file written as Theano has it, with two affine maps, comes back to the bit."""
    network = read(resource("weights") / "sample" / "digits.pth")
    for out, options in {"a.pth": {"dim_ordering": "th", "dst_kernels": "theano"}, "b.pth": {}}.items():
        convert(network.checkpoint.path, dst=mine.path, out=tmp_path / out, **options)

        back = read(tmp_path / out, src=mine.path)

        assert [slot for slot in network.weights if not np.array_equal(back.weights[slot], network.weights[slot])] == []


def test_a_way_to_store_kernels_that_a_layout_does_not_have_is_refused(mine):
    """Asking for it is a mistake, not a preference."""
    with pytest.raises(UsageError, match=r"torchvision stores its kernels in one way only"):
        Layout.load("torchvision").spell(SMALL, "th")
    with pytest.raises(UsageError, match=r"mine has no kernels of ordering tf for theano"):
        mine.spell(SMALL, "tf", "theano")


def test_an_architecture_s_own_names_are_read_and_written(tmp_path):
    """One network of a family may spell a unit differently; `{n}` counts the layers of the block."""
    path = tmp_path / "mine.toml"
    change = (
        '"transition{b}.conv"      = "features.transition{b}.conv"',
        '"transition{b}.conv"      = { any = "features.transition{b}.conv", 201 = "features.last{b}_{n}.conv" }',
    )
    path.write_text(replaced(change), encoding="utf-8")
    table = Layout.load(path)

    spelled = {name: table.spell_units(NAMED[name])["transition2.conv"] for name in ("121", "201")}

    assert spelled == {"121": "features.transition2.conv", "201": "features.last2_12.conv"}
    for name in spelled:
        shapes = {rule.name: (NAMED[name].slots[slot], "float32") for slot, rule in table.spell(NAMED[name]).items()}
        assert (match(scan(table, sketch(shapes)), NAMED[name]).missing, len(shapes)) == ({}, len(NAMED[name].slots))


def test_a_table_without_units_writes_running_numbers(tmp_path):
    """Where a layout has no names, the k-th of a kind is called by its number, from the layout's first."""
    text = re.sub(
        r"\[units\].*?(?=\[tensors\])",
        '[order]\nconv = "c{_n}"\nnorm = "n{_n}"\ndense = "d{_n}"\n',
        FIRST_TABLE,
        flags=re.DOTALL,
    )
    (tmp_path / "mine.toml").write_text(text.replace("first      = { b = 1, l = 1 }", "first = { n = 1 }"))

    table = Layout.load(tmp_path / "mine.toml")

    spelled = table.spell_units(SMALL)
    assert (spelled["stem.conv"], spelled["final.norm"], spelled["head.dense"]) == ("c_1", "n_11", "d_1")
    assert match(scan(table, file_of(table)), SMALL).problems == 0


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("net.features.norm0.num_batches_tracked", "{unit}.num_batches_tracked"),
        ("net.features.norm7.num_batches_tracked", None),
        ("{unit}.num_batches_tracked", "a single number"),
        ("optimizer.state.0.step", "*optim*.state.*"),
        ("1.state.0.step", "*state.*.step"),
        ("val_loss", "a single number"),
        ("net.logit_scale", None),
    ],
)
def test_a_tensor_is_ignored_by_a_rule_or_not_at_all(name, rule):
    """A unit's rule holds for units that the file has, and every other for whole names."""
    tensors = {**spelled("torchvision", SMALL, "net."), name: ((), "float32")}

    scanned = scan(Layout.load("torchvision"), sketch(tensors))

    assert scanned.ignored == ({name: rule} if rule else {})
    assert [*scanned.unclaimed] == ([] if rule else [name])


def test_of_tables_that_fit_the_file_s_record_prefers_one(monkeypatch):
    """Where several tables fit, the one whose record the file has is taken; without it the user must say."""
    plain = Layout.load("torchvision")
    tables = {name: replace(plain, name=name, prefer={"package": name}) for name in ("a", "b")}
    monkeypatch.setattr("densenet_port.layouts.identify.layouts", lambda: tuple(tables))
    monkeypatch.setattr(Layout, "load", tables.__getitem__)
    file = spelled_by(plain, SMALL)

    assert [identify(sketch(file, package=name)).layout.name for name in tables] == ["a", "b"]
    with pytest.raises(MisfitError, match="sketch.pth: 2 layouts fit equally: a, b"):
        identify(sketch(file, package="c"))


def test_a_network_that_the_layout_s_software_can_have_is_preferred_first(monkeypatch):
    """What the software cannot build is read, but only where no other table fits."""
    plain = Layout.load("torchvision")
    tables = {
        "a": replace(plain, name="a", only={"growth_rate": (5,)}, prefer={"package": "a"}),
        "b": replace(plain, name="b"),
    }
    monkeypatch.setattr("densenet_port.layouts.identify.layouts", lambda: tuple(tables))
    monkeypatch.setattr(Layout, "load", tables.__getitem__)

    ledger = identify(sketch(spelled_by(plain, SMALL), package="a"))

    assert ledger.layout.name == "b"


def test_a_file_s_own_record_can_name_its_table(monkeypatch):
    """A table that asks for a record is tried for files that have it, and for no other."""
    plain = Layout.load("torchvision")
    special = replace(plain, name="special", when={"module": "a.Network"})
    monkeypatch.setattr("densenet_port.layouts.identify.layouts", lambda: ("special", "torchvision"))
    monkeypatch.setattr(Layout, "load", lambda layout: {"special": special, "torchvision": plain}[layout])

    records = ({}, {"module": "a.Network"})
    names = [identify(sketch(spelled("torchvision", SMALL), **record)).layout.name for record in records]

    assert names == ["torchvision", "special"]
