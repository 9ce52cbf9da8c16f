"""Caches of adapters do not grow with the number of heads and batches of a run."""

import gc
import importlib
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from ultralytics.utils.loss import v8DetectionLoss

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.implementations.adapters.coreyolo import CoreYOLO
from tal_conformance.implementations.adapters.doclayout_yolo import DocLayoutYOLO
from tal_conformance.implementations.adapters.libreyolo import LibreYOLO
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter, installed_release
from tal_conformance.implementations.adapters.yolo9 import YOLO9


def alive(kind: type) -> int:
    gc.collect()
    return sum(type(each) is kind for each in gc.get_objects())


@pytest.mark.parametrize("new", [UltralyticsAdapter, lambda: UltralyticsAdapter(installed_release())])
def test_losses_of_heads_that_are_gone_are_not_kept(new: Any):
    adapter, before = new(), alive(v8DetectionLoss)
    for classes in range(1, 6):
        batch = Recipe(images=((Truth("ordinary"),),), classes=classes).build()
        maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
        loss = adapter.loss(maps, batch.annotations, batch.head, batch.hyperparameters)
        assert loss.assignment.scores.shape[2] == classes
        del loss, maps
    assert alive(v8DetectionLoss) - before <= 1


def test_a_criterion_that_is_made_in_validation_serves_training():
    batch, adapter = Recipe(images=((Truth("ordinary"),),), predictions="near").build(), UltralyticsAdapter()
    arguments = batch.annotations, batch.head, batch.hyperparameters
    with torch.inference_mode():
        adapter.loss(tuple(level.clone() for level in batch.feature_maps), *arguments)
    maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
    adapter.loss(maps, *arguments).total.sum().backward()
    assert all(level.grad is not None for level in maps)


@pytest.mark.parametrize("project", [CoreYOLO, DocLayoutYOLO, LibreYOLO, YOLO9])
def test_nor_are_those_of_other_projects(project: Any, monkeypatch: pytest.MonkeyPatch):
    """Adapters of other projects, with stubs for the projects' packages, cache at most one criterion (loss object)."""
    monkeypatch.setattr(importlib, "import_module", MagicMock())
    adapter = project("1.0.0")
    assert adapter._criterion.cache_parameters()["maxsize"] == 1
    assert adapter._criterion.__wrapped__ == adapter._new_criterion


@pytest.mark.parametrize("new", [UltralyticsAdapter, lambda: UltralyticsAdapter(installed_release())])
def test_the_last_loss_is_kept(new: Any):
    adapter, batch = new(), Recipe().build()
    device = torch.device("cpu")
    first, again = (adapter._criterion(batch.head, batch.hyperparameters, device) for _ in range(2))
    assert first is again
