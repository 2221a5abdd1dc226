"""The layer: projections around `attend`, and its tables of lags."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import random_features
from attnjax.core.cache import RecurrentCache
from attnjax.nn import projections, unseen
from attnjax.ops import self_attention
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

  The random w are recomputed in each call from `seed` and the depth, so they are
  constant. For other draws, call `attend` with your own.

  Args:
    dim: D.
    form: one of FORMS.
    heads: N.
    head_dim: H; dim / heads if 0.
    num_features: M; not used by the kinds "elu" and "relu".
    kind: the feature map, see `attend`.
    normalise: whether queries and keys are divided by their lengths.
    orthogonal: whether the features are drawn orthogonal.
    rpe: the table of b: "full", a table of all lags below max_distance; "bucket",
      the buckets of T5, exact lags first, then ever wider ones; "none", 0.
    max_distance: lags of at least this share one entry.
    buckets: number of entries of the table if rpe = "bucket".
    seed: of the random features.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    heads: int = 4,
    head_dim: int = 0,
    num_features: int = 64,
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
    check_options(
      form=(form, FORMS),
      kind=(kind, FEATURES),
      rpe=(rpe, RPE),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    if max_distance < 1:
      raise ValueError(f"max_distance = {max_distance} must be 1 or more")
    size = projections.head_size(dim, heads, head_dim)
    self.qkv = projections.QueryKeyValue(dim, heads, heads, size, rngs=rngs)
    self.out = projections.output(heads, size, dim, rngs=rngs)
    axes, sides = (2, 2) if form == "image" else (1, 1 if form == "causal" else 2)
    if rpe == "full":
      lags = max_distance if sides == 1 else 2 * max_distance - 1
      self.bias = nnx.Param(jnp.zeros((heads, *(lags,) * axes)))
    elif rpe == "bucket":
      if buckets < 2 * sides or buckets % sides:
        raise ValueError(f"buckets = {buckets}: at least 2 a side, sides = {sides}")
      self.bias = nnx.Param(jnp.zeros((heads, *(buckets,) * axes)))
    self.form, self.heads, self.size, self.num_features = (
      form,
      heads,
      size,
      num_features,
    )
    self.kind, self.normalise, self.orthogonal = kind, normalise, orthogonal
    self.rpe, self.distance = rpe, max_distance if rpe != "none" else 1
    self.seed, self.impl = seed, impl

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the layer refuses, with the reasons."""
    if self.rpe != "none":
      return {}
    return {"positions": "rpe = 'none' tells no lag from another"}

  def project(self, x: Float[Array, "B *T D"], **context: Unpack[Context]) -> Heads:
    """Returns the heads (B, *T, N, H) of every token, and the random w."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    seen = unseen.told(tokens.ids, context.get("segment_ids"))
    seen |= {"positions": tokens.positions}  # None: the indices of tokens
    q, k, v = (
      y.reshape(*x.shape[:-1], *y.shape[2:]) for y in self.qkv.heads(tokens.rows)
    )
    return Heads(q, k, v, tokens, seen, {"w": self._draws(tokens.index)})

  def mix(self, heads: Heads) -> Float[Array, "B *T N E"]:
    """Returns `attend` of the heads."""
    given = self._options(heads) | heads.seen
    given |= {"causal": self.form == "causal", "impl": self.impl}
    return attend(heads.q, heads.k, heads.v, **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *T D"]:
    """Returns the projection of all heads' outputs."""
    return self.out(out.astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B *T D"], **context: Unpack[Context]
  ) -> Float[Array, "B *T D"]:
    """Returns the layer's output for x, in its shape; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def init_cache(
    self, batch: int, length: int, dtype: Any = jnp.float32
  ) -> RecurrentCache:
    """Returns the empty state, whose size does not depend on `length`."""
    del length
    self_attention.check_decodes(self.form)
    return RecurrentCache.empty(self._empty(batch, dtype))

  def step(
    self, x: Float[Array, "B T D"], cache: RecurrentCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], RecurrentCache]:
    """Returns the outputs of the next T tokens, and the state after them.

    Raises:
      NotImplementedError: for positions, which the state does not keep.
    """
    if context.get("positions") is not None:
      raise NotImplementedError("positions: a state keeps tokens in order, no places")
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    heads = self.project(x, **context)
    ids = heads.tokens.ids
    state = cache.resumed(ids, self._empty(x.shape[0], cache.state.k.dtype))
    given = self._options(heads) | {"segment_ids": ids}
    z, state = decode.step(heads.q, heads.k, heads.v, state, **given)
    return self.merge(z, heads), cache.advanced(state, ids)

  def _empty(self, batch, dtype) -> decode.State:
    features = {"positive": self.num_features, "trigonometric": 2 * self.num_features}
    count = features.get(self.kind, self.size)
    sizes = self.distance, self.heads, self.size, self.size, count
    return decode.State.empty(batch, *sizes, dtype)

  def _options(self, heads) -> dict[str, Any]:
    options = {"feature_map": self.kind, "normalise": self.normalise}
    return options | {"bias": self._bias(), "w": heads.more["w"]}

  def _draws(self, index) -> Array | None:
    """Returns the random w (N, M, H) of a depth; None for features without w."""
    if self.kind not in random_features.KINDS:
      return None
    key = jax.random.fold_in(jax.random.key(self.seed), index)
    return jax.vmap(
      lambda key: random_features.draw(
        key, self.num_features, self.size, orthogonal=self.orthogonal
      )
    )(jax.random.split(key, self.heads))

  def _bias(self) -> Array | None:
    """Returns b of all lags, (N, 2 D - 1) or (N, 2 D - 1, 2 D - 1)."""
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
  """Returns the entries of T5's table for lags key - query.

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
