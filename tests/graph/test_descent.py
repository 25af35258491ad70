"""The optimisers' equations, evaluated, against PyTorch's published algorithms written out in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from faltung.graph.descent import SGD, Adam, AdamW, HyperparameterError, Optimiser, Update
from faltung.graph.dsl import input, parameter
from faltung.graph.errors import DTypeError, FaltungError, ShapeError
from faltung.graph.evaluate import evaluate
from faltung.graph.grad import grad
from faltung.graph.parse import parse
from faltung.graph.tensor import Tensor, leaf

Array = np.ndarray
Reference = Callable[[Array, Array], Array]  # (parameter, gradient) → parameter after one more step

STEPS = 5
RATES = [0.3, 0.3, 0.1, 0.0, 0.05]  # the rate may change, and be 0


def sgd(momentum: float = 0, dampening: float = 0, decay: float = 0, nesterov: bool = False) -> Reference:
    buffer: list[Array] = []
    rates = iter(RATES)

    def step(p: Array, g: Array) -> Array:
        if decay != 0:
            g = g + decay * p
        if momentum != 0:
            buffer[:] = [momentum * buffer[0] + (1 - dampening) * g if buffer else g]
            g = g + momentum * buffer[0] if nesterov else buffer[0]
        return p - next(rates) * g

    return step


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, l2: float = 0, shrink: float = 0) -> Reference:
    mean, square = [np.zeros(())], [np.zeros(())]
    count, rates = [0], iter(RATES)

    def step(p: Array, g: Array) -> Array:
        lr = next(rates)
        count[0] += 1
        p = p * (1 - lr * shrink)
        g = g + l2 * p
        mean[0] = b1 * mean[0] + (1 - b1) * g
        square[0] = b2 * square[0] + (1 - b2) * g**2
        corrected = mean[0] / (1 - b1 ** count[0])
        return p - lr * corrected / (np.sqrt(square[0] / (1 - b2 ** count[0])) + eps)

    return step


#  optimiser                                                reference
CASES: list[tuple[Optimiser, Callable[[], Reference]]] = [
    (SGD(0.3),                                              sgd),
    (SGD(0.3, weight_decay=0.2),                            lambda: sgd(decay=0.2)),
    (SGD(0.3, momentum=0.9),                                lambda: sgd(0.9)),
    (SGD(0.3, momentum=1.0),                                lambda: sgd(1.0)),
    (SGD(0.3, momentum=0.9, dampening=0.4),                 lambda: sgd(0.9, 0.4)),
    (SGD(0.3, dampening=0.4),                               sgd),
    (SGD(0.3, 0.9, 0.4, 0.1),                               lambda: sgd(0.9, 0.4, 0.1)),
    (SGD(0.3, 0.9, nesterov=True),                          lambda: sgd(0.9, nesterov=True)),
    (SGD(0.3, 0.9, weight_decay=0.1, nesterov=True),        lambda: sgd(0.9, 0, 0.1, True)),
    (Adam(),                                                adam),
    (Adam(0.3, (0.5, 0.25), 0.1),                           lambda: adam(0.5, 0.25, 0.1)),
    (Adam(0.3, (0.0, 0.9)),                                 lambda: adam(0.0, 0.9)),
    (Adam(weight_decay=0.1),                                lambda: adam(l2=0.1)),
    (AdamW(),                                               lambda: adam(shrink=0.01)),
    (AdamW(weight_decay=0.3),                               lambda: adam(shrink=0.3)),
    (AdamW(weight_decay=0.0),                               adam),
]  # fmt: skip


def walk(update: Update, feed: dict[Tensor, Array], gradients: list[Tensor]) -> Iterator[dict[Tensor, Array]]:
    """Values of parameters and states after each step."""
    generator = np.random.default_rng(7)
    values = dict(feed) | {t: np.asarray(t.read(), np.float64) for t in update.states.values()}
    for step, lr in enumerate(RATES, 1):
        scalars = update.values(step, lr)
        drawn = {g: generator.normal(size=[int(str(e)) for e in g.shape]) for g in gradients}
        given = values | drawn | {t: np.float64(scalars[name]) for name, t in update.scalars.items()}
        results = evaluate([new for _, new in update.assignments], given)
        values = {old: result for (old, _), result in zip(update.assignments, results, strict=True)}
        yield values | drawn


@pytest.mark.parametrize(("optimiser", "reference"), CASES, ids=lambda c: str(c) if isinstance(c, Optimiser) else "")
def test_five_steps_are_pytorchs(optimiser: Optimiser, reference: Callable[[], Reference]) -> None:
    start = {"a": np.random.default_rng(1).normal(size=(3, 2)), "b": np.random.default_rng(2).normal(size=4)}
    parameters = [parameter(v, n, "float64") for n, v in start.items()]
    gradients = [input("g" + p.name, p.shape, "float64") for p in parameters]
    update = optimiser.update(parameters, gradients)
    known = dict(zip(parameters, start.values(), strict=True))
    steps = {p: reference() for p in parameters}
    taken = 0
    for values in walk(update, dict(known), gradients):
        taken += 1
        for p, g in zip(parameters, gradients, strict=True):
            known[p] = steps[p](known[p], values[g])
            np.testing.assert_allclose(values[p], known[p], rtol=1e-13, atol=1e-13)
    assert taken == STEPS


def test_the_equations_are_what_one_writes_on_paper() -> None:
    p, g = parameter(np.ones((2, 3)), "w"), input("g", (2, 3))
    assert str(SGD(0.1, momentum=0.5).update([p], [g])).splitlines() == [
        "momentum.0: Vʹ[n,k] = 0.5·V[n,k] + G[n,k]",
        "w: Pʹ[n,k] = P[n,k] - η[]·Vʹ[n,k]",
    ]
    assert str(Adam().update([p], [g])).splitlines() == [
        "mean.0: Mʹ[n,k] = 0.9·M[n,k] + 0.1·G[n,k]",
        "square.0: Sʹ[n,k] = 0.999·S[n,k] + 0.001·G[n,k]·G[n,k]",
        "w: Pʹ[n,k] = P[n,k] - η[]·Mʹ[n,k]/(√(Sʹ[n,k])/σ[] + 1e-08)",
    ]


def test_the_equations_print_as_text_that_parses() -> None:
    p, g = parameter(np.ones((2, 3)), "w"), input("g", (2, 3))
    for optimiser, _ in CASES:
        for _, new in optimiser.update([p], [g]).assignments:
            again = parse(str(new.equation), [o.shape for o in new.operands], operands=new.equation.operands)
            assert str(again.shape) == str(new.shape)


def test_states_and_scalars_are_leaves_with_names() -> None:
    p = [parameter(np.ones(3)), parameter(np.ones((2, 2)))]
    update = Adam().update(p, [t * 2 for t in p])
    assert list(update.states) == ["mean.0", "square.0", "mean.1", "square.1"]
    assert all(t.kind == "state" and t.name == n and not t.read().any() for n, t in update.states.items())
    assert all(t.kind == "input" and t.shape == () and t.name == n for n, t in update.scalars.items())
    assert update.values(1, 0.5).keys() == update.scalars.keys()
    assert SGD().update(p, p).states == {}


def test_scalars_are_computed_in_float64() -> None:
    p = parameter(np.ones(3))
    values = Adam(betas=(0.9, 0.999)).update([p], [p * 1]).values(1000, 0.1)
    assert values == {"step_size": 0.1 / (1 - 0.9**1000), "scale": math.sqrt(1 - 0.999**1000)}


def test_all_new_values_read_the_old_ones() -> None:
    """The gradient depends on the parameter, which the update replaces."""
    p, x = parameter([1.0, 2.0], "p", "float64"), input("x", (2,), "float64")
    loss = (p * p * x).sum()
    update = SGD(0.5).update([p], [grad(loss, p)])
    assert evaluate(update.assignments[0][1], {x: [1.0, 3.0], update.scalars["lr"]: 0.5}).tolist() == [0.0, -4.0]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SGD(lr=-0.1), "lr=-0.1"),
        (lambda: SGD(lr=math.nan), "lr=nan"),
        (lambda: SGD(lr="0.1"), "lr='0.1'"),  # type: ignore[arg-type]
        (lambda: SGD(momentum=-1), "momentum=-1"),
        (lambda: SGD(weight_decay=math.inf), "weight_decay=inf"),
        (lambda: SGD(dampening=math.nan), "dampening=nan"),
        (lambda: SGD(nesterov=True), "momentum=0.0"),
        (lambda: SGD(momentum=0.9, dampening=0.1, nesterov=True), "dampening=0.1"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas[1]=1.0: expected 0 <= β < 1"),
        (lambda: Adam(betas=(-0.1, 0.5)), "betas[0]=-0.1"),
        (lambda: Adam(betas=0.9), "betas=0.9"),  # type: ignore[arg-type]
        (lambda: Adam(eps=-1e-8), "eps=-1e-08"),
        (lambda: AdamW(weight_decay=-1), "weight_decay=-1"),
        (lambda: one().values(0, 0.1), "step 0"),
        (lambda: one().values(1, -0.1), "lr=-0.1"),
    ],
)
def test_numbers_out_of_range_are_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(HyperparameterError) as caught:
        make()
    assert says in str(caught.value)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, FaltungError)


def one() -> Update:
    p = parameter(np.ones(3))
    return SGD().update([p], [p * 1])


def test_what_does_not_pair_up_is_refused() -> None:
    p, q = parameter(np.ones(3), "p"), parameter(np.ones(4), "q")
    with pytest.raises(ShapeError, match="2 parameters and 1 gradients"):
        SGD().update([p, q], [p])
    with pytest.raises(ShapeError, match="0 parameters"):
        SGD().update([], [])
    with pytest.raises(ShapeError, match=r"p has shape \[3\], its gradient \[4\]"):
        SGD().update([p], [q])
    with pytest.raises(ShapeError, match="p stands at places 0 and 1"):
        SGD().update([p, p], [p, p])
    with pytest.raises(ShapeError, match="extents are all known"):
        SGD().update([leaf("parameter", (None,), "float32", "open")], [p])
    with pytest.raises(DTypeError, match="x is input"):
        SGD().update([input("x", (3,))], [p])
    with pytest.raises(DTypeError, match="float64"):
        SGD().update([p, parameter(np.ones(2), "w", "float64")], [p, parameter(np.ones(2), "w", "float64")])
