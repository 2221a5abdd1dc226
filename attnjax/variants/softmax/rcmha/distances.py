"""The parameters of the terms of distance."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from attnjax.core import positions

KINDS = ("learned", "sinusoids", "none")
_INIT = nnx.initializers.normal(0.02)


class Distances(nnx.Module):
  """The vectors u and w, the vectors and the biases of distances of `attend`.

  Args:
    dim: D, features of the sinusoids.
    heads: N.
    size: H.
    kind: "learned": u, vectors and biases are tables, 0 at the start; "sinusoids": u
      and w are drawn, vectors are projected; "none": no terms.
    most: greatest distance; those above count as it.
    own: False: u and w are arguments of a call.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    heads: int,
    size: int,
    *,
    kind: str,
    most: int,
    own: bool,
    rngs: nnx.Rngs,
  ):
    shape, learned, drawn = (heads, size), kind == "learned", kind == "sinusoids"

    def bias():
      return nnx.Param(_INIT(rngs.params(), shape) if drawn else jnp.zeros(shape))

    self.u = bias() if own and (learned or drawn) else None
    self.w = bias() if own and drawn else None
    self.vectors = nnx.Param(jnp.zeros((most + 1, *shape))) if learned else None
    self.biases = nnx.Param(jnp.zeros((most + 1, heads))) if learned else None
    self.project = (
      nnx.LinearGeneral(dim, shape, use_bias=False, kernel_init=_INIT, rngs=rngs)
      if drawn
      else None
    )
    self.dim, self.most = dim, most

  def __call__(
    self, tokens: int | None, given: tuple[Any, Any] | None = None
  ) -> dict[str, Array | None]:
    """Returns u, w, rel_k and rel_b of `attend`.

    Args:
      tokens: of a row, whose distances are wanted; None for all distances.
      given: u and w in place of the own ones.

    Raises:
      ValueError: if none are given, and the module has none of its own.
    """
    some = self.vectors is not None or self.project is not None
    if some and given is None and self.u is None:
      raise ValueError("own_biases = False: u and w are missing, `biases` of the call")
    own = (self.u, self.w) if given is None else given
    u, w, rel_k, rel_b = (
      None if x is None else x[...] for x in (*own, self.vectors, self.biases)
    )
    if self.project is not None:
      R = self.most + 1 if tokens is None else min(tokens, self.most + 1)
      rel_k = self.project(positions.sinusoids((R,), self.dim))
    return {"u": u, "w": w, "rel_k": rel_k, "rel_b": rel_b}
