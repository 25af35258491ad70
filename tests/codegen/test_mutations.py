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
from tests.codegen.subjects import SUBJECTS
from tests.codegen.watch import Group, Lifetimes, Subject

SHARE = 0.015  # of all faults that fit into the Loop IR of the subjects; all of them take some minutes
SEED = 20


@cache
def suspects(module: str) -> list[Subject | Lifetimes]:
    """What is run with a fault in a module, its own subjects first; the values are there before a fault can change them."""
    for subject in SUBJECTS:
        assert subject.values
    return [*sorted(SUBJECTS, key=lambda s: module.rpartition(".")[2] not in s.about), Lifetimes("lifetimes")]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_without_a_fault_all_is_well(subject: Subject) -> None:
    assert subject.broken() is None
    for group in subject.groups():
        for number, step in enumerate(group.steps):
            assert group.broken(number, step.kernel) is None and group.inert(number, step.kernel)


# ---- in the source ----


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_in_the_source_is_caught(fault: Fault) -> None:
    subjects = suspects(fault.where.partition(":")[0])
    with fault.installed():
        assert any(subject.broken() is not None for subject in subjects), f"{fault}: nothing notices"


def test_there_are_enough_faults(say: Callable[[str], None]) -> None:
    assert len(set(FAULTS)) == len(FAULTS) >= 90
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


def test_faults_in_the_loops_are_caught(say: Callable[[str], None]) -> None:
    """A seeded sample of all faults. A fault that changes neither what is read nor what is written is none on this shape."""
    caught, inert, excused = Counter[str](), 0, Counter[str]()
    missed = []
    generators = {s.name: random.Random(f"{SEED} {s.name}") for s in SUBJECTS}  # one each: a new subject changes no other's sample
    for subject, group, number in ((s, g, n) for s in SUBJECTS if s.most == PRIME for g in s.groups() for n in range(len(g.steps))):
        for mutant in mutants(group.steps[number].kernel):
            if generators[subject.name].random() >= SHARE:
                continue
            if group.broken(number, mutant.kernel) is not None:
                caught[mutant.kind] += 1
            elif group.inert(number, mutant.kernel):
                inert += 1
            elif why := harmless(mutant.kind, group):
                excused[why] += 1
            else:
                missed.append(f"{subject.name}, {group.steps[number].equation}: {mutant.kind} at {mutant.place}")
    assert not missed, "\n".join(missed)
    assert caught.total() >= 150 and len(caught) >= 18, caught
    say(f"{caught.total()} faults of {len(caught)} kinds in the loops are caught; {inert} do nothing on their shape, {excused.total()} are harmless")


def harmless(kind: str, group: Group) -> str | None:
    """Why a fault of this kind may leave the results of this equation as they are."""
    equation = str(group.steps[0].equation)
    return next((why for name, part, why in HARMLESS if name == kind and part in equation), None)
