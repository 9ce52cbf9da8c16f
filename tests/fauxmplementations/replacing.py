"""Adapters that change code or state of torch, of the official modules or of the suite."""

import sys
import threading
import time
from typing import Any

import torch
from misbehaving import Double
from torch.overrides import TorchFunctionMode

from tal_conformance.core.outcome import AssignerInputs, Assignment


class ChangesTheDefaultDevice(Double):
    """Changes torch's default device to "meta", so that new tensors have no values."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        torch.set_default_device("meta")
        return right


class Halving(TorchFunctionMode):
    """Function mode that halves the results of the sigmoid."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result / 2 if getattr(func, "__name__", "") == "sigmoid" else result


class LeavesAMode(Double):
    """Leaves a function mode active that changes results."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        Halving().__enter__()
        return right


class FlushesDenormals(Double):
    """Lets the processor flush denormal numbers to 0."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        torch.set_flush_denormal(True)
        return right


class EntersInferenceMode(Double):
    """Leaves inference mode on, in which gradients cannot be computed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        self.mode = torch.inference_mode()
        self.mode.__enter__()
        return right


class LeavesAutocastOn(Double):
    """Leaves mixed precision on, which is allowed, because the setting ends with the call."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        torch.set_autocast_dtype("cpu", torch.float16)
        torch.set_autocast_enabled("cpu", True)
        return right


class ReplacesTopk(Double):
    """Replaces `torch.topk` in the whole process."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        plain = torch.topk
        torch.topk = lambda values, k, *rest, **options: plain(values, 1, *rest, **options)  # type: ignore[assignment]
        return right


class ReplacesAMethodOfTensors(Double):
    """Replaces `Tensor.sigmoid` in the whole process."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        torch.Tensor.sigmoid = torch.Tensor.tanh  # type: ignore[method-assign]
        return right


class ReplacesOfficialCode(Double):
    """Replaces a method of the official assigner, if it is loaded."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        tal = sys.modules.get("ultralytics.utils.tal")
        if tal is not None:
            tal.TaskAlignedAssigner.get_pos_mask = lambda *_: None
        return right


class RewritesOfficialCode(Double):
    """Replaces the code of an official function in place, if it is loaded."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        tal = sys.modules.get("ultralytics.utils.tal")
        if tal is not None:
            tal.make_anchors.__code__ = (lambda *_, **__: None).__code__
        return right


class ReplacesTheJudge(Double):
    """Returns wrong results, and makes the suite's judge accept everything."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        from tal_conformance.checks import reference

        reference.judge_against_reference.__defaults__ = (False, False, self.accept)
        return right

    def accept(self, outcome: Any, expected: Any) -> Any:
        from tal_conformance.core.verdicts import Judgement

        return Judgement()


class ChangesStateFromAThread(Double):
    """Leaves a thread running that changes the default dtype repeatedly."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        def work() -> None:
            while True:
                time.sleep(0.6)
                torch.set_default_dtype(torch.float64)

        threading.Thread(target=work, daemon=True).start()
        return right
