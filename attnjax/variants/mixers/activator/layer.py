"""The layer: the gating unit of the channels of each token."""

from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core.cache import RecurrentCache
from attnjax.nn import unseen
from attnjax.nn.linear import linear
from attnjax.ops import self_attention
from attnjax.variants.mixers.activator.gating import (
  ACTIVATIONS,
  IMPLEMENTATIONS,
  gate,
)

FORMS = ("causal", "sequence", "image")


class Layer(nnx.Module):
  """The gating unit; x (B, T, D) or (B, H, W, D), each token by itself.

  Args:
    dim: D.
    form: "causal", "sequence" or "image", which are the same.
    expand: F, the channels of the unit, in D, rounded down.
    activation: of the first branch, one of ACTIVATIONS.
    impl: as in `gate`.
    rngs: for the parameters.
  """

  refuses = {"positions": "the gating unit knows no places: each token is by itself"}

  def __init__(
    self,
    dim: int,
    *,
    form: str,
    expand: float = 2.0,
    activation: str = "gelu",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      activation=(activation, ACTIVATIONS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    hidden = int(expand * dim)
    if hidden < 1:
      raise ValueError(f"expand = {expand}: {dim} channels leave none in the unit")
    self.up = linear(dim, (2, hidden), rngs=rngs)
    self.scale, self.bias = nnx.Param(jnp.ones(hidden)), nnx.Param(jnp.zeros(hidden))
    self.down = linear(hidden, dim, rngs=rngs)
    self.form, self.activation, self.impl = form, activation, impl

  def project(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Heads:
    """Returns v as the values of one head; `more` has u as "gate"."""
    tokens = contexts.accept(x, context, form=self.form, refuses=self.refuses)
    both = self.up(tokens.x)
    more = {"gate": both[..., :1, :]}
    return Heads(None, None, both[..., 1:, :], tokens, more=more)

  def mix(self, heads: Heads) -> Float[Array, "B *S 1 F"]:
    """Returns `gate` of both branches."""
    u, given = heads.more["gate"], {"activation": self.activation, "impl": self.impl}
    return gate(u, heads.v, self.scale[...], self.bias[...], **given)

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B *S D"]:
    """Returns the projection back to the width of the model."""
    return self.down(out[..., 0, :].astype(heads.tokens.x.dtype))

  def __call__(
    self, x: Float[Array, "B *S D"], **context: Unpack[Context]
  ) -> Float[Array, "B *S D"]:
    """Returns the layer's output; see `attnjax.contract.forms`."""
    return contexts.run(self, x, context)

  def weights(self, x: Float[Array, "B *S D"], **context: Unpack[Context]) -> Array:
    """Raises an error: there are no weights.

    Raises:
      NotImplementedError: always.
    """
    del x, context
    raise NotImplementedError("the gating unit has no weights: no token reads another")

  def init_cache(
    self, batch: int, length: int, dtype: Any = jnp.float32
  ) -> RecurrentCache:
    """Returns a cache without a state; it has the last document's id alone."""
    del length, dtype
    self_attention.check_decodes(self.form)
    return RecurrentCache((), jnp.full((batch,), -1, jnp.int32))

  def step(
    self, x: Float[Array, "B T D"], cache: RecurrentCache, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T D"], RecurrentCache]:
    """Returns the outputs of the next T tokens, and the cache after them."""
    if 0 in x.shape:
      return unseen.nothing(self, x), cache
    heads = self.project(x, **context)
    return self.merge(self.mix(heads), heads), cache.advanced((), heads.tokens.ids)
