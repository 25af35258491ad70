"""Which products a tile writes out, and in which order: decided by counting what they read and the registers they need.

    tile    rows whose sums are in registers            steps   summed positions written out
    job     (row, step): acc[row] += A[offset] · B[offset]

Jobs that read the same vector of A stand together. The count is of a machine that starts one product and one read a
cycle; it only has to rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice, product
from math import prod

MOST = 448  # products written out, those that differ by which lanes are drawn not counted
LATENCY = 4  # cycles from one product to the next that adds to it
AROUND = 12  # cycles around a tile, and 3 around what is written out
Moves = tuple[tuple[str, tuple[int, int]], ...]
Reads = tuple[int, int]


@dataclass(frozen=True)
class Written:
    """A tile and what it writes out: index → how many values. `order` are the summed indices, outermost first."""

    tile: tuple[tuple[str, int], ...]
    steps: tuple[tuple[str, int], ...]
    order: tuple[str, ...]
    moves: Moves
    static: tuple[str, ...]

    def offsets(self, at: Mapping[str, int]) -> tuple[int, int]:
        """What a row and a step add to the addresses of A and B."""
        moves = dict(self.moves)
        return sum(moves[i][0] * v for i, v in at.items()), sum(moves[i][1] * v for i, v in at.items())

    def jobs(self, points: Sequence[Mapping[str, int]], steps: Sequence[Mapping[str, int]]) -> list[tuple[int, int]]:
        """All pairs (number of the row, number of the step), by the lanes that are drawn, then by the vector of A."""

        def key(job: tuple[int, int]) -> tuple[tuple[int, ...], int, int]:
            at = {**points[job[0]], **steps[job[1]]}
            x, w = self.offsets(at)
            return tuple(at.get(i, 0) for i in self.static), x, w

        return sorted(product(range(len(points)), range(len(steps))), key=key)


def tiled(
    extents: Mapping[str, int], moves: Mapping[str, tuple[int, int]], rows: Sequence[str], reduced: Sequence[str], static: Sequence[str], registers: int,
    reads: Reads = (1, 1),
) -> Written:
    """The tile and the steps that need the fewest cycles. `static` indices pick lanes: they are written out in full.

    `reads` is what it costs to read from A and B: 2 for vectors that lie across two lines of cache.
    """
    known = tuple((i, moves[i]) for i in extents)
    return _tiled(tuple(extents.items()), known, tuple(rows), tuple(reduced), tuple(i for i in static if i in extents), registers, reads)


@lru_cache(maxsize=1024)
def _tiled(extents: tuple[tuple[str, int], ...], moves: Moves, rows: tuple[str, ...], reduced: tuple[str, ...], static: tuple[str, ...], registers: int, reads: Reads) -> Written:
    size, move = dict(extents), dict(moves)
    near = sorted((i for i in size if i not in static), key=lambda i: abs(move[i][0]) or 2**40)  # the innermost in A first
    summed = sorted((i for i in near if i in reduced), key=lambda i: not any(_meets(move[i][0], move[r][0], size[r]) for r in rows if r in size))
    order = (*reversed(summed), *(i for i in static if i in reduced))
    rows_near = [i for i in near if i in rows and size[i] > 1]
    free = [*(i for i in rows_near if not move[i][0]), *[i for i in rows_near if move[i][0]][:3]]
    best: tuple[float, Written] | None = None
    forced = tuple((i, size[i]) for i in static if i in rows)
    for tile in _tiles(free, size, forced, (registers - 3) // prod(e for _, e in forced)):
        points = prod(n for _, n in tile)
        for steps in _steps(summed, size, tuple((i, size[i]) for i in static if i in reduced), points):
            made = Written(tile, steps, order, moves, static)
            cost = _cycles(made, size, prod(size[i] for i in order), registers, reads)
            if best is None or cost < best[0] * 0.995:  # between equals the simpler one, which comes first
                best = (cost, made)
    assert best is not None
    return best[1]


def _meets(step: int, row: int, extent: int) -> bool:
    """Whether a step of a summed index leads to what another value of a row index reads."""
    return row != 0 and step % row == 0 and 0 < abs(step // row) < extent


def _tiles(rows: Sequence[str], size: Mapping[str, int], forced: tuple[tuple[str, int], ...], room: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """Up to two row indices, each in equal pieces, beside those that are written out anyway."""
    yield forced
    for n, i in enumerate(rows):
        for t in _pieces(size[i], room):
            yield (*forced, (i, t))
            for j in rows[n + 1 :]:
                for u in _pieces(size[j], room // t):
                    yield (*forced, (j, u), (i, t))


def _pieces(extent: int, room: int) -> list[int]:
    """The three largest sizes into which an extent is cut evenly, above 1."""
    found = (t for t in range(min(room, extent), 1, -1) if -(-extent // -(-extent // t)) == t)  # no longer loop for a longer axis
    return list(islice(found, 3))


def _steps(summed: Sequence[str], size: Mapping[str, int], forced: tuple[tuple[str, int], ...], points: int) -> Iterator[tuple[tuple[str, int], ...]]:
    """The innermost summed indices in full, or the very innermost a few values at a time."""
    yield forced
    if summed:
        i = summed[0]
        yield from (((i, n), *forced) for n in range(2, 9) if n < size[i] and n * points <= MOST)
    done: tuple[tuple[str, int], ...] = ()
    for i in summed:
        done = ((i, size[i]), *done)
        if prod(n for _, n in done) * points > MOST:
            return
        yield (*done, *forced)


def _cycles(made: Written, size: Mapping[str, int], total: int, registers: int, reads: Reads) -> float:
    """Cycles for one row, remainders of the tile included."""
    spent, done = 0.0, 0
    for part in product(*((t, size[i] % t) if size[i] % t else (t,) for i, t in made.tile)):
        count = prod(size[i] // t * t if n == t else size[i] % t for (i, t), n in zip(made.tile, part, strict=True))
        points, steps = prod(part), prod(n for _, n in made.steps)
        each = _written(replace(made, tile=tuple((i, n) for (i, _), n in zip(made.tile, part, strict=True))), registers, reads)
        spent += (each * total / steps + AROUND + 2 * points) * count / points
        done += count
    return spent / done


@lru_cache(maxsize=4096)
def _written(made: Written, registers: int, reads: Reads) -> float:
    """Cycles for what is written out once: its products, reads, shuffles, and the registers that it lacks."""
    points = _offsets(made, made.tile)
    steps = _offsets(made, made.steps)
    jobs = sorted((tuple(map(max, p[0], s[0])), p[1] + s[1], p[2] + s[2]) for p in points for s in steps)
    vectors = len({(c, x) for c, x, _ in jobs})
    last = {w: n for n, (_, _, w) in enumerate(jobs)}
    first: dict[int, int] = {}
    for n, (_, _, w) in enumerate(jobs):
        first.setdefault(w, n)
    change = [0] * (len(jobs) + 1)
    for w, n in first.items():
        change[n] += 1
        change[last[w] + 1] -= 1
    live, most = 0, 0
    for d in change:
        live += d
        most = max(most, live)
    short = max(0, len(points) + most + 1 + bool(made.static) - registers)
    shuffles = vectors / 2 if made.static else 0
    return max(len(jobs) + shuffles, reads[0] * vectors + reads[1] * len(first), LATENCY * len(steps)) + 4 * short * len(steps) + 3


def _offsets(made: Written, counts: Sequence[tuple[str, int]]) -> list[tuple[tuple[int, ...], int, int]]:
    """For every value of the indices: what picks lanes, and the steps in A and B."""
    names = [i for i, _ in counts]
    found = []
    for values in product(*(range(n) for _, n in counts)):
        at = dict(zip(names, values, strict=True))
        found.append((tuple(at.get(i, 0) for i in made.static), *made.offsets(at)))
    return found
