"""Adapters that change state of the process, of the interpreter or of the standard library which others use."""

import builtins
import gc
import importlib
import json
import locale
import logging
import math
import operator
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from typing import Any

import numpy as np
from misbehaving import Double

from tal_conformance.core.outcome import AssignerInputs, Assignment


class ReplacesAny(Double):
    """Replaces the built-in function `any`, so that it is always False."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        builtins.any = lambda _: False  # type: ignore[assignment]
        return right


class ReplacesLen(Double):
    """Replaces the built-in function `len`, so that it raises."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        builtins.len = math.sqrt  # type: ignore[assignment]
        return right


class ReplacesMax(Double):
    """Replaces the built-in function `max` by `min`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        builtins.max = builtins.min  # type: ignore[assignment]
        return right


class ReplacesSum(Double):
    """Replaces the built-in function `sum`, so that it is always 0."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        builtins.sum = lambda *_: 0  # type: ignore[assignment]
        return right


class ReplacesIsinstance(Double):
    """Replaces the built-in function `isinstance`, so that it is always True."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        builtins.isinstance = lambda *_: True  # type: ignore[assignment]
        return right


class DeletesABuiltin(Double):
    """Deletes the built-in function `sorted`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        del builtins.sorted
        return right


class ReplacesMath(Double):
    """Replaces `math.isnan`, `math.sqrt` and `math.isclose`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        math.isnan = math.sqrt = math.isclose = lambda *_, **__: False  # type: ignore[assignment]
        return right


class ReplacesJson(Double):
    """Replaces `json.dumps` and `json.loads`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        json.dumps = json.loads = lambda *_, **__: "{}"  # type: ignore[assignment]
        return right


class ReplacesJsonEncoder(Double):
    """Replaces the method `encode` of `json.JSONEncoder`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        json.JSONEncoder.encode = lambda *_: "{}"  # type: ignore[method-assign]
        return right


class ReplacesOperators(Double):
    """Replaces `operator.is_` and `operator.eq`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        operator.is_ = operator.eq = lambda *_: True  # type: ignore[assignment]
        return right


class StopsTheClock(Double):
    """Replaces `time.monotonic`, `time.perf_counter` and `time.time`, which others use to end."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        time.monotonic = time.perf_counter = time.time = lambda: 0.0  # type: ignore[assignment]
        return right


class ReplacesSleep(Double):
    """Replaces `time.sleep` by a function that raises."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        time.sleep = None  # type: ignore[assignment]
        return right


class ReplacesOpen(Double):
    """Replaces `open` and `os.open`, so that no file can be opened."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        builtins.open = os.open = None  # type: ignore[assignment]
        return right


class ReplacesSystemCalls(Double):
    """Replaces `os.write`, `os.getpid` and `os.listdir`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.write = os.getpid = os.listdir = None  # type: ignore[assignment]
        return right


class ReplacesNumpy(Double):
    """Replaces `numpy.array` and `numpy.argsort`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        np.array = np.argsort = None
        return right


class ClosesStandardOutput(Double):
    """Closes the file descriptor of standard output."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.close(1)
        return right


class ClosesStandardError(Double):
    """Closes the file descriptor of standard error."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.close(2)
        return right


class ClosesAllFiles(Double):
    """Closes all file descriptors."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.closerange(0, 4096)
        return right


class ClosesTheLogs(Double):
    """Closes all file descriptors from number 3 on."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.closerange(3, 4096)
        return right


class SilencesOutput(Double):
    """Redirects standard output and standard error into the null device."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
        return right


class ClosesPythonsOutput(Double):
    """Closes `sys.stdout`, `sys.stderr` and the streams behind them."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
            stream.close()
        return right


class ReplacesPythonsOutput(Double):
    """Replaces `sys.stdout` and `sys.stderr` by None."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None  # type: ignore[assignment]
        return right


class LeavesATracer(Double):
    """Leaves a trace function set that raises."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        def trace(frame: Any, event: Any, value: Any) -> Any:
            if "judge" in frame.f_code.co_name:
                raise RuntimeError("traced")

        sys.settrace(trace)
        return right


class LeavesAProfiler(Double):
    """Leaves a profile function set that raises."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        def profile(frame: Any, event: Any, value: Any) -> None:
            if "judge" in frame.f_code.co_name:
                raise RuntimeError("profiled")

        sys.setprofile(profile)
        return right


class LeavesAThreadTracer(Double):
    """Leaves a trace function for new threads set that raises."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        def trace(*_: Any) -> Any:
            raise RuntimeError("traced")

        threading.settrace(trace)
        threading.setprofile(trace)
        return right


class LowersTheRecursionLimit(Double):
    """Lowers the limit of recursion, so that the suite's own functions exceed it."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        depth, frame = 0, sys._getframe()
        while frame:
            depth, frame = depth + 1, frame.f_back
        sys.setrecursionlimit(depth + 4)
        return right


class SwitchesThreadsRarely(Double):
    """Changes the interval at which the interpreter switches between threads to an hour."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        sys.setswitchinterval(3600)
        return right


class DisablesCollection(Double):
    """Disables the garbage collection and freezes all objects."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        gc.disable()
        gc.freeze()
        return right


class TurnsWarningsIntoErrors(Double):
    """Turns all warnings into errors."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        warnings.simplefilter("error")
        warnings.showwarning = None  # type: ignore[assignment]
        return right


class ChangesTheLocale(Double):
    """Changes the locale of the process."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        locale.setlocale(locale.LC_ALL, "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C")
        return right


class EmptiesTheEnvironment(Double):
    """Removes all environment variables and sets the suite's own to nonsense."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.environ.clear()
        os.environ["TAL_CONFORMANCE_TIMEOUT"] = os.environ["TAL_CONFORMANCE_MEMORY"] = "nonsense"
        return right


class ChangesTheFolder(Double):
    """Changes the working directory."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.chdir("/")
        return right


class ChangesTheMask(Double):
    """Changes the mask of permissions, so that new files can neither be read nor written."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.umask(0o777)
        return right


class IgnoresInterrupts(Double):
    """Ignores Ctrl-C and other signals of the user."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        return right


class BlocksSignals(Double):
    """Blocks all signals."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        return right


class SetsATimer(Double):
    """Sets a timer whose signal raises an exception every 20 ms."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        def ring(*_: Any) -> None:
            raise RuntimeError("alarm")

        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        return right


class SetsADeadlyTimer(Double):
    """Sets a timer whose signal ends the process in half a second."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        return right


class ReplacesHooks(Double):
    """Replaces the hooks for uncaught exceptions by functions that end the process."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        sys.excepthook = sys.unraisablehook = threading.excepthook = sys.displayhook = lambda *_: os._exit(0)
        return right


class RaisesWhenDeleted(Double):
    """Leaves objects whose `__del__` raises."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        class Raises:
            def __del__(self) -> None:
                raise KeyboardInterrupt("deleted")

        loop: Any = Raises()
        loop.itself = loop
        return right


class ReplacesModules(Double):
    """Replaces modules of torch and pytest in `sys.modules`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        for name in ("torch", "pytest", "json", "math"):
            sys.modules[name] = sys.modules["os"]
        return right


class ReplacesOwnModules(Double):
    """Replaces modules of the suite in `sys.modules`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        for name in [name for name in sys.modules if name.startswith(("tal_", "_pytest", "hypothesis"))]:
            sys.modules[name] = sys.modules["os"]
        return right


class DeletesModules(Double):
    """Deletes all modules from `sys.modules`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        sys.modules.clear()
        return right


class BreaksImports(Double):
    """Puts a finder first that makes every later import raise, and empties the search path."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        class Finder:
            def find_spec(self, name: str, *_: Any) -> Any:
                raise ImportError(name)

        sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
        sys.path.clear()
        importlib.invalidate_caches()
        return right


class RaisesInLogging(Double):
    """Adds a handler to the root logger that raises, and disables logging."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        class Handler(logging.Handler):
            def handle(self, _: Any) -> bool:
                raise RuntimeError("logged")

        logging.getLogger().handlers.insert(0, Handler())
        logging.getLogger().setLevel(0)
        return right


class SeedsRandomNumbers(Double):
    """Seeds the generators of random numbers of Python and NumPy."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        random.seed(0)
        np.random.seed(0)
        return right


class RaisesFloatErrors(Double):
    """Lets NumPy raise an exception for each overflow and underflow."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        np.seterr(all="raise")
        return right


class LimitsTheProcess(Double):
    """Limits the size of the files that the process writes to 1,000 bytes."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        return right


class ReplacesTheImport(Double):
    """Replaces the import function of Python."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        builtins.__import__ = None  # type: ignore[assignment]
        return right


class AddsACollectionCallback(Double):
    """Adds a function to the garbage collection that raises at each collection."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        def called(*_: Any) -> None:
            raise RuntimeError("collected")

        gc.callbacks.append(called)
        return right


class AddsAnAuditHook(Double):
    """Adds an audit hook that raises whenever a file is opened."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        def hook(event: str, arguments: Any) -> None:
            if event == "open":
                raise RuntimeError("audited")

        sys.addaudithook(hook)
        return right
