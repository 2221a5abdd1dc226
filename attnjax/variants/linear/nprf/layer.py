"""The layer: projections around `attend`, and its tables of lags."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax.contract import check_known
from attnjax.core import random_features
from attnjax.nn import projections, unseen
from attnjax.variants.linear.nprf import decode
from attnjax.variants.linear.nprf.attention import (
  FEATURES,
  IMPLEMENTATIONS,
  attend,
)

FORMS = ("causal", "sequence", "image")
RPE = ("full", "bucket", "none")


class Layer(nnx.Module):
  """Projections, `attend`, a projection; x (B, T, D) or (B, H, W, D).

  The random w are drawn anew in each call from `seed` and the depth, the same ones
  every time. To redraw them, call `attend` with draws of your own.

  Args:
    dim: D.
    form: one of FORMS.
    heads: N.
    head_dim: H; dim / heads if 0.
    features: M; not used by the kinds "elu" and "relu".
    kind: of features, see `attend`.
    normalise: whether queries and keys are divided by their lengths.
    orthogonal: whether the features are drawn orthogonal.
    rpe: what b is read from: "full", a table of all lags below max_distance; "bucket",
      the buckets of T5, exact lags first, then ever wider ones; "none", 0.
    max_distance: lags of it and more are not told apart.
    buckets: for rpe = "bucket", the entries of the table.
    seed: of the random features.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str = "causal",
    heads: int = 4,
    head_dim: int = 0,
    features: int = 64,
    kind: str = "positive",
    normalise: bool = True,
    orthogonal: bool = False,
    rpe: str = "full",
    max_distance: int = 64,
    buckets: int = 32,
    seed: int = 0,
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    for name, value, known in (
      ("form", form, FORMS),
      ("kind", kind, FEATURES),
      ("rpe", rpe, RPE),
      ("impl", impl, ("auto", *IMPLEMENTATIONS)),
    ):
      check_known(name, value, known)
    if max_distance < 1:
      raise ValueError(f"max_distance = {max_distance} must be 1 or more")
    size = projections.head_size(dim, heads, head_dim)
    self.project = projections.QueryKeyValue(dim, heads, heads, size, rngs=rngs)
    self.out = projections.output(heads, size, dim, rngs=rngs)
    axes, sides = (2, 2) if form == "image" else (1, 1 if form == "causal" else 2)
    if rpe == "full":
      lags = max_distance if sides == 1 else 2 * max_distance - 1
      self.bias = nnx.Param(jnp.zeros((heads, *(lags,) * axes)))
    elif rpe == "bucket":
      if buckets < 2 * sides or buckets % sides:
        raise ValueError(f"buckets = {buckets}: at least 2 a side, sides = {sides}")
      self.bias = nnx.Param(jnp.zeros((heads, *(buckets,) * axes)))
    self.form, self.heads, self.size, self.features = form, heads, size, features
    self.kind, self.normalise, self.orthogonal = kind, normalise, orthogonal
    self.rpe, self.distance = rpe, max_distance if rpe != "none" else 1
    self.seed, self.impl = seed, impl

  def __call__(
    self,
    x: Float[Array, "B *T D"],
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    positions: Num[Array, "..."] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> Float[Array, "B *T D"]:
    """The shape of x; images take no segment_ids, padding or positions.

    Without `positions` lags are between the indices of tokens.
    """
    if 0 in x.shape:
      return unseen.nothing(self, x)
    seen = {"segment_ids": segment_ids, "padding": padding, "positions": positions}
    x, _ = unseen.blank(x, segment_ids, padding)
    q, k, v = self._heads(x)
    z = attend(q, k, v, impl=self.impl, **self._options(index), **self._form(seen))
    return self._merge(z, x)

  def weights(self, x, *, segment_ids=None, padding=None, positions=None, index=0):
    """The normalised weights, (B, N, T, T) float32; T = H W row by row on images."""
    seen = {"segment_ids": segment_ids, "padding": padding, "positions": positions}
    q, k, _ = self._heads(unseen.blank(x, segment_ids, padding)[0])
    eye = projections.identity_values(k.reshape(k.shape[0], -1, *k.shape[-2:]))
    v = eye.reshape(*k.shape[:-1], -1)
    options = self._options(index) | self._form(seen)
    z = attend(q, k, v, impl="reference", **options)
    return z.reshape(eye.shape).swapaxes(1, 2)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> decode.State:
    """The empty state; no `length` is too long for it."""
    del length
    if self.form != "causal":
      raise NotImplementedError(
        f"form {self.form!r} does not decode; form 'causal' does"
      )
    features = {"positive": self.features, "trigonometric": 2 * self.features}
    return decode.State.empty(
      batch,
      self.distance,
      self.heads,
      self.size,
      self.size,
      features.get(self.kind, self.size),
      dtype,
    )

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: decode.State,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    padding: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], decode.State]:
    """The next T tokens, T >= 1, after those of the cache."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    x, ids = unseen.blank(x, segment_ids, padding)
    q, k, v = self._heads(x)
    options = self._options(index)
    z, cache = decode.step(q, k, v, cache, segment_ids=ids, **options)
    return self._merge(z, x), cache

  def _heads(self, x):
    axes = 4 if self.form == "image" else 3
    if x.ndim != axes:
      raise ValueError(f"x {x.shape}: form {self.form!r} takes {axes} axes")
    heads = self.project.heads(x.reshape(x.shape[0], -1, x.shape[-1]))
    return [y.reshape(*x.shape[:-1], *y.shape[2:]) for y in heads]

  def _merge(self, z, x):
    return self.out(z.astype(x.dtype))

  def _form(self, seen):
    return seen | {"causal": self.form == "causal"}

  def _options(self, index):
    w = None
    if self.kind in random_features.KINDS:
      key = jax.random.fold_in(jax.random.key(self.seed), index)
      w = jax.vmap(
        lambda key: random_features.draw(
          key, self.features, self.size, orthogonal=self.orthogonal
        )
      )(jax.random.split(key, self.heads))
    options = {"features": self.kind, "normalise": self.normalise}
    return options | {"bias": self._bias(), "w": w}

  def _bias(self) -> Array | None:
    """B of all lags, (N, 2 D - 1) or (N, 2 D - 1, 2 D - 1)."""
    if self.rpe == "none":
      return None
    bias, D = self.bias[...], self.distance
    if self.rpe == "full":
      # The lags that causality hides are not stored.
      return jnp.pad(bias, ((0, 0), (0, D - 1))) if self.form == "causal" else bias
    which = bucket(np.arange(1 - D, D), bias.shape[1], D, self.form == "causal")
    chosen = jax.nn.one_hot(which, bias.shape[1])
    for axis in range(1, bias.ndim):
      bias = jnp.moveaxis(jnp.tensordot(bias, chosen, (axis, 1)), -1, axis)
    return bias


def bucket(lags: np.ndarray, buckets: int, max_distance: int, causal: bool):
  """The entries of T5's table for lags key - query.

  Colin Raffel et al. Exploring the Limits of Transfer Learning. arXiv:1910.10683,
  section 2.1: half of the entries, of each side if not causal, are for exact
  distances, the others for ranges that grow as the logarithm up to max_distance.
  """
  first = np.zeros_like(lags)
  if not causal:
    buckets //= 2
    first = np.where(lags > 0, buckets, 0)
  distance = np.where(lags > 0, 0 if causal else lags, -lags)
  exact = buckets // 2
  ratio = np.log(np.maximum(distance, 1) / exact) / np.log(max(max_distance / exact, 2))
  wider = exact + (ratio * (buckets - exact)).astype(int)
  return first + np.where(distance < exact, distance, np.minimum(wider, buckets - 1))
