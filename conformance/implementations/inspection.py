"""Read the signatures of a user's assigner or loss in a separate process: the import may have side effects."""

import inspect
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import ADAPTER_METHODS, takes

SECONDS = 120.0
"""Time limit of the import."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a constructor or call.

    Attributes:
        name: name of the parameter.
        required: True if the parameter has no default.
        keyword_only: True if the parameter cannot be given by position.
    """

    name: str
    required: bool
    keyword_only: bool


@dataclass(frozen=True)
class Target:
    """A user's class, function or object, as its signatures describe it.

    Attributes:
        name: the value that selects it, such as `package.module:object`.
        kind: the kind of object.
        constructor: parameters of the class; none for a function or another object.
        call: parameters of the object's call, or of `forward` if the object is a torch module.
        adapter_methods: methods of the adapter protocol that the object has already.
    """

    name: str
    kind: Literal["class", "function", "object"]
    constructor: tuple[Parameter, ...]
    call: tuple[Parameter, ...]
    adapter_methods: tuple[str, ...]

    @property
    def where(self) -> str:
        """The module or file in `name`."""
        return self.name.rpartition(":")[0]

    @property
    def attribute(self) -> str:
        """The dotted name of the object in its module or file."""
        return self.name.rpartition(":")[2]


def inspected(name: str, seconds: float = SECONDS) -> Target:
    """Import an object in another process, and return its signatures.

    Args:
        name: `package.module:object` or `path/to/file.py:object`.
        seconds: time limit.

    Raises:
        UnknownImplementation: the object could not be imported, or has no signature.
    """
    with TemporaryDirectory(prefix="tal-conformance-") as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-P", "-m", __name__, name, str(answer)]
        try:
            done = subprocess.run(  # noqa: S603  (this module, with the name as one argument)
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UnknownImplementation(f"importing {name} took longer than {seconds:g} s") from error
        if not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["(nothing printed)"])[-1]
            raise UnknownImplementation(
                f"importing {name} ended its process with exit status {done.returncode}: {last[:500]}"
            )
        fields = json.loads(answer.read_text(encoding="utf-8"))
    if "problem" in fields:
        raise UnknownImplementation(fields["problem"])
    parameters = {
        part: tuple(Parameter(**parameter) for parameter in fields[part]) for part in ("constructor", "call")
    }
    return Target(name, fields["kind"], **parameters, adapter_methods=tuple(fields["adapter_methods"]))


def signatures_of(name: str) -> dict[str, Any]:
    """Return the fields of a `Target`, with the object imported into this process; called in a child process.

    Raises:
        UnknownImplementation: the object could not be imported, or has no signature.
    """
    import torch

    from tal_conformance.implementations.registry import object_of

    target = object_of(name)
    kind = "class" if isinstance(target, type) else "function" if inspect.isroutine(target) else "object"
    methods = [method for method, count in ADAPTER_METHODS.items() if takes(target, method, count)]
    owner = target if isinstance(target, type) else type(target)
    if kind == "function":
        call = _parameters(target, name)
    else:
        method = "forward" if issubclass(owner, torch.nn.Module) else "__call__"
        defined = next((vars(base)[method] for base in owner.__mro__ if method in vars(base)), None)
        call = [] if defined is None else _parameters(defined, name)[1:]
    constructor = _parameters(target, name) if kind == "class" else []
    return {"kind": kind, "constructor": constructor, "call": call, "adapter_methods": methods}


def _parameters(target: Any, name: str) -> list[dict[str, Any]]:
    try:
        found = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError) as error:
        raise UnknownImplementation(f"{name} has no signature that Python can read: {error}") from error
    plain = [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [asdict(Parameter(p.name, p.default is p.empty, p.kind is p.KEYWORD_ONLY)) for p in plain]


def main(name: str, answer: Path) -> None:
    """Write the signatures of an object, or the error that prevented reading them, as JSON into the file `answer`."""
    try:
        fields = signatures_of(name)
    except UnknownImplementation as error:
        fields = {"problem": str(error)}
    answer.write_text(json.dumps(fields), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
