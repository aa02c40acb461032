"""The bodies of the gradient kernels that walk all pairs of a row or a column and keep a sum."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from xdsl.ir import SSAValue

from ...ir import attn
from ...ir.expr import Load
from . import gradient_bands
from .gradient_bands import BandTarget
from .gradient_captures import PairTarget, group_places, owned_places, reads, role_of, sum_target
from .gradient_frame import Frame
from .gradient_groups import by_groups
from .gradient_lines import by_lines
from .gradient_pairs import Keys, Pairs, Queries, gradient_of_lse, rounded
from .gradient_patches import key_patches, query_patches
from .gradient_problem import DOT, Problem
from .gradient_segments import MANY, Segments
from .gradient_targets import SLICES, Target, target
from .inner_products import operands, products_of
from .kernel_builder import ZERO

# the operand that each output is a gradient of, and where it goes
Written = list[tuple[str, Target | PairTarget | BandTarget]]


def delta_kernel(problem: Problem, name: str) -> Frame:
    """For each row ``sum_e out * d_out``, less the gradient of ``lse``: what all scores of a row have in common."""
    op, i = problem.op, problem.row.name
    frame = Frame(problem, name, problem.row, {"delta": problem.rows})
    b = frame.builder
    out = b.load("out", frame.memory["out"], problem.out_map, i, "e")
    grad = b.load("grad", frame.memory["d_out"], problem.out_map, i, "e")
    product = b.map("product", "lambda out, grad: out * grad", [out, grad], i, "e")
    delta = b.reduce("delta", "sum", product, i)
    if op.d_lse is not None:
        delta = b.map("delta", "lambda delta, dlse: delta - dlse", [delta, gradient_of_lse(frame)], i)
    b.store(delta, frame.memory["delta"], problem.lse_map)
    return frame


def query_kernel(
    problem: Problem,
    name: str,
    given: Mapping[str, SSAValue],
    narrow: bool,
    *,
    query: bool,
    tensors: Collection[str],
    classes: Sequence[Collection[str]],
    patches: bool = False,
) -> tuple[Frame, Written]:
    """Rows are queries: walk the keys of every source.

    ``query`` asks for the queries' gradient; ``classes`` says for each source which reads of ``tensors`` to sum.
    Reads of elements that belong to one query are added up as well.  With ``patches``, queries may be those of a patch
    of an image.
    """
    i = problem.row.name
    of_source = [reads(problem, n, tensors, c) for n, c in enumerate(classes)]
    added = [owned_places(problem, n, tensors, problem.row) for n in range(len(problem.sources))]
    bands = [gradient_bands.wanted(problem, n, tensors) for n in range(len(problem.sources))]
    if patches and not any(of_source) and not any(added) and not products_of(problem.op):
        problem = query_patches(problem)
    found = list(dict.fromkeys(r for read in of_source for r in read))  # sources may share an element
    outputs: dict[str, Target] = {}
    if query:
        outputs["dq"] = target(problem, [problem.row, problem.features[0]], problem.query_map, problem.type("query"))
    places = {read: f"grad{n}:{read.tensor}" for n, read in enumerate(found)}
    outputs |= {places[read]: sum_target(problem, problem.row, read) for read in found}
    lefts = gradient_bands.lefts(problem, [x for products in bands for x in products], tensors)
    sides = {read: f"grad_left{k}:{read.tensor}" for k, read in enumerate(lefts)}
    outputs |= {sides[read]: to for read, to in lefts.items()}
    rights = {
        (n, x): to
        for n, products in enumerate(bands)
        for x, to in gradient_bands.rights(problem, n, products, tensors).items()
    }
    tables = {at: f"grad_right{k}:{to.read.tensor}" for k, (at, to) in enumerate(rights.items())}
    in_order = sorted(set().union(*(to.in_order for to in outputs.values())))
    sums = {(n, p.read): f"grad{n}_{k}:{p.read.tensor}" for n, own in enumerate(added) for k, p in enumerate(own)}
    types = _types(outputs) | {sums[n, p.read]: p.type(problem) for n, own in enumerate(added) for p in own}
    types |= {tables[at]: to.type for at, to in rights.items()}
    frame = Frame(problem, name, problem.row, types, given=given, sequential=in_order, tiles_in_order=bool(rights))
    b = frame.builder
    queries = Queries.load(frame)
    wide = {"dq", *sides.values()}
    state = {o: b.full(frame.hint(o), ZERO, *((i, "d") if o in wide else (i,))) for o in outputs}
    for n, source in enumerate(problem.sources):
        own = of_source[n]
        pairs = Pairs(frame, n, [*([DOT] if query else []), *own, *(place.read for place in added[n]), *bands[n]])
        if pairs.flat:
            continue
        shared = pairs.row_delta(queries)

        def step(
            carried: Sequence[SSAValue],
            n: int = n,
            own: list[Load] = own,
            pairs: Pairs = pairs,
            shared: SSAValue | None = shared,
        ) -> list[SSAValue]:
            keys = Keys.load(frame, n)
            _, gradients = pairs.tiles(queries, keys, shared, i, pairs.source.key)
            new = dict(zip(outputs, carried, strict=True))
            if query and (ds := gradients.pop(0)) is not None:
                new["dq"] = b.dot("dq", rounded(frame, ds, f"key{n}", narrow), keys.key, i, "d", acc=new["dq"])
            for product in reversed(bands[n]):
                ds = _some(gradients.pop())
                left, right = operands(product)
                if left in sides:
                    o, memory = sides[left], f"capture:{right.tensor}"
                    pair = rounded(frame, ds, memory, narrow)
                    new[o] = b.band(new[o].name_hint or "", pair, frame.memory[memory], right.index, i, "d", acc=new[o])
                if (n, product) in tables:
                    pair = rounded(frame, ds, f"capture:{left.tensor}", narrow)
                    b.band_add(pair, queries.lefts[left], frame.memory[tables[n, product]], rights[n, product].index)
            for place in reversed(added[n]):
                b.store(_some(gradients.pop()), frame.memory[sums[n, place.read]], place.index, add=True)
            for read, gradient in zip(own, gradients, strict=True):
                new[places[read]] = _plus(frame, new[places[read]], gradient, i)
            return list(new.values())

        state = dict(zip(state, b.loop(problem.key(n), source.mask, list(state.values()), step), strict=True))
    for o, value in state.items():
        b.store(value, frame.memory[o], outputs[o].index, add=outputs[o].add)
    roles = (["query"] if query else []) + [role_of(read) for read in (*found, *lefts)]
    written: Written = list(zip(roles, outputs.values(), strict=True))
    written += [(role_of(p.read), PairTarget(p.read, p, n)) for n, own in enumerate(added) for p in own]
    return frame, written + [(role_of(to.read), to) for to in rights.values()]


def key_kernel(
    problem: Problem,
    name: str,
    given: Mapping[str, SSAValue],
    narrow: bool,
    n: int,
    *,
    wanted: Sequence[str],
    tensors: Collection[str],
    classes: Collection[str],
    done: Collection[Load] = (),
    whole: bool = False,
    lines: bool = False,
    patches: bool = False,
) -> tuple[Frame, Written]:
    """Rows are the keys of source ``n``: walk the queries.

    ``wanted`` may hold ``key``, ``value`` and ``query``, whose gradient is then added up tile by tile; ``classes`` says
    which reads of ``tensors`` to sum.  Reads of elements that belong to one key are added up here, too, less those
    ``done``.  With ``whole``, a tile holds all keys of its queries, whose gradient is then written at once and whose
    ``delta`` is a sum over the tile; and pairs of small groups are added up.  With ``lines``, keys may be those of one
    row of an image, and with ``patches`` those of a patch.
    """
    maps = {"key": problem.sources[n].key_map, "value": problem.sources[n].value_map}
    given_problem = problem
    problem = by_groups(problem, [e for role in wanted if role in maps for e in maps[role]])
    line = ""
    if lines and not whole:
        problem, line = by_lines(problem, n)
    if patches and not reads(problem, n, tensors, classes) and not products_of(problem.op):
        problem = key_patches(problem, n)
    source, own = problem.sources[n], problem.key(n)
    i, j = problem.row.name, source.key
    found = reads(problem, n, tensors, classes)
    places = {read: f"grad{k}:{read.tensor}" for k, read in enumerate(found)}
    d, e = problem.features
    outputs: dict[str, Target] = {}
    if "key" in wanted:
        outputs["dk"] = target(problem, [own, d], source.key_map, problem.type(f"key{n}"))
    if "value" in wanted:
        outputs["dv"] = target(problem, [own, e], source.value_map, problem.type(f"value{n}"))
    outputs |= {places[read]: sum_target(problem, own, read) for read in found}
    carried_axes = {"dk": (j, "d"), "dv": (j, "e")} | dict.fromkeys(places.values(), (j,))
    roles = [f"{role}{n}" for role in ("key", "value") if role in wanted] + [role_of(read) for read in found]
    if "query" in wanted:
        outputs["dq"] = target(problem, [problem.row, d], problem.query_map, problem.type("query"), add=not whole)
        roles.append("query")
    grouped = group_places(problem, n, tensors) if whole else []
    if not grouped and problem is given_problem:
        owned = owned_places(problem, n, tensors, own, in_order="query" in wanted)
        grouped = [place for place in owned if place.read not in done]
    in_order = sorted({d for to in outputs.values() for d in to.in_order} | {d for to in grouped for d in to.in_order})
    segments = None
    if "query" in wanted and not whole:
        if line:
            segments = Segments.of_batch(problem, line, in_order)
        else:
            shared = any(place.in_order for place in grouped)
            segments = Segments.of_tiles(problem, own, in_order, MANY if shared else SLICES)
        if segments is not None:
            outputs["dq"] = segments.slices(outputs["dq"])
    elif grouped and (alike := [d.name for d in problem.batch if d.name in in_order]):
        segments = Segments.of_batch(problem, alike[-1], in_order)
        if segments is not None:
            grouped = [replace(place, slices=(*place.slices, segments.dim)) for place in grouped]
    sums = {f"grad{len(found) + k}:{place.read.tensor}": place for k, place in enumerate(grouped)}
    frame = Frame(
        problem,
        name,
        own,
        _types(outputs) | {o: place.type(problem) for o, place in sums.items()},
        given={role: value for role, value in given.items() if not (whole and role == "delta")},
        sequential=in_order,
        tiles_in_order="query" in wanted and not whole,
        segments=segments,
    )
    b = frame.builder
    keys = Keys.load(frame, n)
    products = "key" in wanted or "query" in wanted
    pairs = Pairs(frame, n, [*([DOT] if products else []), *found, *(place.read for place in grouped)])
    state = {o: b.full(frame.hint(o), ZERO, *carried_axes[o]) for o in outputs if o != "dq"}

    def step(carried: Sequence[SSAValue]) -> list[SSAValue]:
        queries = Queries.load(frame)
        p, gradients = pairs.tiles(queries, keys, pairs.row_delta(queries), j, i)
        new = dict(zip(state, carried, strict=True))
        if "dv" in new and queries.gradient is not None:
            new["dv"] = b.dot("dv", rounded(frame, p, "d_out", narrow), queries.gradient, j, "e", acc=new["dv"])
        if products and (ds := gradients.pop(0)) is not None:
            if "dk" in new:
                new["dk"] = b.dot("dk", rounded(frame, ds, "query", narrow), queries.query, j, "d", acc=new["dk"])
            if "dq" in outputs:
                part = b.dot("dq", rounded(frame, ds, f"key{n}", narrow), keys.key, i, "d")
                b.store(part, frame.memory["dq"], outputs["dq"].index, add=outputs["dq"].add)
        for o, place in reversed(sums.items()):
            b.store(_some(gradients.pop()), frame.memory[o], place.index, add=True)
        for read, gradient in zip(found, gradients, strict=True):
            new[places[read]] = _plus(frame, new[places[read]], gradient, j)
        return list(new.values())

    state = dict(zip(state, b.loop(problem.row, source.mask, list(state.values()), step), strict=True))
    for o, value in state.items():
        b.store(value, frame.memory[o], outputs[o].index, add=outputs[o].add)
    written: Written = list(zip(roles, outputs.values(), strict=True))
    return frame, written + [(role_of(place.read), PairTarget(place.read, place, n)) for place in grouped]


def _types(outputs: dict[str, Target]) -> dict[str, attn.TensorType]:
    return {name: to.type for name, to in outputs.items()}


def _plus(frame: Frame, sum: SSAValue, gradient: SSAValue | None, axis: str) -> SSAValue:
    """A sum over rows or columns, and that of one more tile of pairs."""
    b = frame.builder
    more = b.reduce("total", "sum", _some(gradient), axis)
    return b.map(sum.name_hint or "sum", "lambda x, total: x + total", [sum, more], axis)


def _some(gradient: SSAValue | None) -> SSAValue:
    assert gradient is not None
    return gradient
