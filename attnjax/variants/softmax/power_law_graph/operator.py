"""The operator: of each row, of each token, or a parameter; and the decoding cache."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.core import devices
from attnjax.core.cache import KeyValueCache, RecurrentCache
from attnjax.core.exported import serializable
from attnjax.core.recurrence import linear
from attnjax.variants.softmax.power_law_graph import density as densities
from attnjax.variants.softmax.power_law_graph.metric import Metric, PowerLawMetric

DENSITIES = ("auto", "full", "prefix", "constant")


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """The decoding cache: keys and values, and what makes the operator.

  Attributes:
    attention: rotated keys, and values, of all tokens so far.
    document: of the last document, the place "begun" in the row where it begins, -1
      before the first real token, and with density "prefix" its "density".
    deduced: with density "full" the tensors that the first step made, the G-cache;
      else None.
  """

  attention: KeyValueCache
  document: RecurrentCache
  deduced: Any = None


class Operator(nnx.Module):
  """Multiplies queries by the operator of their row, of their token, or of the layer.

  Args:
    head_dim: H.
    heads: N.
    density: "full", "prefix" or "constant", as in `Layer`.
    rngs: for the parameters.
    **sizes: of `PowerLawMetric`.
  """

  def __init__(
    self, head_dim: int, heads: int, *, density: str, rngs: nnx.Rngs, **sizes: int
  ):
    eye = jnp.tile(jnp.eye(head_dim), (heads, 1, 1))
    constant = density == "constant"
    self.constant = nnx.Param(eye) if constant else None
    self.metric = (
      None if constant else PowerLawMetric(head_dim, heads, **sizes, rngs=rngs)
    )
    self.density, self.shape = density, eye.shape

  def __call__(
    self,
    q: Float[Array, "B T N H"],
    ids: Int[Array, "B T"] | None = None,
    packed: bool = False,
  ) -> tuple[Array, Array | None]:
    """Returns (q, G (B|1, N, H, H)), or (q G, None) where each token has its own G.

    Args:
      q: rotated queries.
      ids: the documents of the tokens, -1 at padding.
      packed: whether a row may have more than one document.
    """
    if self.constant is not None:
      return q, self.constant[...][None]
    later = self.density == "full"
    if later and not packed:
      return q, self.deduce(q, ids).curvature
    given: dict[str, Any] = {"ids": ids, "later": later}
    return densities.of_each_token(q, self._curvature, **given)[0], None

  def deduce(self, q: Float[Array, "B T N H"], ids: Any = None) -> Metric:
    """Returns the tensors of all real tokens of each row."""
    if self.metric is None:
      raise NotImplementedError("deduce: a constant operator is made of no tokens")
    return self.metric(densities.whole(q, None if ids is None else ids >= 0))

  def init_document(self, batch: int) -> RecurrentCache:
    """Returns the state of no tokens."""
    state = {"begun": jnp.full((batch,), -1, jnp.int32)}
    if self.density == "prefix":
      state["density"] = jnp.zeros((batch, *self.shape), jnp.float32)
    return RecurrentCache.empty(state)

  def init_deduced(self, batch: int) -> Metric | None:
    """Returns the tensors before the first step; None if steps have their own."""
    if self.density != "full":
      return None
    zeros = jnp.zeros((batch, *self.shape), jnp.float32)
    return Metric(*(zeros for _ in range(4)))

  def step(
    self, q: Float[Array, "B T N H"], ids: Any, state: dict[str, Any], cache: Cache
  ) -> tuple[Array, Array | None, dict[str, Any], Metric | None]:
    """Returns (q, G or None) as a call does, then the next state and `deduced`.

    Args:
      q: rotated queries of the next tokens.
      ids: their documents.
      state: of the document that goes on, or of none.
      cache: before these tokens.
    """
    if self.density == "prefix":
      given = {"ids": ids, "state": state["density"]}
      q, density = densities.of_each_token(q, self._curvature, **given)
      return q, None, state | {"density": density}, None
    if self.constant is not None:
      return q, self.constant[...][None], state, None
    kept = devices.vary_like(cache.deduced, q)
    first = cache.attention.length == 0
    deduced: Any = jax.lax.cond(first, lambda: self.deduce(q, ids), lambda: kept)
    return q, deduced.curvature, state, deduced

  def _curvature(self, density):
    assert self.metric is not None
    return self.metric(density).curvature


def places(
  ids: Int[Array, "B T"] | None, length: int, start: Any, begun: Int[Array, "B"]
) -> tuple[Int[Array, "B T"], Int[Array, "B"]]:
  """Returns each token's place in its document, and where the last document begins.

  The density of rotated queries is not that of queries that are turned further: places
  count from the first real token of a document, padding between its tokens included.

  Args:
    ids: documents, runs of equal ids; None is one document.
    length: T.
    start: place in the row of the first of these tokens.
    begun: place in the row where the document that goes on begins, or -1.
  """
  if ids is None:
    ids = jnp.zeros((begun.shape[0], length), jnp.int32)
  whole, real = linear.spans(ids)
  index = start + jnp.arange(length, dtype=jnp.int32)[None]
  new = jnp.pad(whole[:, 1:] != whole[:, :-1], ((0, 0), (1, 0)))
  first = jnp.where(begun >= 0, begun, start + real.argmax(axis=1).astype(jnp.int32))
  begins = jax.lax.cummax(jnp.where(new, index, first[:, None]), axis=1)
  return index - begins, jnp.where(real.any(axis=1), begins[:, -1], begun)
