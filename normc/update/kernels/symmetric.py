"""A batched product that is known to be symmetric: only tiles on and below the diagonal, stored with their mirrors."""

from __future__ import annotations

import torch
from torch import Tensor

from normc.update.kernels.language import jit, runs_kernels, tl
from normc.update.kernels.tiles import Tile, tile

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@jit
def triangle_root(x):  # type: ignore[no-untyped-def]  # Triton's, as all in kernels
    """The row of entry x of a triangle that is counted row by row."""
    row = ((tl.sqrt((8 * x + 1).to(tl.float32)) - 1.0) * 0.5).to(tl.int32)
    row -= (row * (row + 1) // 2 > x).to(tl.int32)
    row += ((row + 1) * (row + 2) // 2 <= x).to(tl.int32)
    return row


@jit
def symmetric_tile(  # type: ignore[no-untyped-def]
    a, b, c, d, row, column,
    n, k, a_row, a_column, b_row, b_column, c_row, c_column, d_row, d_column,
    alpha, beta, gamma,
    ADD: tl.constexpr, EVEN_ROWS: tl.constexpr, EVEN_DEPTH: tl.constexpr, FAR: tl.constexpr, PRECISION: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """HEIGHT rows from `row` and WIDTH columns from `column` of one product: up to the diagonal, with their mirrors."""
    rows = row + tl.arange(0, HEIGHT)
    columns = column + tl.arange(0, WIDTH)
    depths = tl.arange(0, DEPTH)
    inner = depths
    if FAR:
        rows, columns, depths = rows.to(tl.int64), columns.to(tl.int64), depths.to(tl.int64)
    a_at = a + (rows[:, None] * a_row + depths[None, :] * a_column)
    b_at = b + (depths[:, None] * b_column + columns[None, :] * b_row)
    total = tl.full((HEIGHT, WIDTH), 0.0, dtype=tl.float32)
    for step in range((k + DEPTH - 1) // DEPTH):
        if EVEN_ROWS and EVEN_DEPTH:
            left, right = tl.load(a_at), tl.load(b_at)
        elif EVEN_DEPTH:
            left = tl.load(a_at, mask=rows[:, None] < n, other=0.0)
            right = tl.load(b_at, mask=columns[None, :] < n, other=0.0)
        else:
            still = k - step * DEPTH
            left = tl.load(a_at, mask=(rows[:, None] < n) & (inner[None, :] < still), other=0.0)
            right = tl.load(b_at, mask=(columns[None, :] < n) & (inner[:, None] < still), other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
        a_at += DEPTH * a_column
        b_at += DEPTH * b_column
    value = total * alpha
    inside = (rows[:, None] < n) & (columns[None, :] < n) & (columns[None, :] < row + HEIGHT)
    if ADD:
        d_at = d + (rows[:, None] * d_row + columns[None, :] * d_column)
        value += beta * tl.load(d_at, mask=inside, other=0.0).to(tl.float32)
    value += tl.where((rows[:, None] == columns[None, :]) & inside, gamma, 0.0)
    result = value.to(c.dtype.element_ty)
    tl.store(c + (rows[:, None] * c_row + columns[None, :] * c_column), result, mask=inside)
    if column < row:  # the square on the diagonal is computed in full
        mirror_at = c + (columns[:, None] * c_row + rows[None, :] * c_column)
        tl.store(mirror_at, tl.trans(result), mask=(rows[None, :] < n) & (columns[:, None] < row))


@jit
def symmetric_kernel(  # type: ignore[no-untyped-def]
    a, b, c, d,
    n, k, programs,
    a_batch, a_row, a_column, b_batch, b_row, b_column, c_batch, c_row, c_column, d_batch, d_row, d_column,
    alpha, beta, gamma,
    ADD: tl.constexpr,
    EVEN_ROWS: tl.constexpr, EVEN_DEPTH: tl.constexpr, FAR: tl.constexpr, EIGHT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr, RATIO: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of alpha A B^T + beta D + gamma I, of BLOCK rows and RATIO * BLOCK columns, or fewer at the diagonal."""
    WIDTH: tl.constexpr = BLOCK * RATIO
    program = tl.program_id(0)
    batch = (program // programs).to(tl.int64)
    place = program % programs
    # Which tile: of the triangle of WIDTH-sized squares, GROUP rows together, column by column.
    square, part = place // RATIO, place % RATIO
    side = (n + WIDTH - 1) // WIDTH
    first = (triangle_root(square) // GROUP) * GROUP
    local = square - first * (first + 1) // 2
    height = tl.minimum(side - first, GROUP)
    corner = local - first * height
    corner_row = triangle_root(tl.maximum(corner, 0))
    below = corner < 0
    row = tl.where(below, first + local % height, first + corner_row)
    column = tl.where(below, local // height, first + corner - corner_row * (corner_row + 1) // 2)
    top, left = (row * RATIO + part) * BLOCK, column * WIDTH
    if top >= n:
        return
    if EIGHT:  # all of them are multiples of eight: what the compiler is told of arguments is sixteen or nothing
        n, k = n // 8 * 8, k // 8 * 8
        a_row, b_row, c_row, d_row = a_row // 8 * 8, b_row // 8 * 8, c_row // 8 * 8, d_row // 8 * 8
        a_batch, b_batch, c_batch, d_batch = a_batch // 8 * 8, b_batch // 8 * 8, c_batch // 8 * 8, d_batch // 8 * 8
    a, b, c, d = a + batch * a_batch, b + batch * b_batch, c + batch * c_batch, d + batch * d_batch
    if RATIO == 2 and top == left:  # what lies right of the diagonal mirrors what the tile below has
        symmetric_tile(
            a, b, c, d, top, left,
            n, k, a_row, a_column, b_row, b_column, c_row, c_column, d_row, d_column, alpha, beta, gamma,
            ADD, EVEN_ROWS, EVEN_DEPTH, FAR, PRECISION, BLOCK, BLOCK, DEPTH,
        )  # fmt: skip
    else:
        symmetric_tile(
            a, b, c, d, top, left,
            n, k, a_row, a_column, b_row, b_column, c_row, c_column, d_row, d_column, alpha, beta, gamma,
            ADD, EVEN_ROWS, EVEN_DEPTH, FAR, PRECISION, BLOCK, WIDTH, DEPTH,
        )  # fmt: skip


def symmetric(
    a: Tensor,
    b: Tensor,
    *,
    add: Tensor | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    gamma: float = 0.0,
    out: Tensor | None = None,
    constants: Tile | None = None,
) -> Tensor:
    """alpha a[i] b[i]^T + beta add[i] + gamma I for each matrix of a batch, where a b^T is known symmetric.

    `a`, `b` [batch, n, k] and `add` [batch, n, n] may have any strides; `add` may be `out` itself. Products add up in
    float32.
    """
    batch, n, k = a.shape
    assert a.dtype in _DTYPES and b.dtype == a.dtype and b.shape == a.shape, (a.dtype, b.dtype, a.shape, b.shape)
    assert runs_kernels(a.device), f"no kernels on {a.device}: torch.bmm is the way there"
    c = torch.empty(batch, n, n, dtype=a.dtype, device=a.device) if out is None else out
    assert c.shape == (batch, n, n) and (add is None or add.shape == c.shape), c.shape
    if c.numel() == 0:
        return c
    chosen = constants or tile(n, k, a.dtype, a.device)
    width = chosen.block * chosen.ratio
    side = -(-n // width)
    programs = chosen.ratio * side * (side + 1) // 2
    d = c if add is None else add
    strides = [n, k, *(stride for x in (a, b, c, d) for stride in x.stride()[:2])]
    symmetric_kernel[(batch * programs,)](
        a, b, c, d,
        n, k, programs,
        *a.stride(), *b.stride(), *c.stride(), *d.stride(),
        float(alpha), float(beta), float(gamma),
        ADD=add is not None,
        EVEN_ROWS=n % width == 0,
        EVEN_DEPTH=k % chosen.depth == 0,
        FAR=any(_reach(x) >= 2**31 for x in (a, b, c, d)),
        EIGHT=all(stride % 8 == 0 for stride in strides) and any(stride % 16 for stride in strides),
        PRECISION="ieee" if a.dtype == torch.float32 else "tf32",
        BLOCK=chosen.block,
        RATIO=chosen.ratio,
        DEPTH=chosen.depth,
        GROUP=chosen.group,
        num_warps=chosen.warps,
        num_stages=chosen.stages,
    )  # fmt: skip
    return c


def _reach(x: Tensor) -> int:
    """How far the entries of one matrix, filled up to whole tiles, may lie apart."""
    return sum((size + 512) * abs(stride) for size, stride in zip(x.shape[1:], x.stride()[1:], strict=True))
