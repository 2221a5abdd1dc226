"""The layer: the weights of both gates around `attend`."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import linear
from attnjax.variants.mixers.polarized.gates import (
  IMPLEMENTATIONS,
  LAYOUTS,
  VARIANTS,
  attend,
)

FORMS = ("image",)
_KAIMING = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class Layer(nnx.Module):
  """Polarized self-attention; x (B, R, C, D).

  Queries and values are drawn as the authors draw them, normal with the variance 2 / D;
  the maps after them as torch draws convolutions.

  Args:
    dim: D; F is half of it, G an eighth, both rounded down; 1 where that is 0, which
      the authors' modules do not take.
    form: "image".
    variant: one of VARIANTS: "paper", "code_p" or "code_s".
    layout: "parallel" or "sequential".
    impl: as in `attend`.
    rngs: for the parameters.
  """

  refuses = {"positions": "places have no order: only what is there is read"}

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    variant: str = "paper",
    layout: str = "parallel",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_options(
      form=(form, FORMS),
      variant=(variant, VARIANTS),
      layout=(layout, LAYOUTS),
      impl=(impl, ("auto", *IMPLEMENTATIONS)),
    )
    inner, narrow = max(dim // 2, 1), max(dim // 8, 1)

    def kaiming(outputs):
      return nnx.Param(_KAIMING(rngs.params(), (dim, outputs)))

    self.channel_query = nnx.Param(kaiming(1)[...][:, 0])
    self.channel_value = kaiming(inner)
    self.spatial_query, self.spatial_value = kaiming(inner), kaiming(inner)
    deep, norm = variant == "code_s", narrow if variant == "code_s" else dim
    self.squeeze = linear.linear(inner, narrow, rngs=rngs) if deep else None
    self.up = linear.linear(narrow if deep else inner, dim, bias=deep, rngs=rngs)
    normed = "gain" in VARIANTS[variant]
    self.scale = nnx.Param(jnp.ones(norm)) if normed else None
    self.bias = nnx.Param(jnp.zeros(norm)) if normed else None
    self.variant, self.layout, self.impl = variant, layout, impl

  def project(self, x: Float[Array, "B R C D"], **context: Unpack[Context]) -> Heads:
    """Returns x as the values of one head."""
    tokens = contexts.accept(x, context, form="image", refuses=self.refuses)
    return Heads(None, None, tokens.x[..., None, :], tokens)

  def mix(self, heads: Heads) -> Float[Array, "B R C 1 D"]:
    """Returns `attend` of the values."""
    found: dict[str, Any] = {"gain": self.scale, "shift": self.bias}
    found |= {"up_bias": self.up.bias}
    if self.squeeze is not None:
      found |= {"squeeze": self.squeeze.kernel, "squeeze_bias": self.squeeze.bias}
    out = attend(
      heads.v[..., 0, :],
      self.channel_query[...],
      self.channel_value[...],
      self.up.kernel[...],
      self.spatial_query[...],
      self.spatial_value[...],
      variant=self.variant,
      layout=self.layout,
      impl=self.impl,
      **{name: found[name][...] for name in VARIANTS[self.variant]},
    )
    return out[..., None, :]

  def merge(self, out: Array, heads: Heads) -> Float[Array, "B R C D"]:
    """Returns the output of the one head."""
    return out[..., 0, :].astype(heads.tokens.x.dtype)

  def __call__(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> Float[Array, "B R C D"]:
    """Returns the layer's output; see `attnjax.contract.forms.image`."""
    return contexts.run(self, x, context)

  def weights(
    self, x: Float[Array, "B R C D"], **context: Unpack[Context]
  ) -> jax.Array:
    """Raises an error: there are no weights.

    Raises:
      NotImplementedError: always.
    """
    del x, context
    raise NotImplementedError(
      "polarized gates multiply each place: there are no weights of pairs of places"
    )
