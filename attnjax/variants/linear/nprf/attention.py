"""The operation: its definition, its Fourier transforms and its tiles."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import Case, check_known
from attnjax.core import masks, random_features
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.recurrence import linear
from attnjax.variants.linear.nprf import algorithms, kernel, transforms
from attnjax.variants.linear.nprf.definition import reference

IMPLEMENTATIONS = ("reference", "xla", "chunked")
FEATURES = kernel.FEATURES
# Number of tokens below which matrix products are cheaper than transforms.
LONG = 2048


def attend(
  q: Float[Array, "B *T N H"],
  k: Float[Array, "B *T N H"],
  v: Float[Array, "B *T N E"],
  bias: Float[Array, "N *L"] | None = None,
  w: Float[Array, "*N M H"] | None = None,
  *,
  causal: bool = False,
  feature_map: str = "positive",
  normalise: bool = True,
  scale: float | None = None,
  segment_ids: Int[Array, "B T"] | None = None,
  valid: Bool[Array, "B T"] | None = None,
  positions: Num[Array, "..."] | None = None,
  impl: str = "auto",
) -> Float[Array, "B *T N E"]:
  """Computes the mixed values z, in the shape and type of v.

  Args:
    q: queries (B, T, N, H), or (B, H, W, N, H) on images.
    k: keys.
    v: values.
    bias: b of the lags key - query, 2 D - 1 an axis with lag 0 in the middle; lags of
      D and more count as D - 1. None is 0.
    w: (M, H), or (N, M, H), for the maps "positive" and "trigonometric".
    causal: token t sees tokens <= t, at positions <= its own; not on images.
    feature_map: one of FEATURES.
    normalise: whether q and k are divided by their lengths.
    scale: of q . k in the exponent; None is 1 with `normalise`, else H^-0.5.
    segment_ids: a document is a run of equal ids; its tokens see only each other.
    valid: True at the real tokens; the others keep their places, but are not seen.
    positions: (B, T) or (T,), integers: lags are their differences; None is 0, 1, ..
    impl: one of IMPLEMENTATIONS, or "auto": "xla" (transforms) for many tokens,
      "chunked" (tiles) for fewer tokens and for all that "xla" does not support.

  Raises:
    ValueError: if shapes do not fit or an option is unknown.
    NotImplementedError: for segment_ids or positions in "xla"; for segment_ids,
      positions or padding on images.
  """
  grid = _check(q, k, v, bias, w, feature_map, causal, impl)
  placed = not (segment_ids is None and positions is None)
  _refuse(grid, impl, placed, valid)
  if impl == "reference":
    given = causal, feature_map, normalise, scale, segment_ids, valid, positions
    return reference(q, k, v, bias, w, *given)
  ids = documents(segment_ids, valid, (q.shape[0], grid[0]))
  if ids is not None:
    q, k, v = (jnp.where((ids >= 0)[..., None, None], x, 0) for x in (q, k, v))
  c = kernel.table(bias, q.shape[-2], len(grid), causal)
  x = _factors(q, k, v, w, feature_map, normalise, scale, ids)
  if impl == "auto":
    impl = "xla" if not placed and math.prod(grid) >= LONG else "chunked"
  own = None if segment_ids is None else ids  # padding has no features
  positive = feature_map == "positive"
  if impl == "xla":
    sums = transforms.transform(x, c, grid, causal, positive)
  else:
    sums = algorithms.tiled(x, c, grid, causal, own, positions, positive)
  if ids is not None:
    sums = jnp.where((ids >= 0)[:, None, :, None], sums, 0)
  return jnp.moveaxis(divide(sums, v.dtype), 1, 2).reshape(v.shape)


def scaled(
  x: Float[Array, "*B N H"], normalise: bool, scale: float | None
) -> Float[Array, "*B N H"]:
  """Returns q or k as the features read it, times the square root of `scale`."""
  scale = (1.0 if normalise else x.shape[-1] ** -0.5) if scale is None else scale
  return (kernel.units(x) if normalise else x.astype(accumulator_dtype(x))) * scale**0.5


def with_ones(v: Float[Array, "*B E"]) -> Float[Array, "*B E1"]:
  """Returns [v, 1]; sums of its columns are the numerators and the denominator."""
  v = v.astype(accumulator_dtype(v))
  return jnp.concatenate([v, jnp.ones((*v.shape[:-1], 1), v.dtype)], axis=-1)


def divide(sums: Float[Array, "*B E1"], dtype) -> Float[Array, "*B E"]:
  """Divides numerators by their denominator, of any size; 0 where nothing is seen."""
  total = sums[..., -1:]
  some = total != 0
  return (jnp.where(some, sums[..., :-1], 0) / jnp.where(some, total, 1)).astype(dtype)


def documents(segment_ids, valid, shape) -> Int[Array, "B T"] | None:
  """Returns the number of each token's document, -1 at padding; None if all are one."""
  ids = masks.segments(segment_ids, valid, shape)
  if ids is None:
    return None
  filled, real = linear.spans(ids)
  return jnp.where(real, masks.documents(filled), -1)


def _factors(q, k, v, w, kind, normalise, scale, ids) -> algorithms.Factors:
  (q, _), (k, amplitude) = (
    kernel.of(scaled(x, normalise, scale), w, kind) for x in (q, k)
  )
  amplitude = _rows(amplitude[..., None])[..., 0]
  q, k, columns = (_rows(x) for x in (q, k, with_ones(v)))
  if ids is not None:
    real, nothing = (ids >= 0)[:, None, :, None], -jnp.inf if kind == "positive" else 0
    q, k = (jnp.where(real, x, nothing) for x in (q, k))
    amplitude = jnp.where(real[..., 0], amplitude, -jnp.inf)
    columns = jnp.where(real, columns, 0)
  return algorithms.Factors(q, k, amplitude, columns)


def _rows(x):
  """Reshapes (B, *T, N, F) to (B, N, T, F)."""
  return jnp.moveaxis(x.reshape(x.shape[0], -1, *x.shape[-2:]), 2, 1)


def _refuse(grid, impl, placed, valid):
  if len(grid) > 1 and (placed or valid is not None):
    raise NotImplementedError("images take no segment_ids, valid or positions")
  if impl == "xla" and placed:
    raise NotImplementedError(
      "impl 'xla' takes no segment_ids or positions: the weights of lags are no"
      " Toeplitz matrix; impl 'chunked' does"
    )


def _check(q, k, v, bias, w, feature_map, causal, impl) -> tuple[int, ...]:
  """Returns the grid of tokens; raises ValueError that names the misfit."""
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  check_known("feature_map", feature_map, FEATURES)
  if q.ndim not in (4, 5):
    raise ValueError(f"q {q.shape} must be (B, T, N, H) or (B, H, W, N, H)")
  grid, N, H = q.shape[1:-2], q.shape[-2], q.shape[-1]
  if k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
    raise ValueError(f"q {q.shape}, k {k.shape}, v {v.shape} differ in B, T, N or H")
  if causal and len(grid) > 1:
    raise ValueError(f"causal with q {q.shape}: a grid has no order of tokens")
  if bias is not None:
    odd = all(L % 2 for L in bias.shape[1:])
    if bias.ndim != 1 + len(grid) or bias.shape[0] != N or not odd:
      raise ValueError(
        f"bias {bias.shape} must be (N, 2 D - 1{', 2 D - 1' * (len(grid) - 1)}),"
        f" N = {N}"
      )
  if feature_map in random_features.KINDS:
    if w is None:
      raise ValueError(f"feature_map {feature_map!r} needs w, (M, H) or (N, M, H)")
    if w.shape[-1] != H or w.ndim not in (2, 3) or w.shape[:-2] not in ((), (N,)):
      raise ValueError(f"w {w.shape} must be (M, H) or (N, M, H) with {(N, H)}")
  return grid


def _shapes(B, grid, N, H, E, M=6, D=0, each=False):
  shape = (B, *grid, N)
  shapes = {"q": (*shape, H), "k": (*shape, H), "v": (*shape, E)}
  shapes |= {"bias": (N, *(2 * (D or T) - 1 for T in grid))}
  return shapes | ({"w": (N, M, H) if each else (M, H)} if M else {})


def _bias(*lags):
  # Round-off is absolute: it shows where the sums of early tokens are small.
  def make(key: jax.Array) -> dict[str, jax.Array]:
    return {"bias": 0.3 * jax.random.normal(key, lags)}

  return make


def _padded(key):
  del key
  return jnp.array([[0], [7]]) <= jnp.arange(33) % 30


_CAUSAL = {"causal": True}
CASES = (
  Case("whole", _shapes(2, (33,), 2, 8, 5)),
  Case("causal", _shapes(1, (64,), 2, 8, 8, each=True), _CAUSAL, _bias(2, 127)),
  Case(
    "one_token", _shapes(1, (1,), 1, 3, 5, M=0, D=2), _CAUSAL | {"feature_map": "elu"}
  ),
  Case(
    "valid",
    _shapes(2, (33,), 2, 4, 4, D=7),
    {"valid": _padded, "normalise": False},
  ),
  Case("image", _shapes(1, (5, 4), 2, 4, 4, D=3)),
)
