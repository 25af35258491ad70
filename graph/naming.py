"""Names for equations, by what their indices do and never by the op that made them.

    a pointwise equation    moves elements (copy, transpose, slice, flip, …), places or selects them, or computes
    a sum of one read       over windows is pooling; divided by how many they are, a mean
    a sum of two reads      is a product of matrices or a convolution, by which read has the windows and which index is where
    a bracket [T[n] = k]    with a read in it says that T chooses the place: selection, lookup, scattering, unpooling

A bracket of indices alone changes no name; where it is left, elements are said to be taken within bounds. The shapes of the
operands, where they are given, tell a slice from padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from faltung.graph.equation import Equation, used_indices
from faltung.graph.expr import ZERO, Access, Apply, Const, Expr, Inside, Reduce, Size, Value, accesses, is_bracket, walk
from faltung.graph.index import Affine, Batch, Shape
from faltung.graph.moves import REPEATED, indices_of, is_digits, listed, moved

EXTREMES = {"max": "maximum", "min": "minimum", "argmax": "position of the maximum", "argmin": "position of the minimum"}


def name(eq: Equation, shapes: Sequence[Shape] | None = None) -> str:
    """What the equation is called, in words. `shapes` are those of its operands, where they are known."""
    if shapes is not None and any(a.slot >= len(shapes) for a in eq.accesses):
        shapes = None
    residue = any(len(f.terms) == 1 and f.terms[0][1] > 1 for f in eq.lhs)
    return _name(eq, shapes) + (", one residue class" if residue else "")


def _name(eq: Equation, shapes: Sequence[Shape] | None) -> str:
    reduce = eq.reduce
    if reduce is None:
        return _pointwise(eq, shapes)
    if reduce.kind != "sum":
        return _extreme(eq, reduce)
    parts = _parts(eq, reduce.body)
    called = _sum(eq, reduce, parts)
    masked = ", masked" if parts.masks and not called.startswith("count") else ""
    windows = [b for b in parts.bounds if isinstance(b, Inside) and _mixes(eq, b.form)] if called.startswith("adaptive") else []
    bounds = [b for b in (*parts.bounds, *_parts(eq, eq.expr, reduce).bounds) if b not in windows]
    return called + masked + _where(eq, bounds)


# ---- what an expression is made of ----


@dataclass
class _Parts:
    """The factors of a product, by kind."""

    reads: list[Access] = field(default_factory=list)
    chosen: list[Apply] = field(default_factory=list)  # brackets with a read: [T[n] = k]
    masks: list[Expr] = field(default_factory=list)  # other brackets with a read
    bounds: list[Expr] = field(default_factory=list)  # brackets of indices alone
    others: list[Expr] = field(default_factory=list)
    below: list[Expr] = field(default_factory=list)  # divisors
    scale: Fraction = Fraction(1)  # up to the sign


def _parts(eq: Equation, e: Expr, stop: Expr | None = None) -> _Parts:
    found = _Parts()
    stack = [e]
    while stack:
        x = stack.pop()
        if x is stop:
            continue
        if isinstance(x, Apply) and x.fn in ("mul", "neg", "stop"):
            stack += reversed(x.args)
        elif isinstance(x, Apply) and x.fn == "div":
            found.below.append(x.args[1])
            stack.append(x.args[0])
        elif isinstance(x, Access):
            found.reads.append(x)
        elif is_bracket(x):
            if not accesses(x):
                found.bounds.append(x)
            elif isinstance(x, Apply) and x.fn == "eq":
                found.chosen.append(x)
            else:
                found.masks.append(x)
        elif isinstance(x, Const) and not isinstance(x.value, float):
            found.scale *= abs(Fraction(x.value))
        else:
            found.others.append(x)
    return found


def _where(eq: Equation, bounds: Iterable[Expr]) -> str:
    """`, at u = 1` for brackets that hold at one place, `, within bounds` for others."""
    at, more = [], False
    for b in bounds:
        names = [n for n in eq.free if n in used_indices(b)]
        if isinstance(b, Inside) and b.extent == 1 and len(b.form.terms) == 1 and abs(b.form.terms[0][1]) == 1:
            (n, c), k = b.form.terms[0], b.form.const
            at.append(f"{n} = {-k * c}")
        elif names or used_indices(b):
            more = True
    return (f", at {', '.join(at)}" if at else "") + (", within bounds" if more else "")


def _times_count(eq: Equation, reduce: Reduce) -> Fraction | str | None:
    """What the sum is divided by, as a multiple of how many terms it has; the name of a read that it is divided by; or None."""
    parts = _parts(eq, eq.expr, reduce)
    count, batches = parts.scale, 0
    for e in parts.others:
        if not isinstance(e, Size):
            return None
        batches += 1
    for divisor in parts.below:
        inner = _parts(eq, divisor)
        if len(inner.reads) == 1 and not inner.others:
            return _called(eq, inner.reads[0])
        if inner.reads or inner.chosen or any(not isinstance(x, Size) for x in inner.others):
            return None
        count /= inner.scale
        batches -= len(inner.others)
    if parts.reads or parts.chosen or not count:
        return None
    terms, open_ = _size(eq, reduce.indices)
    return terms * count if batches + open_ == 0 else None


def _size(eq: Equation, indices: Iterable[str]) -> tuple[int, int]:
    """How many values the indices take together: a number, and how often times N."""
    number, open_ = 1, 0
    for i in indices:
        e = eq.extent[i]
        if isinstance(e, Batch):
            open_ += 1
        else:
            number *= e
    return number, open_


# ---- reductions ----


def _extreme(eq: Equation, reduce: Reduce) -> str:
    brackets = [x for x in walk(reduce.body) if isinstance(x, Inside) and _mixes(eq, x.form)]
    reads = accesses(reduce.body)
    if brackets and any(len(_plain_bound(eq, a)) for a in reads):
        return "adaptive max pooling" if reduce.kind == "max" else f"{EXTREMES[reduce.kind]} in adaptive windows"
    windows = _windows(eq, reduce.body) if isinstance(reduce.body, Access) else []
    if not windows:
        return f"{EXTREMES[reduce.kind]} over {', '.join(reduce.indices)}"
    if reduce.kind == "max":
        return f"max pooling{_strides(eq, windows)}"
    return f"{EXTREMES[reduce.kind]} in windows{_strides(eq, windows)}"


def _sum(eq: Equation, reduce: Reduce, parts: _Parts) -> str:
    over = ", ".join(reduce.indices)
    reads, others = parts.reads, parts.others
    if parts.chosen and len(reads) <= 1 and not others:
        return _chosen(eq, reads, parts.chosen)
    if not reads and not others:
        return f"count over {over}"
    if len(reads) == 1 and not others and not parts.chosen:
        return _sum_of_one(eq, reduce, reads[0], parts)
    if len(reads) == 2 and not others and not parts.below and not parts.chosen:
        return _squares(eq, reduce, reads[0]) if reads[0] is reads[1] else _product(eq, reads[0], reads[1], parts)
    if not reads and len(others) == 2 and others[0] is others[1]:
        (d, _) = others
        centred = isinstance(d, Apply) and d.fn == "sub" and all(isinstance(x, Access) for x in d.args)
        if centred:
            return f"variance over {over}" if _times_count(eq, reduce) == 1 else f"sum of squared differences over {over}"
    if not reads and len(others) == 1 and isinstance(others[0], Apply) and others[0].fn == "exp":
        return f"sum of exponentials over {over}"
    many = len(reads) + len(others) + len(parts.chosen) > 1
    return f"sum of {'products' if many else 'quotients' if parts.below else 'terms'} over {over}"


def _sum_of_one(eq: Equation, reduce: Reduce, read: Access, parts: _Parts) -> str:
    over = ", ".join(reduce.indices)
    adaptive = any(isinstance(b, Inside) and _mixes(eq, b.form) for b in parts.bounds)
    windows, plain = _windows(eq, read), _plain_bound(eq, read)
    share = _times_count(eq, reduce)
    mean = share == 1 and _size(eq, reduce.indices) != (1, 0)
    bound = [n for f in read.index for n in f.names if n in reduce.indices]
    if adaptive and plain and not windows:
        return "adaptive average unpooling" if parts.below else "adaptive average pooling" if isinstance(share, str) else f"sum over {over}"
    if not windows or plain or len(bound) != len(set(bound)) or any(not _mixes(eq, f) for f in windows):
        if any(used_indices(e) for e in parts.below):
            return f"sum of quotients over {over}"
        folds = len(bound) != len(set(bound)) and any(_mixes(eq, f) and is_digits(f, eq) for f in read.index)
        return f"windows added up (fold) over {over}" if folds else f"mean over {over}" if mean else f"sum over {over}"
    steps = [f.coefficient(n) for f in windows for n in f.names if n in reduce.indices]
    digits = [n for f in eq.lhs for n in f.names if len(f.names) > 1 and n not in indices_of(read)]
    spread = any(f.den != 1 for f in windows) or bool(digits)
    inside = bool(parts.below) or isinstance(share, str)
    ratio = share * _size(eq, digits)[0] if isinstance(share, Fraction) else None
    average = inside or ratio == 1
    if spread:
        dens = [f.den for f in windows]
        for f in eq.lhs:
            dens += [c for n, c in f.terms if n not in digits and len(f.names) > 1]
        return f"{'average' if average else 'sum'} unpooling, stride {listed(dens)}" if ratio is not None or average else f"scaled sum unpooling, stride {listed(dens)}"
    flipped = all(c < 0 for c in steps) and parts.below
    return f"{'average pooling' if average else 'window sum'}{' of quotients' if flipped else ''}{_strides(eq, windows)}"


def _squares(eq: Equation, reduce: Reduce, read: Access) -> str:
    windows = _windows(eq, read)
    return f"window sum of squares{_strides(eq, windows)}" if windows else f"sum of squares over {', '.join(reduce.indices)}"


def _chosen(eq: Equation, reads: list[Access], brackets: list[Apply]) -> str:
    """A place that a read says: `[T[n] = k]`."""
    pairs = [(a, v.form) for b in brackets for a, v in (b.args, b.args[::-1]) if isinstance(a, Access) and isinstance(v, Value)]
    if not pairs:
        return "terms where elements are equal"
    gathers = all(f.den == 1 and all(f.coefficient(n) > 0 for n in f.names if n in eq.bound) for a in reads for f in _windows(eq, a))
    chooser, place = min(pairs, key=lambda p: bool(_windows(eq, p[0])) == gathers)
    says = _called(eq, chooser)
    if not reads:
        return f"count of each {says}" if eq.bound else f"one-hot of {says}"
    value = _called(eq, reads[0])
    bound = [n for n in place.names if n in eq.bound]
    windows = _windows(eq, chooser) + _windows(eq, reads[0])
    if windows or any(len(f.names) > 1 for f in eq.lhs):
        dens = [f.den for f in chooser.index if f.den != 1]
        dens = dens or [c for f in eq.lhs if len(f.names) > 1 for n, c in f.terms if n in indices_of(chooser)]
        if gathers and _windows(eq, reads[0]) and not _windows(eq, chooser):
            return f"elements of {value} at the positions {says} in windows"
        return f"max unpooling of {value} by {says}" + (f", stride {listed(dens)}" if any(d != 1 for d in dens) else "")
    if not eq.bound:
        return f"{value} placed at {says}"
    if place.names and set(place.names) <= set(bound) and set(place.names) <= set(indices_of(reads[0])):
        more = [n for n in eq.bound if n not in place.names]
        word = "selection" if set(indices_of(chooser)) <= set(indices_of(reads[0])) else "lookup"
        return f"{word} of the entry {says} of {value}" + (f", summed over {', '.join(more)}" if more else "")
    if not bound and place.names:
        return f"scattered sum: {value} added at {says}"
    return f"sum over {', '.join(eq.bound)} of {value} where {says} says so"


def _product(eq: Equation, first: Access, second: Access, parts: _Parts) -> str:
    """Two reads multiplied and summed."""
    digits = {n for n in eq.free if all(any(n in f.names and len(f.names) > 1 for f in x.index) for x in (first, second))}  # of groups
    wide = {x: [f for f in x.index if (len(f.names) > 1 or f.den != 1) and not digits & set(f.names)] for x in (first, second)}
    a, b = sorted((first, second), key=lambda x: not wide[x])
    windows = wide[a]
    over = ", ".join(eq.bound)
    only = [set(indices_of(x)) - set(indices_of(y)) for x, y in ((a, b), (b, a))]
    slid = digits | {n for f in windows for n in f.names}
    spread = [f for f in eq.lhs if len(f.names) > 1 and not slid & set(f.names) and all(set(f.names) & o for o in only)]
    if wide[b] or (not windows and not spread):
        rows, columns = (set(eq.free) & o for o in only)
        both = set(eq.free) & set(indices_of(a)) & set(indices_of(b))
        if wide[b] or not rows or not columns:
            return f"sum of products over {over}"
        return "batched matrix product" if both else "matrix product"
    shared = {f.name for f in a.index} & {f.name for f in b.index} & set(eq.free)
    rank = f"{len(windows) + len(spread)}-D {'grouped ' if digits else 'depthwise ' if shared else ''}"
    steps = [f.coefficient(n) for f in windows for n in f.names if n in eq.bound and n in indices_of(b)]
    if a.index[0].name in eq.bound and a.index[0].name == b.index[0].name:  # summed over the batch: a weight gradient
        still, moving, dilation = (a, b, steps) if all(f.den == 1 for f in windows) else (b, a, [f.den for f in windows])
        dilated = "" if all(abs(s) == 1 for s in dilation) else f"{listed(abs(s) for s in dilation)}-dilated "
        return f"{rank}correlation of {_called(eq, still)} with {dilated}{_called(eq, moving)} over the batch"
    if any(len([n for n in f.names if n in eq.bound]) > 1 for f in windows):
        return f"sum of products over {over}"
    dilations = _dilations(abs(c) for c in steps)
    if any(f.den != 1 for f in windows):
        return f"{rank}transposed convolution, stride {listed(f.den for f in windows)}{dilations}"
    if spread and not all(any(n in eq.bound for n in f.names) for f in windows):
        return f"sum of products over {over}"
    if spread and steps and all(c < 0 for c in steps) or (spread and not steps):
        strides = [c for f in spread for n, c in f.terms if n in indices_of(a)]
        return f"{rank}transposed convolution" + (f", stride {listed(strides)}" if any(s != 1 for s in strides) else "") + dilations
    if steps and all(c < 0 for c in steps):
        return f"{rank}convolution with the flipped kernel{_strides(eq, windows)}"
    if any(n in eq.bound for f in windows for n in f.names):
        return f"{rank}convolution{_strides(eq, windows)}"
    return f"sum of products over {over}"


# ---- without reduction ----


def _pointwise(eq: Equation, shapes: Sequence[Shape] | None) -> str:
    if eq.expr is ZERO:
        return "zero"
    if not eq.accesses:
        return "constant"
    parts = _parts(eq, eq.expr)
    if parts.chosen and len(parts.reads) <= 1 and not parts.others:
        return _chosen(eq, parts.reads, parts.chosen) + _where(eq, parts.bounds)
    if len(parts.reads) == 1 and not parts.others and not parts.chosen and not parts.masks and not any(used_indices(e) for e in parts.below):
        fixed = {n for b in parts.bounds if isinstance(b, Inside) and b.extent == 1 for n in b.form.names}
        called = moved(eq, parts.reads[0], shapes, fixed)
        scaled = eq.expr is not parts.reads[0] and not parts.bounds or parts.scale != 1 or bool(parts.below)
        if called.startswith(REPEATED) and not parts.below:
            repeats = _size(eq, [n for n in eq.free if n not in indices_of(parts.reads[0])])[0]
            if parts.scale * repeats == 1 != repeats:
                return f"average unpooling, stride {called.removeprefix(REPEATED)}"
        if scaled and called == "copy":
            return "elementwise"
        return called + (", scaled" if scaled else "") + _where(eq, parts.bounds)
    if _is_border(eq):
        return f"{_called(eq, eq.accesses[0])} and its border"
    top = eq.expr
    if isinstance(top, Apply) and top.fn == "div" and isinstance(top.args[0], Apply) and top.args[0].fn == "sub" and isinstance(top.args[1], Apply) and top.args[1].fn == "sqrt":
        return "standardisation"
    return "elementwise"


def _is_border(eq: Equation) -> bool:
    """Whether reads of one operand at shifted or turned indices are added up."""
    stack, found = [eq.expr], []
    while stack:
        e = stack.pop()
        if isinstance(e, Apply) and e.fn == "add":
            stack += e.args
            continue
        parts = _parts(eq, e)
        if len(parts.reads) != 1 or parts.others or parts.chosen or parts.masks or parts.below:
            return False
        found.append(parts.reads[0])
    return len(found) > 1 and len({a.slot for a in found}) == 1 and len(set(found)) == len(found)


# ---- forms ----


def _plain(form: Affine) -> bool:
    return form.name is not None or form.constant is not None


def _mixes(eq: Equation, form: Affine) -> bool:
    """Whether a free index and a summed one make up the form."""
    return any(n in eq.bound for n in form.names) and any(n in eq.free for n in form.names)


def _windows(eq: Equation, a: Access) -> list[Affine]:
    """Slots of a summed index beside others, or with a division."""
    return [f for f in a.index if any(n in eq.bound for n in f.names) and not (_plain(f) and f.den == 1)]


def _plain_bound(eq: Equation, a: Access) -> list[str]:
    """Summed indices that run along an axis alone."""
    return [f.name for f in a.index if f.name is not None and f.name in eq.bound and eq.extent[f.name] != 1]


def _strides(eq: Equation, windows: list[Affine]) -> str:
    strides = [abs(f.coefficient(n)) for f in windows for n in f.names if n in eq.free]
    text = f", stride {listed(strides)}" if any(s != 1 for s in strides) else ""
    return text + _dilations(abs(f.coefficient(n)) for f in windows for n in f.names if n in eq.bound)


def _dilations(values: Iterable[int]) -> str:
    found = list(values)
    return f", dilation {listed(found)}" if any(d != 1 for d in found) else ""


def _called(eq: Equation, a: Access) -> str:
    return eq.operands[a.slot] if a.slot < len(eq.operands) else f"operand {a.slot}"
