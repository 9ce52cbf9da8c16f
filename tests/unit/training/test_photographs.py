import json
from pathlib import Path

import pytest
import torch
import yaml

from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.training import photographs as real
from tal_conformance.training.photographs import (
    GREY,
    LABELS,
    Photograph,
    View,
    augmented,
    images_of,
    photograph,
    render,
)

MADE = json.loads(LABELS.read_text(encoding="utf-8"))["photographs"]
WIDE, TALL = (96, 160), (160, 96)


@pytest.mark.parametrize("name", MADE)
def test_labels_lie_on_their_photograph(name: str):
    source = photograph(name)
    height, width = source.pixels.shape[1:]
    assert source.pixels.dtype == torch.uint8
    assert (source.boxes[:, :2] >= -0.01).all()
    assert (source.boxes[:, 2:] <= torch.tensor([width, height]) + 0.01).all()
    assert ((source.boxes[:, 2:] - source.boxes[:, :2]) > 30).all()


def test_red_comes_first():
    red, _, blue = photograph("bus.jpg").pixels[:, 560:600, 570:640].float().mean((1, 2))  # the bus is blue
    assert blue > 1.5 * red


def test_classes_are_those_of_coco():
    import ultralytics

    data = Path(ultralytics.__file__).parent / "cfg" / "datasets" / "coco.yaml"
    names = yaml.safe_load(data.read_text(encoding="utf-8"))["names"]
    assert all(names[thing["class"]] == thing["name"] for made in MADE.values() for thing in made["objects"])


def test_persons_bus_and_ties_are_labelled():
    assert sorted(thing["name"] for thing in MADE["bus.jpg"]["objects"]) == ["bus", *["person"] * 4]
    assert sorted(thing["name"] for thing in MADE["zidane.jpg"]["objects"]) == [
        "person",
        "person",
        "tie",
        "tie",
    ]


def test_another_photograph_under_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(real, "_read", lambda name: torch.zeros(3, 10, 20, dtype=torch.uint8))
    with pytest.raises(UnknownImplementation, match=r"bus\.jpg .* has 20x10 px, expected 810x1080 px"):
        photograph.__wrapped__("bus.jpg")


def painted(monkeypatch: pytest.MonkeyPatch, box: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    """Replace every photograph by a black image with one white object of class 3."""
    pixels = torch.zeros(3, *size, dtype=torch.uint8)
    pixels[:, box[1] : box[3], box[0] : box[2]] = 255
    source = Photograph("painted", pixels, torch.tensor([3]), torch.tensor([box]).float())
    monkeypatch.setattr(real, "photograph", lambda name: source)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("size", [WIDE, TALL, (128, 128)])
@pytest.mark.parametrize("crop", [(0, 0, 1, 1), (0.1, 0.05, 0.9, 0.8), (0.3, 0.2, 0.6, 1), (0, 0.5, 1, 0.7)])
def test_boxes_go_where_their_pixels_go(
    monkeypatch: pytest.MonkeyPatch, crop: tuple[float, ...], size: tuple[int, int], mirrored: bool
):
    painted(monkeypatch, (120, 90, 210, 250), (300, 400))
    pixels, rows = render(View("painted", crop, mirrored), size)
    ((label, cx, cy, w, h),) = rows.tolist()
    lit = (pixels[0] > 0.6).nonzero()  # (P, 2) y, x of pixels brighter than the grey of the letterbox
    (top, left), (bottom, right) = lit.amin(0).tolist(), (lit.amax(0) + 1).tolist()
    height, width = size
    found = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
    assert label == 3
    assert found == pytest.approx([left, top, right, bottom], abs=1.01)


def test_a_sliver_is_left_out(monkeypatch: pytest.MonkeyPatch):
    painted(monkeypatch, (100, 100, 200, 200), (400, 400))
    assert len(render(View("painted", (0, 0, 0.28, 1)), WIDE)[1]) == 1  # 12 of 100 columns are visible
    assert len(render(View("painted", (0, 0, 0.27, 1)), WIDE)[1]) == 0  # 8 of 100 columns are visible


def test_what_the_photograph_leaves_free_is_grey(monkeypatch: pytest.MonkeyPatch):
    painted(monkeypatch, (0, 0, 200, 200), (200, 200))
    pixels, _ = render(View("painted"), (96, 160))
    assert torch.equal(pixels[:, :, :32], torch.full((3, 96, 32), GREY))
    assert torch.equal(pixels[:, :, 128:], torch.full((3, 96, 32), GREY))
    assert (pixels[:, :, 32:128] > 0.99).all()


def test_the_same_seed_gives_the_same_views():
    assert augmented(3) == augmented(3)
    assert augmented(3) != augmented(4)


@pytest.mark.parametrize("seed", range(12))
def test_every_batch_of_images_has_one_without_objects(seed: int):
    images = images_of(augmented(seed), WIDE)
    counts = torch.bincount(images.annotations[:, 0].long(), minlength=4).tolist()
    assert counts[3] == 0
    assert counts[0] >= 2
    assert counts[1] >= 2
    assert images.pixels.shape == (4, 3, *WIDE)
    assert images.pixels.min() >= 0
    assert images.pixels.max() <= 1


def test_annotations_lie_in_the_image():
    for seed in range(12):
        _, _, *box = images_of(augmented(seed), TALL).annotations.unbind(1)
        centre, half = torch.stack(box[:2], 1), torch.stack(box[2:], 1) / 2
        assert (centre - half >= -1e-6).all()
        assert (centre + half <= 1 + 1e-6).all()
        assert (half > 0).all()
