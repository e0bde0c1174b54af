"""Statistics of batches: what is counted, by hand; and that no split and no order changes a bit."""

import json
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from densenet_port.evaluation.figures import figures, hints
from densenet_port.evaluation.statistics import (
    Flip,
    Largest,
    Statistics,
    Unanswered,
    Unread,
    of_batch,
    total,
)

PORT = np.array([[0, 1, 2], [3, 0, 0], [0, 0, 0], [1, np.nan, 0]], np.float32)
ORIGINAL = np.array([[0, 1, 2.5], [0, 3, 0], [0, 0, 0], [1, 0, 0]], np.float32)


def sides(count, classes=7, seed=0):
    """Logits of two sides that are mostly alike, and labels."""
    random = np.random.default_rng(seed)
    original = random.standard_normal((count, classes)).astype(np.float32) * 3
    port = (original + random.standard_normal((count, classes)) * random.choice([0, 1e-6, 1], (count, 1))).astype(
        np.float32
    )
    labels = np.where(random.random(count) < 0.7, original.argmax(1), random.integers(0, classes, count))
    return {"port": port, "original": original}, labels.tolist()


def test_what_is_counted_of_four_pictures():
    """By hand: one agrees, one flips, one is a draw that both answer with the first class, one has no answer."""
    made = of_batch([7, 8, 9, 11], [2, 1, 1, 0], {"port": PORT, "original": ORIGINAL}, [Unread(10, "cannot be read")])

    counted = {name: n for name, n in made.counts.items() if not name.startswith(("port bin", "original bin"))}
    assert {name: n for name, n in counted.items() if "right" not in name} == {
        "pictures": 4,
        "labelled": 4,
        "compared": 3,
        "agree": 2,
        "port top1": 1,
        "port top5": 3,
        "original top1": 3,
        "original top5": 4,
        "port answer 2 2": 1,
        "port answer 1 0": 2,
        "original answer 2 2": 1,
        "original answer 1 1": 1,
        "original answer 1 0": 1,
        "original answer 0 0": 1,
        "port values": 9,
        "original values": 12,
        "values": 9,
        "difference equal": 6,
        "difference 0": 1,
        "difference 2": 2,
        "top1 both": 1,
        "top1 original": 2,
        "top1 neither": 1,
        "top5 both": 3,
        "top5 original": 1,
    }
    assert made.flips == (Flip(8, 1, original=1, port=0, margin=3.0),)
    assert made.largest == Largest(3.0, 8)
    assert (made.unread, made.unanswered) == ((Unread(10, "cannot be read"),), (Unanswered(11, "port"),))
    assert float(made.sums["differences"]) == -0.5
    assert float(made.sums["squared differences"]) == 18.25


def test_bins_have_each_labelled_answer_once():
    """Confidences of a softmax, as SciPy computes it."""
    from scipy.special import softmax

    logits, labels = sides(200)
    made = of_batch(range(200), labels, logits)

    confidences = softmax(logits["port"].astype(np.float64), axis=1).max(1)
    right = logits["port"].argmax(1) == labels
    found = figures(made, 7)["sides"]["port"]["calibration"]
    assert sum(entry["pictures"] for entry in found["bins"]) == 200
    edges = np.clip(np.ceil(confidences * 15), 1, 15)
    error = sum(abs(right[edges == n].sum() - confidences[edges == n].sum()) for n in range(1, 16)) / 200
    assert abs(found["error"] - error) < 1e-12
    for entry in found["bins"]:
        inside = edges == round(entry["to"] * 15)
        assert (entry["pictures"], entry["right"]) == (inside.sum(), right[inside].mean())
        assert abs(entry["confidence"] - confidences[inside].mean()) < 1e-12


@settings(deadline=None, max_examples=50)
@given(st.randoms(), st.lists(st.integers(1, 119), max_size=8), st.integers(0, 9))
def test_no_split_and_no_order_changes_a_bit(random, cuts, seed):
    """Parts joined in any order and any grouping, through JSON or not, are the same text as all at once."""
    logits, labels = sides(120, seed=seed)
    edges = sorted({0, *cuts, 120})
    parts = []
    for start, stop in pairwise(edges):
        some = {side: values[start:stop] for side, values in logits.items()}
        part = of_batch(range(start, stop), labels[start:stop], some)
        parts.append(Statistics.from_json(json.loads(json.dumps(part.to_json()))))
    whole = json.dumps(total([of_batch(range(120), labels, logits)]).to_json())
    random.shuffle(parts)
    while len(parts) > 1:
        parts.insert(random.randrange(len(parts)), parts.pop() + parts.pop())

    assert json.dumps(total(parts).to_json()) == whole
    assert json.dumps(figures(parts[0], 7)) == json.dumps(figures(total(parts), 7))


def test_without_labels_there_are_agreement_and_differences():
    logits, _ = sides(50)
    found = figures(of_batch(range(50), None, logits), 7)

    assert (found["sides"]["port"]["top1"], found["sides"]["port"]["calibration"]) == (None, None)
    assert found["pair"]["difference"] is None
    assert found["pair"]["agreement"]["of"] == 50
    assert (
        abs(found["pair"]["rms"] - np.sqrt(np.mean((logits["port"].astype(float) - logits["original"]) ** 2))) < 1e-12
    )


def test_a_side_alone_has_no_pair():
    logits, labels = sides(50)
    found = figures(of_batch(range(50), labels, {"port": logits["port"]}), 7)

    assert (found["pair"], [*found["sides"]]) == (None, ["port"])
    assert found["sides"]["port"]["top1"]["count"] == (logits["port"].argmax(1) == labels).sum()


def test_five_classes_have_no_five_best():
    logits, labels = sides(50, classes=5)

    found = figures(of_batch(range(50), labels, logits), 5)

    assert ("top5" in found["sides"]["port"], "top5" in found["pair"]["difference"]) == (False, False)


# -- hints -------------------------------------------------------------------------------------------------------------


def hinted(change_labels=lambda labels: labels, change_port=lambda logits: logits):
    """What 70 pictures of a network that is mostly right look like, with other labels or another port.

    An eighth class is the answer to none.
    """
    logits, labels = sides(70)
    port, original = (
        np.pad(side, ((0, 0), (0, 1)), constant_values=-99)
        for side in (change_port(logits["original"]), logits["original"])
    )
    return hints(of_batch(range(70), change_labels(np.array(labels)).tolist(), {"port": port, "original": original}))


def test_a_good_network_looks_like_nothing():
    assert hinted() == []


def test_labels_that_are_numbered_from_one_look_like_it():
    (hint,) = hinted(lambda labels: labels + 1)

    assert hint.endswith("% of the answers are the label's number, one smaller: are the labels numbered from 1?")


def test_labels_that_lack_the_first_class_look_like_it():
    (hint,) = hinted(lambda labels: np.maximum(labels - 1, 0))

    assert hint.endswith("one larger: does another class come first in the labels?")


def test_labels_in_another_order_look_like_it():
    (hint,) = hinted(lambda labels: np.array([3, 5, 0, 1, 6, 2, 4])[labels])

    assert hint.startswith("the labels look like another numbering of the same classes: ")


def test_labels_of_other_pictures_are_told_by_agreement():
    (hint,) = hinted(lambda labels: np.roll(labels, 1))

    assert hint.startswith("agreement is 100.0% but accuracy ")


def test_a_port_s_classes_in_another_order_look_like_it():
    (hint,) = hinted(change_port=lambda logits: np.roll(logits, 1, axis=1))

    assert hint.startswith("the port's classes look like the original's in another order: ")


def test_a_network_that_gives_one_answer_looks_like_no_order():
    """Every class has the same most frequent answer."""
    constant = np.zeros((70, 7), np.float32)
    constant[:, 3] = 9
    labels = np.repeat(np.arange(7), 10).tolist()

    assert hints(of_batch(range(70), labels, {"port": constant})) == []
