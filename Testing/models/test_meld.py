"""MELD: what a data set teaches and what not, the gate, the fused score, and the dense trunk of the paper."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from LesionDetectorLib.lesion import BodyPart
from LesionDetectorLib.models import weights
from LesionDetectorLib.models.faster_rcnn import RawOutputs as TwoStageOutputs
from LesionDetectorLib.models.faster_rcnn import TwoStage
from LesionDetectorLib.models.meld import Heads, Meld, RawOutputs, fused
from LesionDetectorLib.slices import Recipe
from torch import nn

from Testing.helpers.targets import target

BOX = [20.0, 20, 40, 40]
LIVER, LUNG, MEDIASTINUM, KIDNEY = (
    BodyPart.LIVER - 1,
    BodyPart.LUNG - 1,
    BodyPart.MEDIASTINUM - 1,
    BodyPart.KIDNEY - 1,
)


def small(**changes) -> Meld:
    torch.manual_seed(0)
    return Meld(**{"channels": 8, "features": 16, "strides": (4, 8, 16), **changes})


def maps(images: int = 1) -> RawOutputs:
    torch.manual_seed(1)
    return RawOutputs(tuple(torch.rand(images, 8, 64 // stride, 64 // stride) for stride in (4, 8, 16)))


def taught(model: Meld, *targets) -> dict[str, float]:
    """The sum of the absolute gradient of every parameter after one step on images with these targets."""
    model.zero_grad()
    sum(model.loss(maps(len(targets)), targets).values()).backward()
    return {
        name: weight.grad.abs().sum().item() for name, weight in model.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("dataset", range(4))
def test_a_data_set_teaches_its_own_expert_and_what_all_share(dataset: int) -> None:
    model = small()
    gradients = taught(model, target([BOX], [LUNG])._replace(dataset=dataset))
    for number in range(4):
        own = sum(value for name, value in gradients.items() if name.startswith(f"rpns.{number}."))
        assert (own > 0) == (number == dataset)
    for layer in (*model.heads.logits, model.heads.deltas):
        rows = layer.weight.grad.abs().flatten(1).sum(dim=1)
        assert (rows.view(4, -1).sum(dim=1) > 0).tolist() == [number == dataset for number in range(4)]
    assert all(value > 0 for name, value in gradients.items() if name.startswith("heads.hidden"))


def test_every_parameter_of_the_heads_has_a_gradient_so_that_processes_agree() -> None:
    model = small()
    taught(model, target([]))
    assert not [
        name
        for name, weight in model.named_parameters()
        if weight.grad is None and name.split(".")[0] in ("rpns", "heads")
    ]


def gate_of(model: Meld, lesions) -> float:
    """The gate's loss with a gate that says 0.5 for every region."""
    for layer in model.heads.gate.parameters():
        nn.init.zeros_(layer)
    return model.loss(maps(), [lesions])["gate"].item()


@pytest.mark.parametrize(
    ("lesions", "known"),
    [
        (target([BOX], [LUNG]), True),
        (target([BOX], [KIDNEY]), True),  # an organ without an expert: all are 0
        (target([BOX], [-1]), False),
        (target([BOX], [-1])._replace(dataset=2), True),  # the data set is the organ
        (target([]), False),
        (target([BOX], [LUNG], [True]), False),
    ],
)
def test_the_gate_learns_from_lesions_whose_organ_is_known(lesions, known: bool) -> None:
    expected = 3 * math.log(2) if known else 0.0
    assert gate_of(small(), lesions) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("lesions", "organs"),
    [
        (target([BOX], [LUNG]), [0.95, 0.05, 0.05]),
        (target([BOX], [LIVER]), [0.05, 0.95, 0.05]),
        (target([BOX], [MEDIASTINUM]), [0.05, 0.05, 0.95]),
        (target([BOX], [KIDNEY]), [0.05, 0.05, 0.05]),
        (target([BOX], [KIDNEY])._replace(dataset=3), [0.05, 0.05, 0.95]),
    ],
)
def test_what_the_gate_learns(lesions, organs: list[float]) -> None:
    """Its loss has its least value, the entropy of the wanted weights, where it says these."""
    model = small()
    for layer in model.heads.gate.parameters():
        nn.init.zeros_(layer)
    with torch.no_grad():
        model.heads.gate[-1].bias.copy_(torch.tensor(organs).logit())
    entropy = -3 * (0.95 * math.log(0.95) + 0.05 * math.log(0.05))
    assert model.loss(maps(), [lesions])["gate"].item() == pytest.approx(entropy, abs=1e-5)


def test_the_classification_does_not_teach_the_gate() -> None:
    model = small()
    model.loss(maps(), [target([BOX], [LUNG])])["class"].backward()
    assert all(weight.grad is None for weight in model.heads.gate.parameters())


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_score_is_a_mean_of_the_heads_in_which_the_whole_body_counts_fully(scores, gate) -> None:
    score = fused(torch.tensor([scores]), torch.tensor([gate])).item()
    assert min(scores) - 1e-6 <= score <= max(scores) + 1e-6
    assert fused(torch.tensor([scores]), torch.zeros(1, 3)).item() == pytest.approx(scores[0], abs=1e-6)
    assert score == pytest.approx(sum(w * s for w, s in zip([1, *gate], scores)) / (1 + sum(gate)), abs=1e-5)


def test_a_mined_lesion_teaches_that_it_is_one_and_not_where_its_sides_are() -> None:
    lesions = target([BOX], [LUNG])
    losses = small().loss(maps(), [lesions._replace(mined=torch.tensor([True]))])
    marked = small().loss(maps(), [lesions])
    assert losses["box"] == losses["proposal"] == 0 < min(marked["box"], marked["proposal"])
    for name in ("objectness", "class", "gate", "part"):
        torch.testing.assert_close(losses[name], marked[name])
    both = target([BOX, [2.0, 2, 14, 14]])._replace(mined=torch.tensor([True, False]))
    assert small().loss(maps(), [both])["proposal"] > 0


def test_a_lesion_of_unknown_label_is_a_lesion() -> None:
    losses = [small().loss(maps(), [target([BOX], [label])]) for label in (LUNG, -1)]
    torch.testing.assert_close(losses[0]["class"], losses[1]["class"])
    assert losses[1]["part"] == 0 < losses[0]["part"]


def test_one_data_set_without_organs_is_a_plain_two_stage_detector() -> None:
    """The losses of the first stage are Faster R-CNN's; the second has a sigmoid instead of a softmax."""
    model = small(organs=())
    raw, lesions = maps(2), [target([BOX], [LUNG]), target([[2.0, 2, 30, 22], [44.0, 40, 60, 60]], [3, 4])]
    plain = TwoStage(nn.Identity(), (4, 8, 16), 8, model.rpns[0].anchor_generator, nn.Flatten(), 8 * 49, 1, 64)
    plain.rpn.head.load_state_dict(model.rpns[0].head.state_dict())
    objectness, deltas = model.rpns[0].head(list(raw.maps))
    torch.manual_seed(5)
    ours = model.loss(raw, lesions)
    torch.manual_seed(5)
    one_label = [each._replace(labels=torch.zeros_like(each.labels)) for each in lesions]
    theirs = plain.loss(TwoStageOutputs(raw.maps, tuple(objectness), tuple(deltas)), one_label)
    for name in ("objectness", "proposal"):
        torch.testing.assert_close(ours[name], theirs[name])
    assert ours["gate"] == 0

    for layer in model.heads.logits:
        nn.init.zeros_(layer.weight)
        nn.init.constant_(layer.bias, 0.7)
    (found,) = model.eval().decode(maps(), score_threshold=0.0, max_detections=5)
    assert found.scores == pytest.approx(torch.full((5,), 0.7).sigmoid())


def test_experts_say_what_is_theirs() -> None:
    model = small()
    for layer in model.heads.logits:
        nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([-3.0, 2, -3, -3]))
    with torch.no_grad():
        nn.init.zeros_(model.heads.parts.weight)
        model.heads.parts.bias.copy_(torch.eye(8)[LUNG])
    (none,), (found,) = (model.eval().decode(maps(), score_threshold=0.5, expert=number) for number in (0, 1))
    assert len(none.boxes) == 0 < len(found.boxes)
    assert found.scores == pytest.approx(torch.full_like(found.scores, 2.0).sigmoid())
    assert set(found.labels.tolist()) == {LUNG}


def test_the_heads_of_the_paper_are_as_large_as_it_says() -> None:
    heads = Heads(512 * 49, 1024, 4, 8)
    assert heads.hidden[0][0].weight.numel() == 25088 * 1024
    assert [heads.gate[0].out_features, heads.gate[-1].out_features] == [512, 3]


@pytest.fixture(scope="module")
def dense() -> Meld:
    return Meld("densenet121", Recipe(slices=9), strides=(4,), channels=16, features=16)


def test_the_dense_trunk_learns_and_is_kept(dense: Meld, tmp_path) -> None:
    images = torch.rand(1, 9, 64, 72) * 255
    raw = dense.train()(images)
    assert raw.maps[0].shape == (1, 16, 16, 18)
    assert dense.rpns[0].anchor_generator.num_anchors_per_location() == [15]
    sum(dense.loss(raw, [target([BOX], [LUNG])]).values()).backward()
    assert not [name for name, weight in dense.named_parameters() if weight.grad is None]
    weights.save(dense.eval(), tmp_path / "a.safetensors", {})
    loaded, _ = weights.load(tmp_path / "a.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images).maps, dense(images).maps)


def test_the_dense_trunk_takes_the_weights_of_the_classifier(dense: Meld) -> None:
    state = torchvision.models.densenet121(weights=None).state_dict()
    dense.pyramid.load_backbone(state)
    assert torch.equal(
        dense.pyramid.stages[4].denselayer1.conv1.weight, state["features.denseblock3.denselayer1.conv1.weight"]
    )
    with pytest.raises(RuntimeError, match="Missing key"):
        dense.pyramid.load_backbone({})


def test_the_neighbours_change_what_the_dense_trunk_sees(dense: Meld) -> None:
    images = torch.full((1, 9, 64, 64), 100.0)
    changed = images.clone()
    changed[:, 8] = 200.0
    with torch.no_grad():
        assert not torch.equal(dense.eval()(images).maps[0], dense(changed).maps[0])


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ({"backbone": "densenet121"}, "takes 9 slices"),
        ({"organs": ["Lung", "Toe"]}, "'Toe' is not a body part"),
        ({"channels": 12}, "multiple of 8"),
    ],
)
def test_what_cannot_be_built_is_refused(architecture: dict, sentence: str) -> None:
    with pytest.raises(weights.WeightsError, match=sentence):
        weights.build({"detector": "meld", **architecture})
