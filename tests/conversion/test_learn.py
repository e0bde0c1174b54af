"""A table learned from a file reads it and writes it back; what a table cannot say is refused in words."""

import json
import re
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch

from densenet_port import formats
from densenet_port.about import __version__
from densenet_port.checkpoint import Tensor, array_digest
from densenet_port.conversion import learn as module
from densenet_port.conversion.learn import check_table, learn, table_of
from densenet_port.conversion.load import read
from densenet_port.errors import MisfitError, PortError, UsageError
from densenet_port.files import resource
from densenet_port.layouts.layout import Layout
from densenet_port.network.architecture import Architecture
from tests.cli.test_app import run
from tests.layouts.test_layout import KEYS, sketch, spelled
from tests.support.real import REAL
from tests.support.renamed import trained

LEARNED = KEYS.parent / "learned.toml"
BY_OTHER_SOFTWARE = ("caffe", "onnx")
LISTS = [path for path in sorted(KEYS.glob("*.txt")) if not path.stem.startswith(BY_OTHER_SOFTWARE)]
HEADED = [path for path in LISTS if "head=" in path.stem]
LISTS = [path for path in LISTS if path not in HEADED]
LISTS = [*{path.stem.partition("-")[0]: path for path in LISTS}.values()]  # one of each software: names are alike
NUMBERED = ("titu1994", "gluon")  # layers have nothing but running numbers; blocks have every second one


# -- recorded lists under other names ----------------------------------------------------------------------------------


def reworded(pattern):
    """A table's pattern with every word spelled backwards: `kcolbesned{b}` for `denseblock{b}`."""
    return re.sub(r"\{\w+\}|[A-Za-z]+", lambda hit: hit[0] if hit[0][0] == "{" else hit[0][::-1], pattern)


def in_other_words(layout):
    """A table with other words, whose blocks count from one less, or from 1 for 0, and whose layers from two more."""
    first = layout.first_numbers
    return replace(
        layout,
        units={unit: (reworded(patterns[0]),) for unit, patterns in layout.units.items()},
        exceptions={
            unit: {name: reworded(one) for name, one in own.items()} for unit, own in layout.exceptions.items()
        },
        first_numbers={**first, "b": first.get("b", 1) - 1 if first.get("b", 1) else 1, "l": first.get("l", 1) + 2},
    )


def under_other_words(path):
    """A recorded file whose names have other words and numbers, and the table that has these names."""
    file, ledger = trained(path)
    layout = in_other_words(ledger.layout)
    specs, units = layout.spell(ledger.architecture), layout.spell_units(ledger.architecture)
    tensors = {specs[key].name: claim.tensor for key, claim in ledger.claims.items() if key in specs}
    counters = [rule for rule in {*ledger.ignored.values()} if rule.startswith("{unit}")]
    norms = [unit for unit in ledger.architecture.units.values() if unit.kind == "norm"]
    scalar = Tensor((), "int64", lambda: np.zeros((), np.int64))
    tensors |= {rule.format(unit=units[unit.name]): scalar for rule in counters for unit in norms}
    return replace(file, tensors=tensors, metadata={}), layout


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_the_names_of_a_recorded_list_are_learned(path, tmp_path):
    """The table that is learned spells what the names were made by, and counts from the same numbers."""
    if path.stem.startswith(NUMBERED):
        with pytest.raises(MisfitError, match="no table can say its names"):
            learn(trained(path)[0], out=tmp_path / "mine.toml", force=True)
        return
    file, layout = under_other_words(path)

    learned = learn(file, out=tmp_path / "mine.toml")

    architecture = learned.network.architecture
    expected = {key: spec.name for key, spec in layout.spell(architecture).items()}
    assert learned.network.layout == "structure"
    assert {key: spec.name for key, spec in learned.layout.spell(architecture).items()} == expected
    assert learned.layout.first_numbers == {key: layout.first_numbers[key] for key in "bl"}


@pytest.mark.parametrize("path", HEADED, ids=lambda path: path.stem)
def test_the_names_of_a_head_of_several_layers_are_learned(path, tmp_path):
    """From the file as its own table reads it."""
    file, ledger = trained(path)

    learned = learn(file, out=tmp_path / "mine.toml", force=True)

    architecture = ledger.architecture
    assert (learned.layout.only["head"], learned.layout.spell(architecture).keys()) == (
        (architecture.head,),
        ledger.layout.spell(architecture).keys(),
    )


def test_the_layers_of_a_head_are_counted(tmp_path):
    """Where a number counts them all, they are one line."""
    head = "mean/norm/dense:6/relu/norm/dense:7/relu/dense"
    file = sketch(spelled("keras", Architecture(layers=(2, 2), growth_rate=4, init_channels=8, classes=5, head=head)))

    learned = learn(file, out=tmp_path / "mine.toml", force=True)

    assert learned.layout.first_numbers == {"b": 1, "l": 1, "h": 1}
    assert {unit: names[0] for unit, names in learned.layout.units.items() if "head" in unit} == {
        "head.norm{h}": "head_norm{h}",
        "head.dense{h}": "head_dense{h}",
        "head.dense": "head_dense",
    }


# -- files -------------------------------------------------------------------------------------------------------------

SMALL = Architecture(layers=(2, 3), growth_rate=4, init_channels=8, classes=5)
PLAIN = Architecture(layers=(3, 2), growth_rate=4, init_channels=8, classes=5, bottleneck=0, stem="cifar")
KINDS = {
    "a bottleneck": SMALL,
    "no bottleneck": PLAIN,
    "no final norm": replace(PLAIN, final_norm=False),
    "one block": replace(SMALL, layers=(4,)),
    "no compression": replace(SMALL, reduction=0.0),
    "no head": SMALL.without_head(),
    "three blocks, each transition another": replace(SMALL, layers=(2, 3, 2), reduction=(0.2, 0.5)),
    "a stem of three convolutions": replace(SMALL, stem="deep"),
}


def own(name):
    """A name of the table `onnx` in words of somebody's own, which count from 0."""
    name = name.replace("stem.", "entry.").replace("final.norm", "last").replace("head.dense", "answer")
    name = re.sub(r"block(\d)\.layer(\d)", lambda hit: f"stage{int(hit[1]) - 1}.unit_{int(hit[2]) - 1}", name)
    name = re.sub(r"transition(\d)", lambda hit: f"between.{int(hit[1]) - 1}", name)
    return name.replace(".mean", ".running_mean").replace(".variance", ".running_var")


def written(path, architecture, rename=own):
    """A file of a network with random numbers, under names of somebody's own; name → tensor."""
    generator = np.random.default_rng(0)
    names = {name: rename(name) for name in spelled("onnx", architecture)}
    state = {
        names[name].replace(".scale", ".weight").replace(".shift", ".bias"): torch.from_numpy(
            generator.uniform(0.5, 1.5, size).astype(np.float32)
        )
        for name, (size, _) in spelled("onnx", architecture).items()
    }
    torch.save(state, path)
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_table_writes_is_the_file_again(kind, tmp_path):
    """The same names with the same bits."""
    state = written(tmp_path / "own.pth", KINDS[kind])

    learned = learn(tmp_path / "own.pth", out=tmp_path / "mine.toml")
    network = read(tmp_path / "own.pth", src=tmp_path / "mine.toml")
    network.write(tmp_path / "again.pth", layout=tmp_path / "mine.toml")

    again = torch.load(tmp_path / "again.pth", weights_only=True)
    assert (network.layout, network.architecture) == ("mine", KINDS[kind])
    assert sorted(again) == sorted(state)
    assert [name for name, value in state.items() if not torch.equal(again[name], value)] == []
    assert learned.layout.first_numbers == {"b": 0, "l": 0}


@pytest.fixture
def table(tmp_path):
    """The path of a table learned from a small network, beside its file."""
    written(tmp_path / "own.pth", SMALL)
    return learn(tmp_path / "own.pth", out=tmp_path / "mine.toml").out


def test_the_table_is_as_one_writes_it_by_hand(table):
    """Every line of it."""
    assert table.read_text("utf-8") == LEARNED.read_text("utf-8").replace("VERSION", __version__)


def test_assumed_stands_where_the_origins_have_it(tmp_path):
    """In the comments of the contract, in the table's list, and in what a file is read as by the table."""
    written(tmp_path / "own.pth", SMALL)

    learned = learn(tmp_path / "own.pth", out=tmp_path / "mine.toml", contract={"epsilon": 1e-3, "stem_pool": "max"})

    text = learned.out.read_text("utf-8")
    origins = learned.network.origins
    unknown = [key for key, origin in origins.items() if origin == "assumed"]
    commented = re.findall(r"^(\w+) *=.* # ASSUMED", text, re.MULTILINE)
    assert {"epsilon": "user", "stem_pool": "user"}.items() <= origins.items()
    assert (commented, tomllib.loads(text)["assumed"]) == (unknown, [*unknown, "concatenation"])
    again = read(tmp_path / "own.pth", src=learned.out)
    assert again.origins == {key: "assumed" if key in unknown else "user" for key in origins}
    assert again.ledger.assumed == ("old channels before new ones",)


def test_what_was_looked_up_is_no_assumption_any_more(table):
    """Without its list the table is the user's word."""
    table.write_text(re.sub(r"(?m)^assumed .*\n", "", table.read_text("utf-8")), encoding="utf-8")

    network = read(table.with_name("own.pth"), src=table)

    assert ({*network.origins.values()}, network.ledger.assumed) == ({"user"}, ())


def test_a_table_of_bodies_takes_no_head(tmp_path):
    """It has no line for one; a network with a head cannot be written in it."""
    written(tmp_path / "body.pth", SMALL.without_head())
    written(tmp_path / "own.pth", SMALL)
    learned = learn(tmp_path / "body.pth", out=tmp_path / "mine.toml")

    with pytest.raises(MisfitError) as error:
        read(tmp_path / "own.pth").write(tmp_path / "again.pth", layout=learned.out)

    assert (learned.layout.classes, [unit for unit in learned.layout.units if "head" in unit]) == (0, [])
    assert error.value.message == ("mine cannot hold this network: its table names no head; --no-top leaves it out")


def test_the_head_can_be_left_out(tmp_path):
    """--no-top makes a table of bodies of a whole network."""
    written(tmp_path / "own.pth", SMALL)

    learned = learn(tmp_path / "own.pth", out=tmp_path / "mine.toml", no_top=True)

    network = read(tmp_path / "own.pth", src=learned.out, no_top=True)
    assert (network.layout, network.architecture) == ("mine", SMALL.without_head())


def test_where_a_state_dict_is_kept_is_no_part_of_its_names(tmp_path):
    """`model_state.` is the checkpoint's; the table reads the file all the same."""
    module = torch.nn.Module()
    for name, value in written(tmp_path / "own.pth", SMALL).items():
        holder = module
        *parts, last = name.split(".")
        for part in parts:
            if not hasattr(holder, part):
                holder.add_module(part, torch.nn.Module())
            holder = getattr(holder, part)
        holder.register_buffer(last, value)
    torch.save({"model_state": module.state_dict(), "epoch": 3}, tmp_path / "kept.pth")

    learned = learn(tmp_path / "kept.pth", out=tmp_path / "mine.toml")

    assert (learned.outside, learned.layout.units["stem.conv"]) == ("model_state.", ("entry.conv",))
    assert read(tmp_path / "own.pth", src=learned.out).architecture == SMALL


def test_one_network_of_several_is_learned(tmp_path):
    """--within says which; what stands before its names is no part of them."""
    state = written(tmp_path / "own.pth", SMALL)
    both = {f"{top}.{name}": value for top in ("teacher", "student") for name, value in state.items()}
    torch.save(both, tmp_path / "both.pth")

    learned = learn(tmp_path / "both.pth", out=tmp_path / "mine.toml", within="student")

    assert (learned.outside, learned.layout.units["final.norm"]) == ("student.", ("last",))


@pytest.mark.parametrize("ending", [".h5", ".weights.h5", ".keras", ".safetensors"])
def test_the_table_of_another_container(ending, tmp_path):
    """Keras's, under other words; what the file records of itself stays what it was known by."""
    written(tmp_path / "own.pth", SMALL)
    theirs = (resource("mappings") / "keras.toml").read_text("utf-8")
    units = re.search(r"\[units\].*?(?=\n\[)", theirs, re.DOTALL)[0]
    turned = re.sub(r"(?<== \").*?(?=\")", lambda hit: reworded(hit[0]), units)
    (tmp_path / "other.toml").write_text(
        theirs.replace(units, turned).replace('"keras"', '"other"', 1), encoding="utf-8"
    )
    file = tmp_path / f"other{ending}"
    read(tmp_path / "own.pth").write(file, layout=tmp_path / "other.toml")

    learned = learn(file, out=tmp_path / "mine.toml", contract={})
    read(file, src=learned.out).write(tmp_path / f"again{ending}", layout=learned.out)

    before, after = (formats.read(tmp_path / f"{name}{ending}") for name in ("other", "again"))
    assert learned.network.layout == "structure"
    assert ending in learned.layout.containers
    assert {name: array_digest(tensor.load()) for name, tensor in after.tensors.items()} == {
        name: array_digest(tensor.load()) for name, tensor in before.tensors.items()
    }
    assert learned.network.origins == read(tmp_path / "own.pth").origins


def test_the_direction_of_kernels_stays_open_where_nobody_knows_it(tmp_path):
    """Both ways stand in the table; with the user's word there is one."""
    file, _ = under_other_words(KEYS / "flyyufelix-121.txt")

    by_word = learn(file, out=tmp_path / "word.toml", kernels="tensorflow").layout
    nobody = learn(file, out=tmp_path / "mine.toml")

    ways = nobody.layout.tensors["conv"]["kernel"].axes
    assert by_word.tensors["conv"]["kernel"].axes == ("o i h w",)
    assert (ways, nobody.assumed[-1]) == (("o i -h -w", "o i h w"), "kernels as theano has them")


BODIES = {
    "a head's line": ("[tensors]", '"head.dense" = "answer"\n[tensors]', "unknown key 'units.head.dense'"),
    "a dense layer": ("norm  ", 'dense.bias = "{unit}.bias"\nnorm  ', "unknown key 'tensors.dense'"),
    "a bottleneck's line": ("bottleneck = 4", "bottleneck = 0", "unknown key 'units.block{b}.layer{l}.norm2'"),
    "a final norm's line": ("bottleneck = 4", "bottleneck = 4, final_norm = false", "unknown key 'units.final.norm'"),
    "transitions of one block": (
        "bottleneck = 4",
        "bottleneck = 4, layers = [[4]]",
        "unknown key 'units.transition{b}",
    ),
    "an assumed entry that is none": (
        '"concatenation"',
        '"momentum"',
        "assumed: expected some of epsilon",
    ),
}


@pytest.mark.parametrize("fault", BODIES)
def test_a_table_has_no_line_for_what_its_layout_never_has(fault, tmp_path):
    """Planted in a table of bodies."""
    written(tmp_path / "own.pth", SMALL.without_head())
    table = learn(tmp_path / "own.pth", out=tmp_path / "mine.toml").out
    old, new, message = BODIES[fault]
    text = table.read_text("utf-8")
    assert text.count(old) == 1
    table.write_text(text.replace(old, new), encoding="utf-8")

    with pytest.raises(UsageError, match=re.escape(message)):
        Layout.load(table)


# -- refusals ----------------------------------------------------------------------------------------------------------

SAY = "no table can say its names\n  "
REFUSED = {
    "blocks by letters": (
        lambda name: re.sub(r"stage(\d)", lambda hit: f"stage_{'ab'[int(hit[1])]}", own(name)),
        (
            "block1.layer1.norm1 is called stage_a.unit_0.norm1, block2.layer1.norm1 stage_b.unit_0.norm1: they "
            "differ in more than in numbers, which is all that a pattern counts"
        ),
    ),
    "layers numbered through all blocks": (
        lambda name: re.sub(
            r"stage(\d).unit_(\d)", lambda hit: f"stage{hit[1]}.unit_{int(hit[2]) + 2 * int(hit[1])}", own(name)
        ),
        (
            "block{b}.layer{l}.norm1 has the numbers 0, 1, 2, 3, 4 in stage0.unit_0.norm1: a table counts blocks, and "
            "the layers of each block, one by one from the same first number"
        ),
    ),
    "blocks two apart": (
        lambda name: re.sub(r"stage(\d)", lambda hit: f"stage{2 * int(hit[1])}", own(name)),
        (
            "block{b}.layer{l}.norm1 has the numbers 0, 2 in stage0.unit_0.norm1: a table counts blocks, and the "
            "layers of each block, one by one from the same first number"
        ),
    ),
    "transitions from another number": (
        lambda name: re.sub(r"between.(\d)", lambda hit: f"between.{int(hit[1]) + 4}", own(name)),
        (
            "its blocks count from 0 in block{b}.layer{l}.norm1 and from 4 in transition{b}.norm: a table has one "
            "first number for both"
        ),
    ),
    "a transition without a number": (
        lambda name: re.sub(r"between.(\d)", "between", own(name)),
        "no number in the names of transition{b}.norm counts the blocks: between.norm",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_names_that_no_pattern_says_are_refused(case, tmp_path):
    """In words, with the next step; nothing is written."""
    rename, why = REFUSED[case]
    written(tmp_path / "own.pth", SMALL, rename)

    with pytest.raises(MisfitError) as error:
        learn(tmp_path / "own.pth", out=tmp_path / "mine.toml")

    assert str(error.value) == (
        f"{tmp_path / 'own.pth'}: {SAY}{why}\n"
        "  converting needs no table of its own: `densenet-port convert` reads it as it is"
    )
    assert not (tmp_path / "mine.toml").exists()


def test_a_file_that_a_table_reads_is_learned_by_force_alone(small, tmp_path):
    """It says which table that is."""
    with pytest.raises(UsageError) as error:
        learn(small, out=tmp_path / "mine.toml")

    assert str(error.value) == (
        f"{small}: torchvision's table reads it\n"
        "  convert it as it is; --force learns a table of its names all the same"
    )
    assert learn(small, out=tmp_path / "mine.toml", force=True).layout.units["stem.conv"] == ("features.conv0",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.toml", "exists already"),
        ("mine.txt", "a table's name ends in .toml"),
        ("torchvision.toml", "a layout is called torchvision already"),
        ("none/mine.toml", "cannot be written"),
    ],
)
def test_a_place_that_is_taken_stays(table, name, message):
    """Without --force, and where no table can be."""
    before = table.read_bytes()

    with pytest.raises(PortError, match=message):
        learn(table.with_name("own.pth"), out=table.parent / name)

    assert (table.read_bytes(), sorted(path.name for path in table.parent.iterdir())) == (
        before,
        ["mine.toml", "own.pth"],
    )


def test_the_command_line_tells_what_is_proven_and_what_assumed(tmp_path):
    """As text and as JSON; a place that is taken is exit code 2, names without a pattern are 3."""
    written(tmp_path / "own.pth", SMALL)
    written(tmp_path / "none.pth", SMALL, REFUSED["blocks two apart"][0])

    plain = run("learn", "own.pth", "--out", "mine.toml", "--epsilon", "0.001", cwd=tmp_path)
    taken = run("learn", "own.pth", "--out", "mine.toml", cwd=tmp_path)
    refused = run("learn", "none.pth", "--out", "other.toml", cwd=tmp_path)
    told = run("learn", "own.pth", "--out", "mine.toml", "--force", "--json", cwd=tmp_path)

    assert (plain.returncode, taken.returncode, refused.returncode, told.returncode) == (0, 2, 3, 0)
    assert plain.stdout.splitlines() == [
        "own.pth: structure layers=2-3,growth_rate=4,init_channels=8,classes=5 (pth)",
        "  proven: names: the table reads the file as its structure does, 66 tensors the same bit by bit",
        "  stated: epsilon 0.001: by your word",
        "  ASSUMED: stem_stride 2",
        '  ASSUMED: stem_padding "symmetric"',
        '  ASSUMED: stem_pool "max"',
        '  ASSUMED: pool_rounding "floor"',
        '  ASSUMED: output "logits"',
        '  ASSUMED: input { order = "rgb", scale = 255.0, mean = [0.485, 0.456, 0.406], std = [0.229, 0.224, 0.225] }',
        "  ASSUMED: old channels before new ones",
        "mine.toml: the table of the layout mine, for --mapping mine.toml",
        "look up in the network's own code what is assumed, and take it out of the table's `assumed`",
    ]
    data = json.loads(told.stdout)
    assert (data["schema"], data["table"], data["first"]) == ("densenet-port/learn/1", "mine.toml", {"b": 0, "l": 0})
    assert data["assumed"][0] == "epsilon 1e-05"


# -- the comparison ----------------------------------------------------------------------------------------------------

WRONG = {
    "a wrong first block": ("b = 0, l = 0", "b = 1, l = 0", MisfitError, "a table of its names does not read it"),
    "a wrong first layer": ("b = 0, l = 0", "b = 0, l = 1", MisfitError, "a table of its names does not read it"),
    "two parts of a norm exchanged": (
        'scale = "{unit}.weight", shift = "{unit}.bias"',
        'scale = "{unit}.bias", shift = "{unit}.weight"',
        RuntimeError,
        r"the table that was learned is wrong: stem.norm.scale is another tensor",
    ),
    "another epsilon": ("1e-05", "2e-05", RuntimeError, "its contract is"),
    "the other order of channels": (
        "[contract]",
        'concatenation = "new-first"\n[contract]',
        RuntimeError,
        "block1.layer2.norm1.scale is another tensor",
    ),
    "another name to write": (
        '"{unit}.running_mean"',
        '["{unit}.mean", "{unit}.running_mean"]',
        RuntimeError,
        "stem.norm.mean is written as entry.norm.mean",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_table_is_caught_by_the_comparison(fault, table):
    """Planted in a table that was right."""
    old, new, kind, message = WRONG[fault]
    path, text = table.with_name("own.pth"), table.read_text("utf-8")
    network = read(path)
    check_table(network, table, "", lambda own_table: read(path, src=own_table))
    assert old in text
    table.write_text(text.replace(old, new), encoding="utf-8")

    with pytest.raises(kind, match=message):
        check_table(network, table, "", lambda own_table: read(path, src=own_table))


def test_a_wrong_table_is_not_written(tmp_path, monkeypatch):
    """What stood there before stays."""
    written(tmp_path / "own.pth", SMALL)
    (tmp_path / "mine.toml").write_text("mine")
    monkeypatch.setattr(module, "table_of", lambda *_: table_of(*_).replace("l = 0", "l = 1"))

    with pytest.raises(MisfitError, match="does not read it"):
        learn(tmp_path / "own.pth", out=tmp_path / "mine.toml", force=True)

    assert (tmp_path / "mine.toml").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.toml", "own.pth"]


# -- real files --------------------------------------------------------------------------------------------------------

REAL_FILES = {
    "bc-6-12-24-own-names.pth": {"b": 1, "l": 0},
    "bc100-stem-norm.pth": {"b": 1, "l": 0},
    "two-blocks-conv-bias.pth": {"b": 1, "l": 0},
}


@pytest.mark.skipif(REAL is None, reason="the real files are not here")
@pytest.mark.parametrize("name", REAL_FILES)
def test_the_names_of_a_real_file_are_learned(name, tmp_path):
    """The numbers that its names count from, the wiring that its statistics prove."""
    learned = learn(REAL / name, out=tmp_path / "mine.toml")

    assert learned.layout.first_numbers == REAL_FILES[name]
    assert any(text.startswith("wiring: ") for text in learned.proven)
    assert any(text.startswith("epsilon ") for text in learned.assumed)
