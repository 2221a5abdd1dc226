"""Gates: a tensor times, or plus, an activated projection of the layer's input."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options

ACTIVATIONS = {
  "sigmoid": jax.nn.sigmoid,
  "silu": jax.nn.silu,
  "ns_sigmoid": lambda x: 0.5 + 0.5 * jax.nn.sigmoid(x),  # "not sparse": never closes
}
COMBINATIONS = {"mul": jnp.multiply, "add": jnp.add}


def check(act: str, combine: str) -> None:
  """Raises ValueError for a name that is not in ACTIVATIONS or COMBINATIONS."""
  check_options(act=(act, ACTIVATIONS), combine=(combine, COMBINATIONS))


def apply(
  x: Float[Array, "..."],
  gate: Float[Array, "..."],
  *,
  act: str = "sigmoid",
  combine: str = "mul",
) -> Float[Array, "..."]:
  """Returns x combined with act(gate), in x's type.

  It computes in float32, for float64 in float64.

  Raises:
    ValueError: if `gate` does not broadcast to x, or a name is unknown.
  """
  check(act, combine)
  if gate.ndim != x.ndim or any(g not in (1, n) for g, n in zip(gate.shape, x.shape)):
    raise ValueError(f"gate {gate.shape} does not broadcast to {x.shape}")
  wide = jnp.promote_types(x.dtype, jnp.float32)
  opened = ACTIVATIONS[act](gate.astype(wide))
  return COMBINATIONS[combine](x.astype(wide), opened).astype(x.dtype)


class Gate(nnx.Module):
  """A gate of y (B, T, *shape), computed from the layer's input x (B, T, D).

  An axis of `shape` of size 1 broadcasts to the axis of y. `values` computes the gate
  before its activation.
  """

  def __init__(
    self,
    dim: int,
    shape: tuple[int, ...],
    *,
    act: str = "sigmoid",
    combine: str = "mul",
    from_input: bool = True,  # False: a parameter, zero at the start
    bias: bool = False,
    rngs: nnx.Rngs,
  ):
    check(act, combine)
    self.act, self.combine = act, combine
    if from_input:
      init = nnx.initializers.normal(0.02)
      self.values = nnx.LinearGeneral(
        dim, shape, use_bias=bias, kernel_init=init, rngs=rngs
      )
    else:
      self.values = Constant(shape)

  def __call__(
    self, x: Float[Array, "B T D"], y: Float[Array, "B T ..."]
  ) -> Float[Array, "B T ..."]:
    """Returns y combined with its gate."""
    return apply(y, self.values(x), act=self.act, combine=self.combine)


class Constant(nnx.Module):
  """A learned array (*shape,), broadcast to every token; it is initialised to zero."""

  def __init__(self, shape: tuple[int, ...]):
    self.value = nnx.Param(jnp.zeros(shape))

  def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T ..."]:
    """Returns the parameter, broadcast to (B, T, *shape)."""
    return jnp.broadcast_to(self.value[...], (*x.shape[:2], *self.value.shape))
