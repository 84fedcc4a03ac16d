"""What a distribution foretells of bytes and calls is what ranks send in a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import normc
from normc.cli import main
from normc.compiler import build
from normc.passes.rewrites import distribute
from normc.pipeline import uncut
from normc.plans.row import Block
from normc.tools.scaling.distribution import distribution
from normc.tools.scaling.mesh import Mesh, biased, read_mesh
from normc.update.program.build import ON_CPU
from normc.update.runtime.spread import held
from tests.distributed.world import on_ranks
from tests.handmade import draft, plan_of

# A target, by which Newton-Schulz has 16 bits or not; `messages`; and how many windows.
Wire = tuple[str, torch.dtype | None, int]
WIDE: Wire = ("cpu:fp32", None, 1)
NARROW: Wire = ("cpu:bf16", None, 2)
ROUNDED: Wire = ("cpu:bf16", torch.bfloat16, 3)
FEW = {
    2: [("muon", "fsdp=2", NARROW), ("auto", "tp=2", WIDE), ("soap", "dp=2", WIDE), ("muon", "dp=2", ROUNDED)],
    4: [("muon", "hsdp=2x2", NARROW), ("muon", "fsdp=2,tp=2", WIDE), ("muon", "fsdp=4,ep=2", ROUNDED),
        ("normuon", "fsdp=4", NARROW)],
}  # fmt: skip
MESHES = {2: ("fsdp=2", "dp=2", "tp=2"), 4: ("fsdp=4", "hsdp=2x2", "fsdp=2,tp=2", "fsdp=4,ep=2", "fsdp=4,ep=4")}
# Factors take long to build: two meshes of four ranks are enough for them.
FACTORS = {2: MESHES[2], 4: ("hsdp=2x2", "fsdp=4,ep=2")}
RECIPES = {"muon": MESHES, "auto": MESHES, "normuon": MESHES, "scion": MESHES, "soap": FACTORS, "shampoo": FACTORS}
CALLS = ("all_to_all_single", "all_reduce", "all_gather_into_tensor", "broadcast", "reduce_scatter_tensor")
Case = tuple[str, str, Wire]


def model(recipe: str) -> normc.NormPlan:
    """Sizes that no number of ranks divides; a matrix of blocks, a stack of experts, a table, gains and a bias."""
    thirds = tuple(Block(label, 0, ((start, start + 3),)) for label, start in (("q", 0), ("k", 3), ("v", 6)))
    rows = [
        draft("embed.weight", (11, 5), "embedding"),
        draft("qkv_proj.weight", (9, 5), "hidden", blocks=thirds),
        draft("o_proj.weight", (5, 3), "hidden"),
        draft("up_proj.weight", (7, 5), "hidden"),
        draft("up_proj.bias", (7,), "bias"),
        draft("down_proj.weight", (5, 7), "hidden"),
        draft("experts.up", (5, 3, 7), "hidden", block_axes=(0,), out_axes=(1,), in_axes=(2,)),
        draft("norm.weight", (5,), "gain"),
        draft("head.weight", (11, 5), "output"),
    ]
    return plan_of(rows, recipe)


def counted(recipe: str, mesh: str, wire: Wire) -> tuple[int, int]:
    """Bytes that this rank's exchanges send in a step, and collective calls of it."""
    plan, on = model(recipe), read_mesh(mesh)
    by_name = {row.name: row for row in plan.rows}
    meshes: dict[tuple[int, ...], Any] = {}
    members = {}
    for row in plan.rows:
        lying = on.lies(row, biased(row, by_name))
        if lying is None:
            members[row.name] = nn.Parameter(torch.ones(row.shape))
            continue
        shape, placements = lying
        own = meshes.setdefault(shape, init_device_mesh("cpu", shape))
        part = torch.ones(held(row.shape, shape, placements).local(dist.get_rank()))
        strides = torch.empty(row.shape, device="meta").stride()
        lies = DTensor.from_local(part, own, placements, run_check=False, shape=torch.Size(row.shape), stride=strides)
        members[row.name] = nn.Parameter(lies)
    opt = build(plan, members.items(), lr=0.01, compile=False, backend=wire[0], messages=wire[1])
    opt.group = dist.group.WORLD if on.plain else None
    calls: list[str] = []
    with cut_in(wire[2]):
        opt._over_ranks(opt._by_names())
    for step in range(2):  # the first makes what later ones use
        for tensor in members.values():
            tensor.grad = torch.ones_like(tensor)
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS if step else ():
                patch.setattr(dist, name, told(getattr(dist, name), calls))
            opt.step()
    ranked: Any = opt._ranked
    exchanges = () if ranked is None else ranked.exchanges
    return sum(exchange.bytes_sent for exchange in exchanges), len(calls)


@contextmanager
def cut_in(windows: int) -> Iterator[None]:
    """Within it owners' work is cut into so many windows, or one for each matrix of the rank with most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribute, "number_of", lambda load, rates: windows)
        yield


def told(call: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    """The same call, which notes that it was made."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(call.__name__)
        return call(*args, **kwargs)

    return noted


def every(cases: list[Case]) -> dict[Case, tuple[int, int]]:
    return {case: counted(*case) for case in cases}


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (2, FEW[2]),
        pytest.param(4, FEW[4], marks=pytest.mark.slow),
        *(pytest.param(ranks, [(recipe, mesh, WIDE) for mesh in meshes[ranks]], marks=pytest.mark.slow)
          for ranks in MESHES for recipe, meshes in RECIPES.items()),
    ],
)  # fmt: skip
def test_bytes_and_calls_are_those_of_a_step(ranks: int, cases: list[Case], tmp_path: Path) -> None:
    found = on_ranks(ranks, tmp_path, every, cases)
    for recipe, mesh, wire in cases:
        with cut_in(wire[2]):
            told = distribution(model(recipe), mesh, target=wire[0], messages=wire[1])
        own = [each[recipe, mesh, wire] for each in found]
        assert own == [(sent, told.calls) for sent in told.sent], (recipe, mesh, wire)
        assert (max(told.sent) > 0) == ("owner" in told.schemes)


def test_sums_of_rows_are_what_ranks_send_and_get() -> None:
    for mesh in ("fsdp=4", "hsdp=2x3", "fsdp=4,tp=2", "fsdp=6,ep=3", "dp=8", "fsdp=40"):
        found = distribution(model("muon"), mesh)
        assert sum(found.sent) == sum(found.received) == sum(row.bytes_in + row.bytes_out for row in found.rows)
        for rank in range(found.mesh.ranks):
            own = [row for row in found.rows if row.owner == rank]
            assert sum(row.flops for row in own) <= found.work.flops[rank]
        if "apart" not in found.schemes:
            assert sum(row.flops for row in found.rows) == found.work.flops.sum()


def test_one_rank_sends_nothing() -> None:
    found = distribution(model("muon"), "fsdp=1")
    assert found.sent == (0,)
    assert found.load == 1.0
    assert found.communication_ms == 0.0
    assert 0.0 < found.efficiency <= 1.0


def test_owners_of_products_count_blocks_and_the_polynomials_steps() -> None:
    found = distribution(model("muon"), "fsdp=2").by_name
    assert found["up_proj.weight"].flops == 3 * 2 * 25 * 2 + 4 * 5 * 125
    assert found["qkv_proj.weight"].flops == 3 * (3 * 2 * 9 * 2 + 4 * 5 * 27)
    assert found["experts.up"].flops == 5 * (3 * 2 * 9 * 4 + 4 * 5 * 27)
    assert found["norm.weight"].scheme == "local"
    once = distribution(plan_of([draft("up_proj.weight", (7, 5), "hidden")], "muon", ns_steps=1), "fsdp=2")
    assert once.by_name["up_proj.weight"].flops == 3 * 25 * 2 + 4 * 125


def test_many_ranks_are_planned_in_seconds() -> None:
    rows = [draft(f"layers.{i}.up_proj.weight", (16384, 53248), "hidden") for i in range(126)]
    found = distribution(plan_of(rows, "muon"), "fsdp=512,tp=8")
    assert found.mesh.ranks == 4096
    assert found.schemes == {"owner": 126}
    assert found.load == pytest.approx(4096 / 126)


@pytest.mark.parametrize(
    "text", ["", "8", "fsdp", "fsdp=0", "fsdp=x", "fsdp=2,fsdp=2", "hsdp=8", "hsdp=2x2,dp=2", "pp=2", "fsdp=4,ep=3",
             "fsdp=2,tp=2,ep=2", "fsdp=99999999"],
)  # fmt: skip
def test_what_is_no_mesh_is_refused(text: str) -> None:
    with pytest.raises(normc.NormcError, match="mesh"):
        read_mesh(text)


def test_a_mesh_says_itself() -> None:
    assert read_mesh("hsdp=2x4") == read_mesh("dp=2, fsdp=4") == Mesh(dp=2, fsdp=4)
    assert str(read_mesh("tp=2,hsdp=2x4")) == "dp=2,fsdp=4,tp=2"
    assert read_mesh("fsdp=64,ep=8").ranks == 64


def test_rates_are_assumptions_that_can_be_changed() -> None:
    plan = model("muon")
    slow = distribution(plan, "fsdp=16", rates={"between": 1e3, "latency": 0.0})
    assert slow.communication_ms > distribution(plan, "fsdp=16").communication_ms
    for wrong in ({"speed": 1.0}, {"flops": 0.0}, {"node": 1.5}):
        with pytest.raises(normc.NormcError):
            distribution(plan, "fsdp=16", rates=wrong)


def test_the_table_names_schemes_and_bytes() -> None:
    found = distribution(model("muon"), "fsdp=4")
    assert "4 local, 2 apart, 3 owner" in found.footer(120)
    assert "up_proj.weight" in found.text(160)
    lines = dict(found.explained(found.plan["up_proj.weight"]))
    assert "polar needs the whole 7x5" in lines["scheme"].plain
    assert "operations" in lines["owner"].plain
    assert len(uncut(found.plan, ON_CPU).chains) == len(found.rows)


def test_the_command_says_it_of_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_text(model("muon").to_json())
    assert main(["plan", str(file), "--mesh", "fsdp=2,tp=2", "--width", "150"]) == 0
    assert "of perfect scaling" in capsys.readouterr().out
    assert main(["plan", str(file), "--mesh", "hsdp=2x2", "--explain", "up_proj.*", "--width", "150"]) == 0
    said = capsys.readouterr().out
    assert "scheme  " in said
    assert "polar needs the whole 7x5" in said
    assert "every op sees each entry by itself" in said
    assert main(["plan", str(file), "--mesh", "fsdp"]) == 2
