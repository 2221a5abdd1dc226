"""Mixture of heads around any layer that has heads."""

import dataclasses
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import KeyValueCache
from attnjax.ops import self_attention
from attnjax.variants.heads.mixture_of_head.attention import gated
from attnjax.variants.heads.mixture_of_head.router import Router

_OWN = "mixture_of_head."


class MixtureOfHeads(nnx.Module):
  """A layer whose heads are gated by a `Router`; all heads are computed.

  Args:
    inner: a layer with `project`, `mix` and `merge`, and an output for each head.
    router: for the heads of the inner layer.
  """

  def __init__(self, inner: Any, router: Router):
    self.inner, self.router = inner, router

  @property
  def refuses(self) -> dict[str, str]:
    """Returns the context arguments that the inner layer refuses."""
    return getattr(self.inner, "refuses", {})

  @property
  def chosen_keys(self) -> str:
    """Returns how the inner layer takes the keys that a cache policy chooses."""
    return getattr(self.inner, "chosen_keys", "")

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns the inner layer's heads, and the logits of their gates."""
    heads = self.inner.project(x, **context)
    q = heads.q.reshape(*heads.tokens.rows.shape[:2], *heads.q.shape[-2:])
    logits = self.router.logits(heads.tokens.rows, q)
    more = heads.more | {_OWN + name: value for name, value in logits.items()}
    return dataclasses.replace(heads, more=more)

  def mix(self, heads: Heads) -> Float[Array, "B *S N H"]:
    """Returns the inner layer's outputs of the heads, times their gates."""
    out = self.inner.mix(heads)
    weights = self.router.gates(_logits(heads)).weights
    return gated(out, weights.reshape(out.shape[:-1]))

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the inner layer's projection; see `Layer.merge` for the loss."""
    out = self.router.learning(out, _logits(heads), heads.tokens.ids)
    return self.inner.merge(out, heads)

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the output for x, in its shape."""
    return contexts.run(self, x, context)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> KeyValueCache:
    """Returns the inner layer's cache.

    Raises:
      NotImplementedError: if it is not of keys and values, which a step gates.
    """
    cache = self.inner.init_cache(batch, length, dtype)
    if not isinstance(cache, KeyValueCache):
      raise NotImplementedError(
        f"{type(self.inner).__module__} keeps a {type(cache).__name__}; only steps with"
        " a KeyValueCache give the outputs of heads"
      )
    return cache

  def step(
    self, x: Float[Array, "B T D"], cache: KeyValueCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """Returns the outputs of the next T tokens, and the cache with them appended."""
    return self_attention.step(self, x, cache, context)


def _logits(heads: Heads) -> dict[str, Any]:
  own = {name: x for name, x in heads.more.items() if name.startswith(_OWN)}
  return {name.removeprefix(_OWN): x for name, x in own.items()}
