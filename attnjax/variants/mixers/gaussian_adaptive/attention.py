"""The function: weights by one Gaussian a chunk; and its cases."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import Case, check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.mixers.gaussian_adaptive import chunks
from attnjax.variants.mixers.gaussian_adaptive.definition import reference

IMPLEMENTATIONS = ("reference", "xla")
EPSILON = 1e-8  # added to variances


def attend(
  x: Float[Array, "..."],
  displacement: Float[Array, "M K"],
  spread: Float[Array, "M K"],
  *,
  axis: int = -1,
  segment_ids: Int[Array, "B S"] | None = None,
  valid: Bool[Array, "B S"] | None = None,
  padding_value: float | None = None,
  clamp: bool = False,
  return_weights: bool = False,
  impl: str = "auto",
) -> Any:
  """Computes x times its Gaussian weights along an axis, in the shape and type of x.

  arXiv:2401.11143, section 3. Each of M heads weighs a chunk of the axis: n // M
  entries, or 1 if that is 0, and the last head what remains. A chunk of one entry has
  the variance 0, and the weight 1.

  Args:
    x: features of any number of axes.
    displacement: of the K Gaussians' means from the chunk's mean, in the unit of x.
    spread: their standard deviations, in those of the chunk; the sign is of no account.
    axis: S, which is cut in chunks.
    segment_ids: documents along the axis, runs of equal ids, each cut by its own n; B
      is the first axis of x. Entries with negative ids count nowhere and give 0.
    valid: True at the real entries; so are those that are False.
    padding_value: entries of this value are 0 in means and variances, where they
      count, and are unchanged in the result, as in the authors' code.
    clamp: as in the authors' code weights are divided by 1e-8 where the product of
      densities sums to less; else their sum is 1.
    return_weights: also return the weights, float32, in the shape of x.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Raises:
    ValueError: if shapes do not fit or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  axis = _axis(x, axis, displacement, spread, segment_ids is None and valid is None)
  given: dict[str, Any] = {"segment_ids": segment_ids, "valid": valid}
  given |= {"padding_value": padding_value, "clamp": clamp}
  if impl == "reference":
    given |= {"axis": axis, "return_weights": return_weights}
    return reference(x, displacement, spread, **given)
  wide = accumulator_dtype(x)
  z = jnp.moveaxis(x.astype(wide), axis, -1)
  out, weights = _weighed(z, displacement.astype(wide), spread.astype(wide), **given)
  out = jnp.moveaxis(out, -1, axis).astype(x.dtype)
  return (out, jnp.moveaxis(weights, -1, axis)) if return_weights else out


def _weighed(z, displacement, spread, segment_ids, valid, padding_value, clamp):
  """Returns (out, weights) of z (*B, S)."""
  heads, M = Heads(displacement, spread, clamp), displacement.shape[0]
  if segment_ids is None and valid is None:
    parts = [
      _weights(*part, heads.cut(some, part[0].ndim), padding_value)
      for part, some in chunks.static(z, M)
    ]
    rows = [w.reshape(*z.shape[:-1], -1) for w in parts]
    weights = jnp.concatenate(rows, axis=-1)
  else:
    real, own, group = chunks.of_documents(z, M, segment_ids, valid)
    z = jnp.where(real, z, 0)
    weights = _weights(z, group, heads.cut(own, z.ndim), padding_value)
    weights = jnp.where(real, weights, 0)
  out = z * weights
  if padding_value is not None:
    out = jnp.where(z == padding_value, z, out)
  return out, weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Heads:
  """The Gaussians of some heads.

  Attributes:
    displacement: (*S, K).
    spread: (*S, K).
    clamp: as in `attend`.
  """

  displacement: Any
  spread: Any
  clamp: bool = dataclasses.field(metadata={"static": True})

  def cut(self, place: Any, axes: int) -> "Heads":
    """Returns the heads at some indices, with axes for what they weigh."""
    displacement, spread = self.displacement[place], self.spread[place]
    shape = (1,) * (axes + 1 - displacement.ndim) + displacement.shape
    return Heads(displacement.reshape(shape), spread.reshape(shape), self.clamp)

  def scores(self, far: Array, variance: Array) -> Array:
    """Returns the log of the product of densities, but for a constant of the chunk.

    Args:
      far: x less the mean of its chunk.
      variance: of the chunk.
    """
    displacement, narrow = self.displacement, 1 / self.spread**2
    if self.clamp:
      square = (far[..., None] - displacement) ** 2 / variance[..., None]
      log = 0.5 * (square * narrow - jnp.log(narrow)) + 0.5 * math.log(2 * math.pi)
      return -log.sum(axis=-1)
    # A product of Gaussians is one, around the centre; its square is a constant, which
    # is large where the variance is small.
    precision = narrow.sum(axis=-1)
    centre = (displacement * narrow).sum(axis=-1) / precision
    return -0.5 * precision * far * (far - 2 * centre) / variance


def _weights(z: Array, group: chunks.Group, heads: Heads, padding_value: Any) -> Array:
  """Returns the weights of z, in its shape."""
  known = z if padding_value is None else jnp.where(z == padding_value, 0, z)
  mean = group.total(known) / group.number
  square = group.total(jnp.square(known - mean))
  variance = square / jnp.maximum(group.number - 1, 1) + EPSILON
  score = heads.scores(z - mean, variance)
  top = jax.lax.stop_gradient(group.most(score))
  power = jnp.exp(score - top)
  total = group.total(power)
  total = jnp.where(total > 0, total, 1)
  if not heads.clamp:
    return power / total
  log = jnp.maximum(top + jnp.log(total), math.log(EPSILON))
  return jnp.exp(score - log)


def _axis(x, axis: int, displacement, spread, alone: bool) -> int:
  """Returns the axis as a number from 0; raises ValueError for what does not fit."""
  if not -x.ndim <= axis < x.ndim:
    raise ValueError(f"axis = {axis}: x {x.shape} has {x.ndim} axes")
  if displacement.shape != spread.shape or 0 in displacement.shape:
    raise ValueError(
      f"displacement {displacement.shape}, spread {spread.shape}: both are (M, K)"
    )
  axis = axis % x.ndim
  if not alone and axis == 0:
    raise ValueError("axis = 0 has no documents: they are of the first axis's entries")
  return axis


def _make(M, K) -> Callable:
  def make(key):
    one, two = jax.random.split(key)
    spread = jnp.exp(0.3 * jax.random.normal(one, (M, K)))
    return {"displacement": jax.random.normal(two, (M, K)), "spread": spread}

  return make


def _packed(key):
  del key
  return jnp.array([[4] * 9 + [-1] * 2 + [4] * 3 + [1] * 6, [-1] + [2] * 19])


def _padded(key):
  del key
  return jnp.arange(7) < jnp.array([[7], [2], [0]])


def _halves(key):
  x = jnp.round(2 * jax.random.normal(key, (2, 3, 7))) / 2
  return {"x": x, **_make(2, 2)(key)}


def _case(name, shape, M, K, options=None):
  return Case(name, {"x": shape}, options or {}, _make(M, K))


_BOTH = {"return_weights": True}
CASES = (
  _case("features", (2, 5, 26), 4, 3),
  _case("one_head", (2, 65, 3), 1, 2, {"axis": 1} | _BOTH),
  _case("one_entry", (3, 1), 1, 1, _BOTH),
  _case("more_heads_than_entries", (2, 3, 2), 5, 2, {"axis": -2}),
  _case("clamped", (3, 12, 5), 4, 3, {"axis": 1, "clamp": True} | _BOTH),
  _case("documents", (2, 20, 3), 3, 2, {"axis": 1, "segment_ids": _packed} | _BOTH),
  _case("padded", (3, 2, 7), 2, 2, {"axis": 2, "valid": _padded, "clamp": True}),
  Case("padding_value", {}, {"padding_value": 0.5}, _halves),
)
