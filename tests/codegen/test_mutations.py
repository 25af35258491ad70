"""Every fault is caught: in the Loop IR of kernels, and in the code that writes them.

A fault counts as caught when the interpreter finds an access outside a buffer or two units that write one element, when
the kernel breaks the grammar or two steps race, or when one residue of the result is another than the equation's.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from faltung.codegen.element import PRIME
from tests.codegen.faults import EQUIVALENT, FAULTS, HARMLESS
from tests.codegen.mutations import Fault, mutants
from tests.codegen.subjects import FIRST, SUBJECTS
from tests.codegen.watch import Group, Lifetimes, Subject, Tried

SHARE = 0.01  # of all faults that fit into the Loop IR of the subjects; all of them take some minutes
SEED = 20
PARTS = 3  # tests that share the subjects, so that processes can share the tests


@cache
def suspects(module: str) -> list[Subject | Lifetimes]:
    """What is run with a fault in a module, what it shows in soonest first; the values are there before a fault can change them."""
    for subject in SUBJECTS:
        assert subject.values
    first = [next(s for s in SUBJECTS if s.name == name) for name in FIRST.get(module.rpartition(".")[2], ())]
    return [Lifetimes("lifetimes"), *first, *(s for s in SUBJECTS if s not in first)]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_without_a_fault_all_is_well(subject: Subject) -> None:
    assert subject.broken() is None


# ---- in the source ----


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_in_the_source_is_caught(fault: Fault) -> None:
    subjects = suspects(fault.where.partition(":")[0])
    with fault.installed():
        assert any(subject.broken() is not None for subject in subjects), f"{fault}: nothing notices"


def test_there_are_enough_faults(say: Callable[[str], None]) -> None:
    assert len(set(FAULTS)) == len(FAULTS) >= 90
    assert FIRST.keys() <= {fault.where.partition(":")[0].rpartition(".")[2] for fault in FAULTS}
    functions = {fault.function for fault in FAULTS}
    say(f"{len(FAULTS)} faults in {len(functions)} functions of the source are planted, each in a test; {len(EQUIVALENT)} more are none")


@pytest.mark.parametrize("fault, why", EQUIVALENT, ids=str)
def test_a_fault_that_is_none_changes_nothing(fault: Fault, why: str) -> None:
    subjects = suspects("")
    with fault.installed():
        assert [subject.broken() for subject in subjects] == [None] * len(subjects), f"not so: {why}"


def test_a_fault_is_gone_afterwards() -> None:
    right = FAULTS[0].function.__code__
    with pytest.raises(KeyError), FAULTS[0].installed():
        assert FAULTS[0].function.__code__ is not right
        raise KeyError
    assert FAULTS[0].function.__code__ is right


# ---- in the Loop IR ----


@pytest.mark.parametrize("part", range(PARTS))
def test_faults_in_the_loops_are_caught(part: int, say: Callable[[str], None]) -> None:
    """A seeded sample of all faults. A fault that changes neither what is read nor what is written is none on this shape.

    Without one every kernel does what it should.
    """
    caught, inert, excused = Counter[str](), 0, Counter[str]()
    missed = []
    for subject in SUBJECTS[part::PARTS]:
        generator = random.Random(f"{SEED} {subject.name}")  # one each: a new subject changes no other's sample
        for group, number in ((g, n) for g in subject.groups() for n in range(len(g.steps))):
            kernel = group.steps[number].kernel
            assert group.tried(number, kernel) == Tried(None, inert=True), (subject.name, group.steps[number].equation)
            for mutant in mutants(kernel) if subject.most == PRIME else ():
                if generator.random() >= SHARE:
                    continue
                found = group.tried(number, mutant.kernel)
                if found.broken is not None:
                    caught[mutant.kind] += 1
                elif found.inert:
                    inert += 1
                elif why := harmless(mutant.kind, group):
                    excused[why] += 1
                else:
                    missed.append(f"{subject.name}, {group.steps[number].equation}: {mutant.kind} at {mutant.place}")
    assert not missed, "\n".join(missed)
    assert caught.total() >= 100 and len(caught) >= 16, caught
    say(f"{caught.total()} faults of {len(caught)} kinds in the loops are caught; {inert} do nothing on their shape, {excused.total()} are harmless")


def harmless(kind: str, group: Group) -> str | None:
    """Why a fault of this kind may leave the results of this equation as they are."""
    equation = str(group.steps[0].equation)
    return next((why for name, part, why in HARMLESS if name == kind and part in equation), None)
