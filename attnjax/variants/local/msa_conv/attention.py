"""Attention over the taps of a kernel, by blocks and by its definition."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax import attention
from attnjax.contract import Case, check_known
from attnjax.core import definition, softmax
from attnjax.core.grids import pooling as means
from attnjax.core.grids.partition import Partition
from attnjax.ops import halo_attention

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
BORDERS = ("zero", "mask")
Pair = int | Sequence[int]


def attend(
  q: Float[Array, "B R C N H"],
  k: Float[Array, "B R C N H"],
  v: Float[Array, "B R C N V"],
  *,
  window: Pair = 3,
  dilation: Pair = 1,
  border: str = "zero",
  pooling: bool = False,
  scale: float | None = None,
  impl: str = "auto",
) -> Float[Array, "B R C N V"]:
  """Computes the attention of each token to the taps of a kernel around it.

  Args:
    q: queries.
    k: keys.
    v: values.
    window: rows and columns of the kernel, or one number for both; odd.
    dilation: distance of the taps on each axis, or one number for both.
    border: taps beyond the image are zeros ("zero"), or not seen ("mask").
    pooling: whether to add a second set of taps, on the means of 2 x 2 tokens.
    scale: H^-0.5 if None.
    impl: one of IMPLEMENTATIONS, or "auto", see `attnjax.attention`.

  Raises:
    ValueError: if shapes do not fit, a kernel is even, or a name is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  sides, steps = _check(q, k, v, window, dilation, border)
  if impl == "reference":
    return reference(
      q, k, v, window=sides, dilation=steps, border=border, pooling=pooling, scale=scale
    )
  rule = [_rule(side, border) for side in sides]

  def see(q, k, v):
    return halo_attention.attend(q, k, v, rule, dilation=steps, scale=scale, impl=impl)

  out, lse = see(q, k, v)
  if not pooling:
    return out
  far, far_lse = _pooled(q, k, v, see)
  return softmax.combine([out, far], [lse, far_lse])[0]


def _pooled(q, k, v, see):
  """Returns (out, lse) of the taps of the means.

  The four queries of a mean share its taps, as query heads share a key head.
  """
  cells, N = Partition(q.shape[1:3], 2), q.shape[3]
  pooled = [means.means(x, 2) for x in (k, v)]
  four = jnp.swapaxes(cells.split(q), 2, 3)
  four = four.reshape(*pooled[0].shape[:3], 4 * N, -1)

  def back(y):
    y = y.reshape(y.shape[0], cells.number, N, 4, *y.shape[4:])
    return cells.join(jnp.swapaxes(y, 2, 3))

  out, lse = see(four, *pooled)
  return back(out), back(lse)


def reference(
  q, k, v, *, window=3, dilation=1, border="zero", pooling=False, scale=None
):
  """Computes the definition: the taps of every token, stacked."""
  grid, scale = q.shape[1:3], q.shape[-1] ** -0.5 if scale is None else scale
  sides, steps = ((x, x) if isinstance(x, int) else x for x in (window, dilation))
  maps = [definition.wide(x) for x in (k, v)]
  keys, values = (_taps(x, sides, steps) for x in maps)
  real = _taps(jnp.ones((1, *grid, 1, 1), bool), sides, steps)
  if pooling:

    def near(x):
      """Returns for each token the taps of its mean."""
      x = _taps(x, sides, steps)
      for axis in (1, 2):
        x = jnp.repeat(x, 2, axis=axis)
      return x[:, : grid[0], : grid[1]]

    pooled = [_means(x) for x in maps]
    keys, values = (
      jnp.concatenate([x, near(y)], 3) for x, y in zip((keys, values), pooled)
    )
    there = near(jnp.ones((1, *pooled[0].shape[1:3], 1, 1), bool))
    real = jnp.concatenate([real, there], 3)
  scores = scale * jnp.einsum("byxnh,byxpnh->byxnp", definition.wide(q), keys)
  if border == "mask":
    scores = jnp.where(real[..., 0, 0][:, :, :, None], scores, -jnp.inf)
  weights = jnp.exp(scores - scores.max(-1, keepdims=True))
  weights = weights / weights.sum(-1, keepdims=True)
  return jnp.einsum("byxnp,byxpnv->byxnv", weights, values).astype(q.dtype)


def _means(x):
  """Computes the means of 2 x 2 tokens, of fewer at an odd border."""
  around = [(0, 0), *((0, n % 2) for n in x.shape[1:3]), (0, 0), (0, 0)]

  def sums(x):
    x = jnp.pad(x, around)
    x = x[:, ::2] + x[:, 1::2]
    return x[:, :, ::2] + x[:, :, 1::2]

  return sums(x) / sums(jnp.ones_like(x))


def window_qk(
  q: Float[Array, "B R C N H"],
  k: Float[Array, "B R C N H"],
  *,
  window: Pair = 3,
  dilation: Pair = 1,
) -> Float[Array, "B R C N P"]:
  """Computes the taps' unscaled scores, row-major: q[p] . k[p + r (t - k div 2)]."""
  sides, steps = _check(q, k, k, window, dilation)
  return jnp.einsum("byxnh,byxpnh->byxnp", q, _taps(k, sides, steps))


def window_av(
  a: Float[Array, "B R C N P"],
  v: Float[Array, "B R C N V"],
  *,
  window: Pair = 3,
  dilation: Pair = 1,
) -> Float[Array, "B R C N V"]:
  """Computes weighted sums of the taps: sum_t a[p, t] v[p + r (t - k div 2)]."""
  sides, steps = _check(v, v, v, window, dilation)
  if a.shape[-1] != sides[0] * sides[1]:
    raise ValueError(f"a {a.shape} must have {sides[0]} x {sides[1]} weights a token")
  return jnp.einsum("byxnp,byxpnv->byxnv", a, _taps(v, sides, steps))


def _taps(x, sides, steps):
  """Gathers the taps, (B, R, C, ...) to (B, R, C, P, ...), zeros beyond the image."""
  (rows, columns), grid = sides, x.shape[1:3]
  around = [(step * (side // 2),) * 2 for side, step in zip(sides, steps)]
  padded = jnp.pad(x, ((0, 0), *around, *((0, 0),) * (x.ndim - 3)))
  parts = []
  for i in range(rows):
    for j in range(columns):
      top, left = i * steps[0], j * steps[1]
      parts.append(padded[:, top : top + grid[0], left : left + grid[1]])
  return jnp.stack(parts, axis=3)


def _rule(side, border):
  def ends(at, length):
    low, high = at - side // 2, at + side // 2 + 1
    if border == "zero":
      return low, high
    return low.clip(0), high.clip(None, length)

  return ends


def pair(name: str, value: Pair) -> tuple[int, int]:
  """Returns two positive numbers from one or two; raises ValueError for others."""
  found = (value, value) if isinstance(value, int) else tuple(value)
  if len(found) != 2 or min(found) < 1:
    raise ValueError(f"{name} = {value}: it must be one or two positive numbers")
  return found


def _check(q, k, v, window, dilation, border="zero"):
  sides, steps = pair("window", window), pair("dilation", dilation)
  if not all(side % 2 for side in sides):
    raise ValueError(f"window = {window}: its sides must be odd")
  check_known("border", border, BORDERS)
  if q.shape != k.shape or k.shape[:-1] != v.shape[:-1]:
    raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} differ in B, grid or N")
  return sides, steps


def _shapes(B, grid, N, H, V):
  return {"q": (B, *grid, N, H), "k": (B, *grid, N, H), "v": (B, *grid, N, V)}


CASES = (
  Case("square", _shapes(1, (3, 4), 2, 4, 4), {"window": 3}),
  Case("masked", _shapes(1, (3, 4), 1, 4, 3), {"window": 3, "border": "mask"}),
  Case(
    "dilated",
    _shapes(1, (9, 7), 2, 4, 6),
    {"window": (5, 3), "dilation": (2, 3), "scale": 0.3},
  ),
  Case(
    "pooled",
    _shapes(2, (5, 4), 2, 4, 3),
    {"window": 3, "pooling": True, "border": "mask"},
  ),
  Case("one_token", _shapes(1, (1, 1), 3, 1, 1), {"window": (5, 1)}),
)
