"""The environment in a run's log describes the isolation of implementations that run in worker processes."""

from dataclasses import replace
from types import SimpleNamespace

from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.workers.confine import HOOKS
from tal_conformance.implementations.workers.memory import RLIMIT, description
from tal_conformance.suite.session import isolation_of


def test_the_environment_describes_the_isolation():
    own = implementation_from(ReferenceAdapter(), "own")
    adapter = SimpleNamespace(network=HOOKS, memory=description(2**30, RLIMIT))
    isolated = replace(own, name="isolated", adapter=adapter, in_subprocess=True)
    assert isolation_of([own, isolated]) == {
        "isolated": "process of its own, network blocked by audit hooks, memory limited to 1 GiB in each process by "
        "RLIMIT_DATA (without shared memory) and in all its processes together by a measurement every 0.25 s (shared "
        "memory included), not by a control group"
    }
