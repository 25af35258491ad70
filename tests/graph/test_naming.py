"""Names go by what indices do: known equations, every op with its derivatives as golden text, and words that do not depend on letters."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from faltung.graph import dsl
from faltung.graph.equation import Equation
from faltung.graph.grad import grad
from faltung.graph.naming import name
from faltung.graph.ops import REGISTRY
from faltung.graph.parse import parse
from faltung.graph.pipeline import optimise
from faltung.graph.show import bar
from faltung.graph.tensor import Tensor, topological
from tests.check import gradients, leaves, tangent
from tests.graph.cases import PLANES, POOLS, SMALL, SOLIDS, Case
from tests.graph.test_convolution_family import FAMILY
from tests.graph.test_gradients import WITHOUT_DERIVATIVE


def conv(s: int = 1, p: int = 1, d: int = 1) -> tuple[Equation, Equation, Equation]:
    x, k = dsl.input("x", (None, 2, 9, 9)), dsl.input("k", (4, 2, 3, 3))
    y = dsl.conv2d(x, k, stride=s, padding=p, dilation=d)
    gx, gk = grad(y, [x, k], dsl.input("c", y.shape))
    return y.equation, gx.equation, gk.equation


# what is called                                    how
NAMES = [
    ("2-D convolution",                              conv()[0]),
    ("2-D convolution, stride 2",                    conv(2)[0]),
    ("2-D convolution, dilation 2",                  conv(1, 1, 2)[0]),
    ("2-D convolution with the flipped kernel",      conv()[1]),
    ("2-D transposed convolution, stride 2",         conv(2)[1]),
    (f"2-D correlation of X with {bar('Y')} over the batch", conv()[2]),
    (f"2-D correlation of X with 2-dilated {bar('Y')} over the batch", conv(2)[2]),
    ("matrix product",                               parse("Y[i,j] = sum(k: A[i,k] * B[k,j])", [(2, 3), (3, 4)])),
    ("batched matrix product",                       parse("Y[n,i,j] = sum(k: A[n,i,k] * B[n,k,j])", [(5, 2, 3), (5, 3, 4)])),
    ("sum of products over i",                       parse("Y[] = sum(i: A[i] * B[i])", [(3,), (3,)])),
    ("sum of squares over i",                        parse("Y[] = sum(i: A[i] * A[i])", [(3,)])),
    ("max pooling, stride 2",                        parse("Y[i] = max(p<2: X[2*i+p])", [(6,)])),
    ("average pooling, stride 2",                    parse("Y[i] = sum(p<2: X[2*i+p]) / 2", [(6,)])),
    ("window sum, stride 2, dilation 2",             parse("Y[i] = sum(p<2: X[2*i+2*p])", [(6,)])),
    ("sum unpooling, stride 2",                      parse("Y[i<6] = sum(p<2: X[(i-p)/2])", [(3,)])),
    ("maximum over p",                               parse("Y[i] = max(p: X[i,p])", [(6, 2)])),
    ("position of the maximum over p",               parse("Y[i] = argmax(p: X[i,p])", [(6, 2)])),
    ("position of the maximum in windows, stride 2", parse("Y[i] = argmax(p<2: X[2*i+p])", [(6,)])),
    ("sum over p",                                   parse("Y[i] = sum(p: X[i,p])", [(6, 2)])),
    ("mean over p",                                  parse("Y[i] = sum(p: X[i,p]) / extent(p)", [(6, 2)])),
    ("mean over n",                                  parse("Y[p] = sum(n: X[n,p]) / extent(n)", [(dsl.input("x", (None, 2)).shape)])),
    ("sum of exponentials over p",                   parse("Y[i] = sum(p: exp(X[i,p]))", [(6, 2)])),
    ("count over p",                                 parse("Y[i] = sum(p: [X[i,p] > 0])", [(6, 2)])),
    ("lookup of the entry T of W",                   parse("Y[n,p] = sum(v: [T[n] = v] * W[v,p])", [(6,), (4, 2)])),
    ("selection of the entry T of X",                parse("Y[n] = sum(p: [T[n] = p] * X[n,p])", [(6,), (6, 2)])),
    ("scattered sum: Y added at T",                  parse("W[v<4,p] = sum(n: [T[n] = v] * Y[n,p])", [(6,), (6, 2)])),
    ("one-hot of T",                                 parse("Y[n,v<4] = [T[n] = v]", [(6,)])),
    ("elementwise",                                  parse("Y[i] = X[i] + 1", [(6,)])),
    ("copy",                                         parse("Y[i,j] = X[i,j]", [(6, 2)])),
    ("transpose",                                    parse("Y[j,i] = X[i,j]", [(6, 2)])),
    ("reshape",                                      parse("Y[2*i+j] = X[i,j]", [(6, 2)])),
    ("flip",                                         parse("Y[i<6] = X[5-i]", [(6,)])),
    ("padding",                                      parse("Y[i<8] = X[i-1]", [(6,)])),
    ("slice",                                        parse("Y[i<5] = X[i+1]", [(6,)])),
    ("slice, step 2",                                parse("Y[i<3] = X[2*i]", [(6,)])),
    ("elements spread out, step 2",                  parse("Y[i<6] = X[i/2]", [(3,)])),
    ("broadcast over i",                             parse("Y[i<6,j] = X[j]", [(3,)])),
    ("depth to space (pixel shuffle)",               parse("Y[c,2*i+x] = X[2*c+x,i]", [(6, 3)], extents={"x": 2, "c": 3})),
    ("constant",                                     parse("Y[i<3] = 1", [])),
    ("zero",                                         parse("Y[i<3] = 0", [])),
]  # fmt: skip


@pytest.mark.parametrize(("called", "eq"), NAMES, ids=[n for n, _ in NAMES])
def test_names(called: str, eq: Equation) -> None:
    assert name(eq) == called
    letters = {i: f"z{n}" for n, i in enumerate(eq.extent)}
    back = name(eq.renamed(letters))
    for i, z in letters.items():
        back = back.replace(z, i)
    assert back == called, "a name must not depend on the letters"


def test_the_shape_of_an_operand_tells_a_slice_from_padding() -> None:
    y = dsl.pad(dsl.input("x", (3, 4)), (0, 2))
    assert str(y.equation) == "Y[n,k] = X[n,k]"
    assert name(y.equation, [(3, 4)]) == "padding"
    assert name(dsl.getitem(dsl.input("x", (3, 4)), (slice(0, 2),)).equation, [(3, 4)]) == "slice"


def named(tensors: list[Tensor]) -> list[str]:
    return [f"{name(eq, [o.shape for o in t.operands])}   |   {eq}" for t in tensors for eq in t.equations]


def made(outputs: list[Tensor], known: set[Tensor]) -> list[Tensor]:
    return [t for t in topological(outputs) if not t.is_leaf and t not in known]


CASES = [*PLANES[:5], SOLIDS[1], *POOLS[-12:-4:2], *SMALL, *FAMILY]


def test_every_op_and_its_first_two_derivatives(golden: Callable[..., None]) -> None:
    """All the words: an op's equations, those of its gradients, and those of the gradients' gradients."""
    assert {c.op for c in CASES} >= set(REGISTRY) - set(WITHOUT_DERIVATIVE.values())
    lines: list[str] = []
    seen: set[str] = set()

    def add(title: str, tensors: list[Tensor]) -> None:
        fresh = [line for line in dict.fromkeys(named(tensors)) if line not in seen]
        seen.update(fresh)
        lines.extend([title, *(f"    {line}" for line in fresh)] if fresh else [])

    for case in CASES:
        y, _, first, _ = gradients(case.build, case.arrays)
        add(str(case), made([y], set()))
        add(f"{case}, gradients", made(first, set(topological([y]))))
        add(f"{case}, second derivatives", second(case))
    assert all(not line.startswith("    ") or line.split("|")[0].strip() for line in lines)
    golden("\n".join(lines))


def second(case: Case) -> list[Tensor]:
    directed, arrays = tangent(case.build, case.arrays)
    whole = directed(*leaves(arrays))
    return made(gradients(directed, arrays)[2], set(topological([whole])))


def test_residue_classes_say_that_they_are_one() -> None:
    x, k = dsl.input("x", (None, 2, 9, 9)), dsl.input("k", (4, 2, 3, 3))
    y = dsl.conv2d(x, k, stride=2, padding=1)
    (gx,) = optimise([grad(y, x, dsl.input("c", y.shape))])
    assert [name(eq).removesuffix(", one residue class") for eq in gx.equations] == [
        "matrix product",
        "1-D convolution with the flipped kernel",
        "1-D convolution with the flipped kernel",
        "2-D convolution with the flipped kernel",
    ]
    assert all(name(eq).endswith(", one residue class") for eq in gx.equations)
