"""The operator: kernels made of affinities to regions, applied to clamped windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from attnjax import backends
from attnjax.contract import Case
from attnjax.core import definition, devices
from attnjax.core.dtypes import accumulator_dtype
from pallas_kernels import dynamic_window

IMPLEMENTATIONS = backends.IMPLEMENTATIONS


def mix(
  q: Float[Array, "B H W G d"],
  regions: Float[Array, "B L G d"],
  taps: Float[Array, "L P"],
  tap_bias: Float[Array, "P"],
  relative: Float[Array, "G X X"],
  v: Float[Array, "B H W G c"],
  *,
  window: int,
  impl: str = "auto",
) -> Float[Array, "B H W G c"]:
  """Computes each pixel's weighted mean of its window, by weights made for the pixel.

  Args:
    q: queries, already scaled.
    regions: the regions' keys.
    taps: from affinities to a logit for each of the window's P = window^2 taps, which
      are counted row by row.
    tap_bias: of the logits.
    relative: added to the logit of key j at query i, by j - i + window - 1 on each
      axis; X = 2 window - 1.
    v: values.
    window: side of the window, odd; windows at the border are moved inside.
    impl: one of IMPLEMENTATIONS, or "auto". The kernels take windows up to 17.

  Raises:
    ValueError: if shapes do not fit, the window is even or exceeds the map, or `impl`
      is unknown.
    NotImplementedError: if the named implementation cannot do the problem.
  """
  check(q, regions, taps, tap_bias, relative, v, window)
  how = {"window": window}
  plain = {
    "reference": functools.partial(reference, **how),
    "xla": functools.partial(_by_rows, **how),
  }
  run = backends.choose(
    impl, plain, lambda impl: dynamic_window.prepared(q, v, impl=impl, **how)
  )
  return run(q, regions, taps, tap_bias, relative, v)


def reference(q, regions, taps, tap_bias, relative, v, *, window):
  """Computes the definition: logits of all taps, and the values of all taps."""
  _, H, W, *_ = v.shape
  wide = [definition.wide(x) for x in (q, regions, taps, tap_bias, relative, v)]
  q, regions, taps, tap_bias, relative, values = wide
  affinity = jnp.einsum("bhwgd,blgd->bhwgl", q, regions)
  logits = jnp.einsum("bhwgl,lp->bhwgp", affinity, taps) + tap_bias
  (rows, down), (columns, right) = (_window(n, window) for n in (H, W))
  bias = relative[:, down[:, None, :, None], right[None, :, None, :]]
  logits = logits + jnp.moveaxis(bias, 0, 2).reshape(H, W, -1, window**2)
  weights = jax.nn.softmax(logits, axis=-1)
  near = values[:, rows[:, None, :, None], columns[None, :, None, :]]
  near = near.reshape(*near.shape[:3], window**2, *near.shape[5:])
  return jnp.einsum("bhwgp,bhwpgc->bhwgc", weights, near).astype(v.dtype)


def _window(length, window):
  """Returns the keys (length, window) of each query, and their places in a table."""
  i = np.arange(length)[:, None]
  j = np.clip(i - window // 2, 0, length - window) + np.arange(window)
  return j, j - i + window - 1


def _by_rows(q, regions, taps, tap_bias, relative, v, *, window):
  """Computes `mix` by a loop over the rows of the window, with an online softmax.

  The backward pass recomputes each row's weights; of the forward pass it keeps the
  affinities and two numbers for each pixel, group and row.
  """
  dtype, k = accumulator_dtype(v), window
  q, regions, taps, tap_bias, relative, values = devices.vary(
    tuple(x.astype(dtype) for x in (q, regions, taps, tap_bias, relative, v))
  )
  affinity = jnp.einsum("bhwgd,blgd->bhwgl", q, regions)
  down, right = (_first(n, k) for n in v.shape[1:3])
  across = relative[:, :, right[:, None] + np.arange(k)]  # (G, X, W, k)

  @jax.checkpoint
  def part(affinity, across, values, high, row):
    """Returns the row's new maximum, its denominator and its numerator."""
    number, taps, tap_bias = row
    bias = jnp.take(across, down + number, axis=1)  # (G, H, W, k)
    logits = jnp.einsum("bhwgl,lk->bhwgk", affinity, taps)
    logits += tap_bias.reshape(1, 1, 1, 1, k) + jnp.moveaxis(bias, 0, 2)[None]
    # The result does not depend on the maximum, so neither does a derivative.
    new = jax.lax.stop_gradient(jnp.maximum(high, logits.max(axis=-1)))
    weights = jnp.exp(logits - new[..., None])
    kept = values.shape[1] - k + 1
    line = jax.lax.dynamic_slice_in_dim(values, number, kept, axis=1)
    line = _spread(line, 1, k)
    return new, weights.sum(axis=-1), _applied(weights, line, k)

  def step(carry, row):
    high, total, mean = carry
    new, more, sums = part(affinity, across, values, high, row)
    shrunk = jnp.exp(high - new)
    return (new, total * shrunk + more, mean * shrunk[..., None] + sums), None

  rows = (
    np.arange(k),
    jnp.moveaxis(taps.reshape(-1, k, k), 1, 0),
    tap_bias.reshape(k, k),
  )
  total = jnp.zeros(affinity.shape[:-1], dtype)
  start = jnp.full_like(total, -jnp.inf), total, jnp.zeros(values.shape, dtype)
  start = devices.vary_like(start, values)
  (_, total, mean), _ = jax.lax.scan(step, start, rows)
  return (mean / total[..., None]).astype(v.dtype)


def _first(length, window):
  """Returns the place in a table of the first key of each query on an axis."""
  i = np.arange(length)
  return np.clip(i - window // 2, 0, length - window) - i + window - 1


def _applied(weights, line, window):
  """Returns the sum of a row's taps, (B, H, W, G, c)."""
  kept = line.shape[2] - window + 1

  @jax.checkpoint
  def term(line, tap, weight):
    near = jax.lax.dynamic_slice_in_dim(line, tap, kept, axis=2)
    return weight[..., None] * _spread(near, 2, window)

  def add(sums, own):
    return sums + term(line, *own), None

  own = np.arange(window), jnp.moveaxis(weights, -1, 0)
  start = devices.vary_like(jnp.zeros(line.shape, line.dtype), line, weights)
  return jax.lax.scan(add, start, own)[0]


def _spread(x, axis, window):
  """Repeats both ends of an axis: windows at the border are those next to it."""
  around = [(0, 0)] * x.ndim
  around[axis] = (window // 2,) * 2
  return jnp.pad(x, around, mode="edge")


def check(q, regions, taps, tap_bias, relative, v, window) -> None:
  """Raises ValueError, naming the argument, if the arguments of `mix` do not fit."""
  if window < 1 or not window % 2:
    raise ValueError(f"window = {window}: it must be odd and positive")
  if min(v.shape[1:3]) < window:
    raise ValueError(f"window = {window} exceeds the map {v.shape[1:3]}")
  B, H, W, G, d = q.shape
  L, P, X = regions.shape[1], window**2, 2 * window - 1
  for name, found, want in (
    ("regions", regions.shape, (B, L, G, d)),
    ("taps", taps.shape, (L, P)),
    ("tap_bias", tap_bias.shape, (P,)),
    ("relative", relative.shape, (G, X, X)),
    ("v", v.shape[:4], (B, H, W, G)),
  ):
    if found != want:
      raise ValueError(f"{name} {found} does not fit q {q.shape}: it must be {want}")


def _case(name, B, grid, G, d, c, window, regions=49):
  side, P = 2 * window - 1, window**2
  shapes = {
    "q": (B, *grid, G, d),
    "regions": (B, regions, G, d),
    "taps": (regions, P),
    "tap_bias": (P,),
    "relative": (G, side, side),
    "v": (B, *grid, G, c),
  }

  def make(key):
    # Logits near 1, as in a network: those of unit normals give one weight of 1.
    return {"taps": 0.1 * jax.random.normal(key, (regions, P))}

  return Case(name, shapes, {"window": window}, make, "mix")


CASES = (
  _case("plain", 2, (7, 9), 2, 4, 3, 3, regions=5),
  _case("whole_map", 1, (7, 8), 2, 3, 4, 7),
  _case("long_row", 1, (3, 65), 1, 2, 1, 3, regions=7),
  _case("one_region", 1, (63, 5), 1, 1, 2, 5, regions=1),
  _case("one_pixel", 1, (1, 1), 3, 2, 2, 1, regions=6),
)
