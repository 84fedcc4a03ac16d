"""Where the parts of a box stand, and what runs between them: a plan's wiring, taken apart along its boxes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

from normc.plans.plan import NormPlan
from normc.plans.wiring import Wiring
from normc.tools.picture.modules import modules
from normc.tools.picture.parts import ENTRY, EXIT, Line, Part

_TRIALS = 20  # folds that are tried apart
_LANES = 8  # beside each other; further ones share the last
Route = tuple[Part, ...]  # from the model's box down to a card or a join
_Ends = dict[tuple[int, int], Line]


def drawn(plan: NormPlan) -> Part:
    """The whole picture. A plan that keeps no wiring has its modules in order, and no lines.

    Layers that are alike stand apart where fewer lines go back up for it: other modules come between them.
    """
    apart: frozenset[str] = frozenset()
    whole, tried = _wired(plan, apart), set[str]()
    while (torn := sorted(_torn(whole) - tried)) and len(tried) < _TRIALS:
        tried.add(torn[0])
        other = _wired(plan, apart | {torn[0]})
        if _backward(other) < _backward(whole):
            whole, apart = other, apart | {torn[0]}
    for number, part in enumerate(whole.walk()):
        part.number = number
    return whole


def _torn(whole: Part) -> set[str]:
    """Where layers that are drawn as one have a line that goes back up."""
    ends = ((box, end) for box in whole.walk() for line in box.lines if line.back for end in (line.source, line.target))
    return {box.parts[end].path for box, end in ends if end >= 0 and box.parts[end].alike}


def _backward(whole: Part) -> int:
    return sum(line.back for part in whole.walk() for line in part.lines)


def _wired(plan: NormPlan, apart: Collection[str]) -> Part:
    """The picture with these layers apart: joins and lines in its boxes, and all parts in rows."""
    wiring = plan.wiring or Wiring((), (), ())
    whole = modules(plan.rows, plan.model, frozenset(wiring.points), frozenset(wiring.joins), apart)
    paths = _joining(wiring, whole)
    cards, boxes = _routes(whole)
    place = {number: cards.get(name) for number, name in enumerate(wiring.points)}
    for number, path in enumerate(paths, len(wiring.points)):
        box = _box_at(boxes, path)
        box[-1].parts.append(Part("join", "+", box[-1].path))
        place[number] = (*box, box[-1].parts[-1])
    place |= {wiring.inputs: (whole,), wiring.output: (whole,)}
    found = _lifted(wiring, place)
    order = _order(wiring, place)
    for part in whole.walk():
        if part.kind == "box":
            _arrange(part, found.get(id(part), {}), order)
    return whole


def _order(wiring: Wiring, place: Mapping[int, Route | None]) -> dict[int, int]:
    """When each part is first computed, by its id: before what it leads to."""
    order: dict[int, int] = {}
    for target, edges in groupby(wiring.edges, key=lambda edge: edge.target):
        for number in (*(edge.source for edge in edges), target):
            for part in place[number] or ():
                order.setdefault(id(part), len(order))
    return order


def _routes(whole: Part) -> tuple[dict[str, Route], dict[str, Route]]:
    """The way to the card of each name, and to the box of each module by its path."""
    cards: dict[str, Route] = {}
    boxes: dict[str, Route] = {}
    waiting: list[Route] = [(whole,)]
    while waiting:
        route = waiting.pop()
        part = route[-1]
        cards |= {place.name: route for place in part.places}
        if part.kind == "box" and not part.alike:
            boxes[part.path] = route
        waiting += [(*route, inner) for inner in part.parts]
    return cards, boxes


def _box_at(boxes: Mapping[str, Route], path: str) -> Route:
    """The box of the module at `path`, or of the nearest above it."""
    while path not in boxes:
        path = path.rpartition(".")[0]
    return boxes[path]


def _joining(wiring: Wiring, whole: Part) -> list[str]:
    """The module whose box each join is drawn in: the one that adds, but the layer where it adds up layers in turn.

    Such layers become boxes where they are cards.
    """
    cards, boxes = _routes(whole)
    first = len(wiring.points)
    branch = {edge.target: wiring.points[edge.source] for edge in wiring.edges
              if not edge.stream and edge.source < first}  # fmt: skip
    turns: dict[int, dict[int, Route]] = defaultdict(dict)
    for number, path in enumerate(wiring.joins, first):
        box, way = _box_at(boxes, path), cards.get(branch.get(number, ""), ())
        depth = len(box)
        if len(way) > depth + 1 and way[depth - 1] is box[-1] and way[depth].alike:
            turns[id(way[depth])][number] = way[: depth + 2]
    paths = list(wiring.joins)
    for ways in turns.values():
        layers = next(iter(ways.values()))[-2].parts
        if {id(way[-1]) for way in ways.values()} == {id(layer) for layer in layers}:
            for number, way in ways.items():
                paths[number - first] = way[-1].path
            layers[:] = [
                layer if layer.kind == "box" else Part("box", layer.label, layer.path, parts=[layer])
                for layer in layers
            ]
    return paths


def _lifted(wiring: Wiring, place: Mapping[int, Route | None]) -> dict[int, _Ends]:
    """Each box's lines between its parts, by its id."""
    carried = {edge.source for edge in wiring.edges if edge.stream}
    found: dict[int, _Ends] = defaultdict(dict)
    for edge in wiring.edges:
        source, target = place[edge.source], place[edge.target]
        if source is None or target is None or source[-1] is target[-1]:
            continue
        # What leaves a join is the stream, unless it goes on elsewhere.
        stream = edge.stream or (source[-1].kind == "join" and edge.source not in carried)
        line = Line(0, 0, edge.entries, stream)
        shared = next((i for i, (a, b) in enumerate(zip(source, target, strict=False)) if a is not b), 1)
        shared = min(shared, *(len(way) for way in (source, target)))
        for depth in range(shared, len(source)):
            box = source[depth - 1]
            end = _place(box, target[shared]) if depth == shared and len(target) > shared else EXIT
            _add(found[id(box)], replace(line, source=_place(box, source[depth]), target=end))
        for depth in range(shared + (len(source) > shared), len(target)):
            box = target[depth - 1]
            _add(found[id(box)], replace(line, source=ENTRY, target=_place(box, target[depth])))
    return found


def _place(box: Part, inner: Part) -> int:
    return next(i for i, part in enumerate(box.parts) if part is inner)


def _add(lines: _Ends, line: Line) -> None:
    old = lines.get((line.source, line.target), line)
    lines[line.source, line.target] = replace(
        line, entries=max(old.entries, line.entries), stream=old.stream or line.stream
    )


def _arrange(box: Part, ends: _Ends, order: Mapping[int, int]) -> None:
    """Ranks by the longest way to a part; lines that pass a rank by get a side."""
    joined = {end for pair in ends for end in pair if end >= 0}
    apart = [i for i in range(len(box.parts)) if i not in joined]
    if not joined:
        box.ranks = tuple((i,) for i in apart) if any(box.parts[i].kind == "box" for i in apart) else (tuple(apart),)
        return
    turn = sorted(joined, key=lambda i: (order[id(box.parts[i])], i))
    when = {ENTRY: -1, EXIT: len(turn)} | {i: number for number, i in enumerate(turn)}
    forward = [pair for pair in ends if when[pair[0]] < when[pair[1]]]
    rank = _ranks(turn, forward)
    height = 1 + max(rank[i] for i in turn)
    rank |= {ENTRY: -1, EXIT: height}
    box.ranks = tuple(tuple(i for i in turn if rank[i] == level) for level in range(height))
    box.apart = tuple(apart)
    box.lines, box.lanes = _sided([*ends.values()], rank, when)


def _ranks(turn: Sequence[int], forward: Sequence[tuple[int, int]]) -> dict[int, int]:
    before, after = defaultdict(list), defaultdict(list)
    for source, target in forward:
        if source >= 0 and target >= 0:
            before[target].append(source)
            after[source].append(target)
    rank: dict[int, int] = {}
    for part in turn:
        rank[part] = max((rank[source] + 1 for source in before[part]), default=0)
    entered = {target for source, target in forward if source == ENTRY}
    for part in turn:
        if not before[part] and after[part] and part not in entered:  # a table is drawn just above what it is added to
            rank[part] = min(rank[target] for target in after[part]) - 1
    levels = {level: number for number, level in enumerate(sorted(set(rank.values())))}
    return {part: levels[level] for part, level in rank.items()}


def _sided(lines: list[Line], rank: Mapping[int, int], when: Mapping[int, int]) -> tuple[tuple[Line, ...], int]:
    """Lines that pass ranks by go left of them where a stream runs, else right, on lanes that don't meet."""
    taken: list[int] = []  # where each lane is free again
    found = []
    for line in sorted(lines, key=lambda line: (rank[line.source], rank[line.target])):
        back = when[line.source] >= when[line.target]
        top, bottom = sorted((rank[line.source], rank[line.target]))
        if bottom - top <= 1 and not back:
            found.append(line)
        elif line.stream and not back:
            found.append(replace(line, side="spine"))
        else:
            lane = next((i for i, free in enumerate(taken) if free <= top), len(taken))
            taken[lane : lane + 1] = [bottom]
            found.append(replace(line, side="lane", lane=min(lane, _LANES - 1), back=back))
    return tuple(found), min(len(taken), _LANES)
