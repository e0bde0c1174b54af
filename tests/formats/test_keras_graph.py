"""A configuration becomes the graph that it is, in the words of each Keras; what is not understood is another kind."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from densenet_port.checkpoint import Tensor
from densenet_port.errors import CorruptError, MisfitError
from densenet_port.formats.keras.graph import metadata_of, of_file

PATH = Path("model.keras")


def layer(kind, name, reads=(), *, keywords=None, **config):
    """A layer of Keras 3 that reads others."""
    tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": [read, 0, 0]}} for read in reads]
    nodes = [{"args": [tensors] if len(tensors) > 1 else tensors, "kwargs": keywords or {}}] if tensors else []
    config = {"name": name, "trainable": True, **config}
    return {"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes}


def older(kind, name, reads=(), **config):
    """A layer of Keras 2 that reads others; of Keras 1, where `nb_row` and the like are its settings."""
    nodes = [[[read, 0, 0, {}] for read in reads]] if reads else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}


PICTURES = layer("InputLayer", "pictures", batch_shape=[None, 32, 48, 3])


def model(*layers, name="m", output=None, **more):
    """A functional model of layers, the first of which takes the pictures."""
    ends = {"input_layers": [[layers[0]["name"], 0, 0]], "output_layers": [[output or layers[-1]["name"], 0, 0]]}
    return {"class_name": "Functional", "config": {"name": name, "layers": list(layers), **ends}, **more}


def graph(config, tensors=None, **how):
    """The graph of a configuration."""
    return of_file(PATH, config, tensors or {}, **how)[1]()


def one(kind, *, shape=(None, 32, 48, 3), keywords=None, **config):
    """The last step of a layer that reads the pictures."""
    pictures = layer("InputLayer", "pictures", batch_shape=list(shape))
    made = graph(model(pictures, layer(kind, "x", ["pictures"], keywords=keywords, **config)))
    return made.steps[made.outputs[0]]


# -- metadata --------------------------------------------------------------------------------------------------------


def test_layers_of_models_within_the_model_are_listed_too():
    inner = model(layer("Conv2D", "conv"), layer("ReLU", "relu"))

    found = metadata_of(model(layer("InputLayer", "input"), inner | {"name": "m"}, layer("Dense", "head")))

    assert found["layers"] == ["input", "conv", "relu", "head"]


def test_a_class_of_a_package_is_not_looked_into():
    """It says its package, and of its layers nothing."""
    config = {"class_name": "DenseNet121", "config": {"name": "m"}, "registered_name": "keras_hub>DenseNet121"}

    assert metadata_of(config) == {"config": config, "package": "keras-hub"}
    assert of_file(PATH, config, {}) == ({}, None)


STRANGE = [*([], "x", 3, None, {}, {"config": 1}, {"class_name": "M", "config": []}), {"config": {"layers": [3]}}]


@pytest.mark.parametrize("config", STRANGE, ids=str)
def test_what_is_no_configuration_says_nothing(config):
    """Weights can be read all the same."""
    assert metadata_of(config) == {"config": config}
    assert of_file(PATH, config, {}) == ({}, None)


BROKEN = {
    "no calls": {"class_name": "Functional", "config": {"layers": [PICTURES]}},
    "a circle": model(PICTURES, layer("ReLU", "a", ["b"]), layer("ReLU", "b", ["a"])),
    "two of a name": model(PICTURES, layer("ReLU", "a", ["pictures"]), layer("Dense", "a:activation", ["a"])),
    "an output that is none": model(PICTURES, output="x"),
    "an epsilon in words": model(PICTURES, layer("BatchNormalization", "n", ["pictures"], axis=-1, epsilon="small")),
    "a kernel of one number and a half": model(PICTURES, layer("Conv2D", "c", ["pictures"], kernel_size=[3, 1.5])),
    "deep": json.loads('{"class_name": "Sequential", "config": [' * 300 + "]}" * 300),
}


@pytest.mark.parametrize("config", [BROKEN[name] for name in BROKEN if name != "two of a name"])
def test_a_graph_that_cannot_be_followed_is_refused(config):
    """In one line, with the way that is left."""
    with pytest.raises(MisfitError, match="model.keras: its configuration cannot be followed: ") as error:
        graph(config)

    assert error.value.hint == "save the weights alone; what they do not tell is then assumed"


# -- every Keras -----------------------------------------------------------------------------------------------------

CONV = {"kernel_size": [3, 3], "strides": [2, 2], "padding": "same"}
GENERATIONS = {
    "Keras 3": model(
        PICTURES,
        layer("Conv2D", "c", ["pictures"], **CONV, activation="relu"),
        layer("Concatenate", "j", ["pictures", "c"], axis=-1),
    ),
    "Keras 2": model(
        older("InputLayer", "pictures", batch_input_shape=[None, 32, 48, 3]),
        older("Conv2D", "c", ["pictures"], **CONV, activation="relu"),
        older("Concatenate", "j", ["pictures", "c"], axis=3),
    ),
    "Keras 1": model(
        older("InputLayer", "pictures", batch_input_shape=[None, 32, 48, 3]),
        older(
            *("Convolution2D", "c", ["pictures"]),
            nb_row=3,
            nb_col=3,
            subsample=[2, 2],
            border_mode="same",
            activation="relu",
        ),
        older("Merge", "j", ["pictures", "c"], mode="concat", concat_axis=-1),
    ),
}


@pytest.mark.parametrize("config", GENERATIONS.values(), ids=GENERATIONS)
def test_each_keras_says_the_same(config):
    """A convolution, its activation, and what is joined."""
    made = graph(config)

    conv, relu, join = made.steps.values()
    assert (conv.kernel, conv.stride, conv.padding, conv.inputs) == ((3, 3), (2, 2), "same", ("input",))
    assert (relu.kind, relu.inputs, join.kind, join.inputs) == ("relu", ("c",), "concat", ("input", "c:activation"))
    assert (made.outputs, made.size) == (("j",), (32, 48))


@pytest.mark.parametrize("wrapped", [lambda layers: layers, lambda layers: {"name": "s", "layers": layers}])
def test_a_sequential_model_is_a_list(wrapped):
    """Its first layer has the shape, in Keras 1 and 2."""
    layers = [layer("Activation", "a", batch_input_shape=[None, 8, 8, 3], activation="relu"), layer("Flatten", "f")]

    made = graph({"class_name": "Sequential", "config": wrapped(layers)})

    assert [(step.kind, step.inputs) for step in made.steps.values()] == [("relu", ("input",)), ("flatten", ("a",))]
    assert made.size == (8, 8)


def nested(first=1):
    """A model three deep, whose calls count from 1 or 0."""
    inner = model(PICTURES, layer("ReLU", "r", ["pictures"]), name="inner") | {"name": "inner"}
    inner["inbound_nodes"] = layer("ReLU", "x", ["pictures"])["inbound_nodes"]
    middle = model(PICTURES, inner, name="middle") | {"name": "middle"}
    middle["config"]["output_layers"] = [["inner", first, 0]]
    middle["inbound_nodes"] = inner["inbound_nodes"]
    outer = model(PICTURES, middle, layer("Flatten", "f", ["middle"]))
    text = json.dumps(outer).replace('["middle", 0, 0]', f'["middle", {first}, 0]')
    return json.loads(text)


@pytest.mark.parametrize("first", [0, 1])
def test_models_within_models_are_paths(first):
    """As the tensors are called: by the models' names in a legacy file, by their classes in an archive."""
    names = [[*graph(nested(first), by_class=way).steps] for way in (False, True)]

    assert names == [["middle/inner/r", "f"], ["functional/functional/r", "f"]]


@pytest.mark.parametrize("name", ["r", "stage1/r"])
def test_a_legacy_file_leaves_models_in_the_middle_out(name):
    """Its tensors stand below the outermost one."""
    text = json.dumps(nested()).replace('"class_name": "ReLU"', '"class_name": "Dense"')
    inner = json.loads(text.replace('"r"', f'"{name}"'))

    made = graph(inner, {f"middle/{name}/kernel": Tensor((3, 3), "float32", lambda: np.ones((3, 3)))})

    assert (made.steps[f"middle/inner/{name}"].holder, made.outputs) == (f"middle/{name}", ("f",))


def test_what_is_called_in_training_is_another_function():
    """The model's call reaches the norms and dropouts within."""
    inner = model(PICTURES, layer("Dropout", "d", ["pictures"]), layer("ReLU", "r", ["d"])) | {"name": "m"}
    inner["inbound_nodes"] = layer("ReLU", "x", ["pictures"], keywords={"training": True})["inbound_nodes"]

    made = graph(model(PICTURES, inner))

    assert [step.title for step in made.steps.values()] == ["Dropout m/d (called with training=True)", "ReLU m/r"]


def test_what_changes_pictures_in_training_alone_does_not_where_a_model_answers():
    """Keras 3 writes such a layer's default, and calls it as the model is called; tf.keras writes what was said."""
    written = layer("RandomFlip", "f", ["pictures"], keywords={"training": True})
    said = older("RandomFlip", "f", ["pictures"])
    said["inbound_nodes"][0][0][3]["training"] = True

    steps = [graph(model(PICTURES, flip)).steps["f"] for flip in (written, said)]

    assert [(step.kind, step.title) for step in steps] == [
        ("identity", "RandomFlip f"),
        ("layer RandomFlip", "RandomFlip f (called with training=True)"),
    ]


def test_of_a_model_called_twice_the_first_call_stands_in_the_graph():
    inner = model(PICTURES, layer("ReLU", "r", ["pictures"])) | {"name": "m"}
    inner["inbound_nodes"] = layer("ReLU", "x", ["pictures"])["inbound_nodes"] * 2
    join = layer("Concatenate", "j", ["m", "m"], axis=-1)
    join["inbound_nodes"][0]["args"][0][1]["config"]["keras_history"] = ["m", 1, 0]

    made = graph(model(PICTURES, inner, join))

    assert [step.title for step in made.steps.values()] == [
        *("ReLU m/r", "Functional m:1 (called 2 times)", "Concatenate j (axis -1)")
    ]


def gpus(code=b"get_slice", axis=0):
    """What `multi_gpu_model` of Keras 2 makes of a network for two cards."""
    text = base64.b64encode(b"\xe3 marshalled code, " + code).decode()
    inner = model(older("InputLayer", "i"), older("Dense", "d", ["i"]), name="net") | {"name": "net"}
    inner["inbound_nodes"] = [[[f"lambda_{part}", 0, 0, {}]] for part in (1, 2)]
    slices = [
        older("Lambda", f"lambda_{part + 1}", ["i"], function=[text, None, None], arguments={"i": part, "parts": 2})
        for part in (0, 1)
    ]
    join = older("Concatenate", "d", axis=axis) | {"inbound_nodes": [[["net", 1, 0, {}], ["net", 2, 0, {}]]]}
    return model(older("InputLayer", "i", batch_input_shape=[None, 8, 8, 3]), *slices, inner, join)


def test_a_network_for_several_cards_is_the_network():
    """A batch is split, and what comes out is joined again."""
    made = graph(gpus())

    assert [step.name for step in made.steps.values() if step.kind != "identity"] == ["net/d"]
    assert made.outputs == ("net/d",)


@pytest.mark.parametrize("config", [gpus(code=b"mine"), gpus(axis=-1)], ids=["another Lambda", "channels"])
def test_what_only_looks_like_it_is_not(config):
    assert {step.kind for step in graph(config).steps.values()} > {"layer Lambda"}


def test_what_a_layer_holds_that_calls_it_in_its_own_way_can_be_taken_alone():
    inner = model(PICTURES, layer("ReLU", "r", ["pictures"]))

    made = graph(model(PICTURES, layer("TimeDistributed", "t", ["pictures"], layer=inner)))

    assert [(step.name, step.kind) for step in made.steps.values()] == [("t", "layer TimeDistributed"), ("t/r", "relu")]
    assert [step.inputs for step in made.below("t").steps.values()] == [("input",)]


def test_a_class_of_one_s_own_is_an_assumption():
    """Its layers are what they are; what it does beside them is not in the file."""
    made = graph(model(PICTURES, layer("ReLU", "r", ["pictures"]), registered_name="mine>Net", module="__main__"))

    assert made.assumed == ("what mine>Net does beside its layers",)


def test_of_several_inputs_one_has_the_pictures():
    config = model(PICTURES, layer("InputLayer", "age", batch_shape=[None, 1]), layer("ReLU", "r", ["pictures"]))
    config["config"]["input_layers"] = [["age", 0, 0], ["pictures", 0, 0]]

    assert [(step.kind, step.inputs) for step in graph(config).steps.values()] == [
        *(("another input", ()), ("relu", ("input",)))
    ]


def test_a_model_of_several_outputs_is_told():
    """As people make them to see a map beside the answer."""
    config = model(PICTURES, layer("ReLU", "r", ["pictures"]), layer("Flatten", "f", ["r"]))
    config["config"]["output_layers"] = [["f", 0, 0], ["r", 0, 0]]

    made = graph(config)

    assert (made.outputs, made.notes) == (("f", "r"), ("the model has 2 outputs, f, r; a DenseNet has one",))


# -- what a layer does -----------------------------------------------------------------------------------------------

IDENTITIES = ["Dropout", "SpatialDropout2D", "GaussianNoise", "RandomFlip", "RandomZoom", "ActivityRegularization"]


@pytest.mark.parametrize("kind", IDENTITIES)
def test_what_changes_nothing_when_a_network_answers_passes(kind):
    assert one(kind).kind == "identity"


FLAT = {
    "GlobalAveragePooling2D": ("mean", ""),
    "GlobalMaxPooling2D": ("max", ""),
    "GlobalMaxPool2D": ("max", ""),
    "Flatten": ("flatten", ""),
}


@pytest.mark.parametrize("kind", FLAT)
def test_what_takes_height_and_width_away_is_a_step(kind):
    step = one(kind)

    assert (step.kind, step.function) == FLAT[kind]


def test_channels_in_front_are_flattened_in_front():
    """Flatten puts them last since it has a setting for it."""
    conv = layer("Conv2D", "c", ["pictures"], kernel_size=3, data_format="channels_first")
    flat = [{}, {"data_format": "channels_first"}]

    made = [graph(model(PICTURES, conv, layer("Flatten", "f", ["c"], **settings))).steps["f"] for settings in flat]

    assert [step.function for step in made] == ["c h w", ""]


OTHERS = {
    "LeakyReLU": ({}, "LeakyReLU x"),
    "RandomCrop": ({"height": 8, "width": 8}, "RandomCrop x"),
    "Lambda": ({}, "Lambda x"),
    "Resizing": ({}, "Resizing x"),
    "ReLU": ({"max_value": 6.0}, "ReLU x (max_value 6)"),
    "Activation": ({"activation": "swish"}, "Activation x (swish)"),
    "BatchNormalization": ({"axis": 1}, "BatchNormalization x (axis 1)"),
    "Softmax": ({"axis": 1}, "Softmax x (axis 1)"),
    "Conv2D": ({"kernel_size": 3, "padding": "causal"}, "Conv2D x (padded causal)"),
    "Reshape": ({"target_shape": [32, 16, 9]}, "Reshape x (to [32, 16, 9])"),
    "Rescaling": ({"scale": [1.0, 2.0]}, "Rescaling x (of 2 numbers for 3 channels)"),
    "Merge": ({"mode": "sum"}, "Merge x (mode sum)"),
    "Dropout": ({"keywords": {"training": True}}, "Dropout x (called with training=True)"),
    "Dense": ({"dtype": "int8_from_float32"}, "Dense x (in int8_from_float32)"),
}


@pytest.mark.parametrize(("kind", "config", "title"), [(kind, *rest) for kind, rest in OTHERS.items()], ids=OTHERS)
def test_what_steps_have_no_place_for_is_named_with_its_setting(kind, config, title):
    step = one(kind, **config)

    assert (step.kind, step.title) == (f"layer {kind}", title)


ACTIVATIONS = {
    "its name": ("relu", "relu", "relu of Dense x"),
    "a layer": ({"class_name": "ReLU", "config": {}}, "relu", "ReLU of Dense x"),
    "a layer of another slope": (
        {"class_name": "ReLU", "config": {"negative_slope": 0.1}},
        *("activation ReLU", "ReLU of Dense x"),
    ),
    "Keras's own function": (
        {"module": "keras.activations", "class_name": "function", "config": "sigmoid"},
        *("activation", "function of Dense x"),
    ),
    "somebody's function": (
        {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"},
        *("activation relu", "relu of Dense x"),
    ),
}


@pytest.mark.parametrize(("activation", "kind", "title"), ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_the_activation_within_a_layer_is_a_step_of_its_own(activation, kind, title):
    step = one("Dense", activation=activation)

    assert (step.kind, step.inputs, step.title.replace("sigmoid", "function")) == (kind, ("x",), title)


PADDINGS = {
    "one number": (3, (3, 3, 3, 3)),
    "height and width": ([1, 2], (1, 2, 1, 2)),
    "every side": ([[1, 2], [3, 4]], (1, 3, 2, 4)),
    "Keras 1, four numbers": ([1, 2, 3, 4], (1, 3, 2, 4)),
    "Keras 1, by name": ({"top_pad": 1, "bottom_pad": 2, "left_pad": 3, "right_pad": 4}, (1, 3, 2, 4)),
}


@pytest.mark.parametrize(("padding", "around"), PADDINGS.values(), ids=PADDINGS)
def test_zeros_are_told_above_left_below_and_right(padding, around):
    assert one("ZeroPadding2D", padding=padding).padding == around


def test_channels_in_front_are_followed():
    """The first layer that says an order says it for all; another one is another function."""
    pictures = layer("InputLayer", "i", batch_shape=[None, 3, 32, 48])
    first = {"kernel_size": 3, "data_format": "channels_first"}
    config = model(
        pictures,
        layer("Conv2D", "c", ["i"], **first),
        layer("BatchNormalization", "n", ["c"], axis=[1]),
        layer("BatchNormalization", "m", ["n"], axis=[3]),
        layer("AveragePooling2D", "p", ["m"], data_format="channels_last"),
    )

    made = graph(config)

    assert [step.kind for step in made.steps.values()] == [
        *("conv", "norm", "layer BatchNormalization", "layer AveragePooling2D")
    ]
    assert made.size == (32, 48)


def test_two_averages_are_one_blur():
    averages = [
        layer("AveragePooling2D", "a", ["pictures"], pool_size=2, strides=1),
        layer("AveragePooling2D", "b", ["a"], pool_size=2, strides=2),
    ]

    (blur,) = graph(model(PICTURES, *averages)).steps.values()

    assert (blur.kind, blur.stride, blur.inputs) == ("blur", (2, 2), ("input",))


def test_theano_pads_alike_on_both_sides():
    config = model(PICTURES, layer("Conv2D", "c", ["pictures"], kernel_size=7, padding="same"))

    assert [graph(config, theano=way).steps["c"].padding for way in (True, False)] == [(3, 3, 3, 3), "same"]


# -- what pictures are prepared by -----------------------------------------------------------------------------------


def test_the_numbers_of_a_normalization_are_settings_or_tensors_of_the_file():
    """Tensors that are numbers of the graph are no weights of the network."""
    stored = {"mean": np.array([1.0, 2, 3]), "variance": np.array([4.0, 16, 64]), "count": np.array(0)}
    tensors = {f"x/{name}": Tensor(array.shape, "float32", lambda array=array: array) for name, array in stored.items()}
    settings = [{key: array.tolist() for key, array in stored.items() if key != "count"}, {}]
    made = []
    for config in settings:
        rest, read = of_file(PATH, model(PICTURES, layer("Normalization", "x", ["pictures"], **config)), dict(tensors))
        made.append((dict(rest), read().steps["x"]))

    assert [rest for rest, _ in made] == [{}, {}]
    expected = ("affine", (0.5, 0.25, 0.125), (-0.5, -0.5, -0.375))
    assert [(step.kind, step.factors, step.offsets) for _, step in made] == [expected, expected]
    assert one("Normalization").title == "Normalization x (without its statistics)"


def operation(kind, *arguments, module="keras.src.ops.numpy", **config):
    """The step of an operation of Keras 3 on the pictures, which stand as None among the arguments."""
    pictures = {"class_name": "__keras_tensor__", "config": {"keras_history": ["pictures", 0, 0]}}
    made = layer(kind, "x") | {"config": {"name": "x", **config}} | ({"module": module} if module else {})
    made["inbound_nodes"] = [{"args": [pictures if part is None else part for part in arguments], "kwargs": {}}]
    return graph(model(PICTURES, made)).steps["x"]


THREE = {"class_name": "__tensor__", "config": {"value": [[[[1.0, 2.0, 4.0]]]], "dtype": "float32"}}
ARITHMETIC = {
    "x / 2": (("TrueDivide", None, 2.0), (0.5,), (0.0,)),
    "x / (1, 2, 4)": (("Divide", None, THREE), (1.0, 0.5, 0.25), (0.0,)),
    "x − 1": (("Subtract", None, 1), (1.0,), (-1.0,)),
    "1 − x": (("Subtract", 1, None), (-1.0,), (1.0,)),
    "(1, 2, 4) · x": (("Multiply", THREE, None), (1.0, 2.0, 4.0), (0.0,)),
    "x + (1, 2, 4)": (("Add", None, THREE), (1.0,), (1.0, 2.0, 4.0)),
    "−x": (("Negative", None), (-1.0,), (0.0,)),
}


@pytest.mark.parametrize("module", ["keras.src.ops.numpy", None], ids=["archive", "legacy file"])
@pytest.mark.parametrize(("words", "factors", "offsets"), ARITHMETIC.values(), ids=ARITHMETIC)
def test_arithmetic_is_factors_and_offsets(words, factors, offsets, module):
    """A legacy file does not say the operation's module."""
    step = operation(*words, module=module)

    assert (step.kind, step.factors, step.offsets) == ("affine", factors, offsets)


ELLIPSIS = {"class_name": "__ellipsis__", "config": {}}


def part(start=None, stop=None, step=None):
    return {"class_name": "__slice__", "config": {"start": start, "stop": stop, "step": step}}


ROWS = {"class_name": "__tensor__", "config": {"value": [[[1.0]], [[2.0]]], "dtype": "float32"}}
OPERATIONS = {
    "1 / x": (("TrueDivide", 1.0, None), "layer TrueDivide"),
    "x / 0": (("TrueDivide", None, 0.0), "layer TrueDivide"),
    "x · x": (("Multiply", None, None), "layer Multiply"),
    "x · rows": (("Multiply", None, ROWS), "layer Multiply"),
    "channels backwards": (("GetItem", None, [ELLIPSIS, part(step=-1)]), "reverse"),
    "channels backwards, all axes": (("GetItem", None, [part(), part(), part(), part(step=-1)]), "reverse"),
    "columns backwards": (("GetItem", None, [part(), part(), part(step=-1), part()]), "layer GetItem"),
    "columns backwards, short": (("GetItem", None, [part(), part(), part(step=-1)]), "layer GetItem"),
    "a crop": (("GetItem", None, [part(), part(1), part(), part(step=-1)]), "layer GetItem"),
    "two channels": (("GetItem", None, [ELLIPSIS, part(0, 2)]), "layer GetItem"),
    "absolute": (("Absolute", None), "layer Absolute"),
}


@pytest.mark.parametrize(("words", "kind"), OPERATIONS.values(), ids=OPERATIONS)
def test_other_operations_are_what_they_are(words, kind):
    assert operation(*words).kind == kind


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "identity"), ("uint8", "layer Cast")])
def test_a_cast_is_nothing_unless_to_whole_numbers(dtype, kind):
    assert operation("Cast", None, module="keras.src.ops.core", dtype=dtype).kind == kind


TENSORFLOW = {
    "x / 255": ({"function": "math.truediv"}, {"y": 255.0, "name": None}, ("affine", (1 / 255,), (0.0,))),
    "x + bias": (
        {"function": "nn.bias_add"},
        {"bias": [-1.0, -2.0, -4.0], "data_format": "NHWC"},
        ("affine", (1.0,), (-1.0, -2.0, -4.0)),
    ),
    "backwards": (
        {"function": "__operators__.getitem"},
        {"slice_spec": [{"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1}]},
        ("reverse", (1.0,), (0.0,)),
    ),
    "resized": ({"function": "image.resize"}, {"size": [8, 8]}, ("layer image.resize", (1.0,), (0.0,))),
}


@pytest.mark.parametrize(("config", "keywords", "expected"), TENSORFLOW.values(), ids=TENSORFLOW)
def test_calls_of_tensorflow_are_read_too(config, keywords, expected):
    """As tf.keras writes them: one reference, with keywords."""
    made = older("TFOpLambda", "x", **config) | {"inbound_nodes": [["pictures", 0, 0, keywords]]}

    step = graph(model(PICTURES, made)).steps["x"]

    assert (step.kind, step.factors, step.offsets) == expected


def test_operations_of_the_first_tf_keras_have_their_numbers_beside_them():
    """`TensorFlowOpLayer`: what is read, and constants by their places."""
    config = {"node_def": json.dumps({"op": "Sub"}), "constants": {"1": 127.5}}

    step = graph(model(PICTURES, older("TensorFlowOpLayer", "x", ["pictures"], **config))).steps["x"]

    assert (step.kind, step.offsets) == ("affine", (-127.5,))


def test_a_definition_of_more_values_than_any_needs_is_refused():
    config = {"node_def": json.dumps({"op": "Sub", "values": [0] * 2**20}), "constants": {"1": 127.5}}

    with pytest.raises(CorruptError, match="a node_def is a JSON text of more than 524288 values"):
        graph(model(PICTURES, older("TensorFlowOpLayer", "x", ["pictures"], **config)))


def test_pixels_that_are_whole_numbers_are_not_prepared():
    """Within the model they would cut off what was prepared."""
    whole = layer("InputLayer", "pictures", batch_shape=[None, 8, 8, 3], dtype="uint8")
    inner = model(whole, layer("ReLU", "r", ["pictures"])) | {"name": "m"}
    inner["inbound_nodes"] = layer("ReLU", "x", ["pictures"])["inbound_nodes"]

    assert graph(model(whole, layer("ReLU", "r", ["pictures"]))).steps["pictures"].kind == "affine"
    assert graph(model(PICTURES, inner)).steps["m/pictures"].kind == "whole numbers"
