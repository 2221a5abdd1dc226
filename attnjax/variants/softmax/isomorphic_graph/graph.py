"""The modules: perceptrons of heads, the graph network, and the adapter around it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_options
from attnjax.core.dtypes import accumulator_dtype

# U(-I^-0.5, I^-0.5) of I inputs, PyTorch's default.
_INIT = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
EPSILON = 1e-5  # of the norms
ACTIVATIONS: dict[str, Callable] = {
  "relu": jax.nn.relu,
  "tanh": jnp.tanh,
  "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


class HeadMaps(nnx.Module):
  """A linear map for each head: (B, T, N, I) to (B, T, N, O)."""

  def __init__(self, heads: int, inputs: int, outputs: int, bias: bool, rngs: nnx.Rngs):
    def kernel(key):
      return _INIT(key, (inputs, outputs), jnp.float32)

    keys = jax.random.split(rngs.params(), heads)
    self.kernel = nnx.Param(jax.vmap(kernel)(keys))
    self.bias = nnx.Param(jnp.zeros((heads, outputs))) if bias else None

  def __call__(self, x: Float[Array, "B T N I"]) -> Float[Array, "B T N O"]:
    """Returns the maps of all heads, in the wide type."""
    wide = accumulator_dtype(x)
    y = jnp.einsum("btni,nio->btno", x.astype(wide), self.kernel[...].astype(wide))
    return y if self.bias is None else y + self.bias[...].astype(wide)[None, None]


class HeadMLPs(nnx.Module):
  """down(silu(norm(up x))) for each head; for GIN with the norm.

  Args:
    heads: N.
    inputs: of a head.
    hidden: width between the maps.
    outputs: of a head.
    bias: of both maps.
    norm: an RMS norm between them, whose scales (N, hidden) are of each head.
    rngs: for the parameters.
  """

  def __init__(
    self,
    heads: int,
    inputs: int,
    hidden: int,
    outputs: int,
    *,
    bias: bool,
    norm: bool,
    rngs: nnx.Rngs,
  ):
    self.up = HeadMaps(heads, inputs, hidden, bias, rngs)
    self.down = HeadMaps(heads, hidden, outputs, bias, rngs)
    self.scales = nnx.Param(jnp.ones((heads, hidden))) if norm else None

  def __call__(self, x: Float[Array, "B T N I"]) -> Float[Array, "B T N O"]:
    """Returns the perceptrons' outputs, in the wide type."""
    y = self.up(x)
    if self.scales is not None:
      mean = jnp.mean(y * y, axis=-1, keepdims=True)
      y = y * jax.lax.rsqrt(mean + EPSILON) * self.scales[...][None, None]
    return self.down(jax.nn.silu(y))


class GraphNetwork(nnx.Module):
  """GIN layers on any edges, between maps D -> E and E -> D.

    o = epsilon u + sum of u along edges
    u <- act(o + W_2 act(W_1 o + b_1) + b_2)         (+ u with `residual`)

  The maps are missing if E = D. "prelu" has one slope for all layers, 0.25 at first.

  Args:
    dim: D.
    hidden: E.
    layers: GIN layers.
    multiplier: width of the perceptrons as a multiple of E.
    activation: "prelu", or one of ACTIVATIONS.
    residual: whether a layer's input is added to its output.
    rngs: for the parameters.
  """

  def __init__(
    self,
    dim: int,
    *,
    hidden: int,
    layers: int = 1,
    multiplier: float = 1.0,
    activation: str = "prelu",
    residual: bool = False,
    rngs: nnx.Rngs,
  ):
    check_options(activation=(activation, ("prelu", *ACTIVATIONS)))

    def linear(a, b):
      return nnx.Linear(a, b, kernel_init=_INIT, rngs=rngs)

    wide = int(multiplier * hidden)
    self.into = linear(dim, hidden) if hidden != dim else None
    self.out = linear(hidden, dim) if hidden != dim else None
    self.up = nnx.List([linear(hidden, wide) for _ in range(layers)])
    self.down = nnx.List([linear(wide, hidden) for _ in range(layers)])
    self.epsilon = nnx.Param(jnp.zeros(layers))
    self.slope = nnx.Param(jnp.full((), 0.25)) if activation == "prelu" else None
    self.activation, self.residual, self.width = activation, residual, hidden

  def __call__(
    self,
    h: Float[Array, "B T D"],
    send: Callable[[int, Float[Array, "B T E"]], Float[Array, "B T E"]],
  ) -> Float[Array, "B T D"]:
    """Returns the network's output.

    Args:
      h: nodes.
      send: (number of the layer, its input u) to the sums of u along the edges.
    """
    u = h if self.into is None else self.into(h)
    for index, (up, down) in enumerate(zip(self.up, self.down)):
      o = self.epsilon[...][index] * u + send(index, u)
      o = self._act(o + down(self._act(up(o))))
      u = o + u if self.residual else o
    return u if self.out is None else self.out(u)

  def _act(self, x):
    if self.slope is None:
      return ACTIVATIONS[self.activation](x)
    return jnp.where(x > 0, x, self.slope[...].astype(x.dtype) * x)


class HeadAggregate(nnx.Module):
  """A learned edge weight from the weights of all heads: N -> F -> 1, and a sigmoid."""

  def __init__(self, heads: int, hidden: int = 128, *, rngs: nnx.Rngs):
    self.up = nnx.Linear(heads, hidden, kernel_init=_INIT, rngs=rngs)
    self.down = nnx.Linear(hidden, 1, kernel_init=_INIT, rngs=rngs)

  def __call__(self, a: Float[Array, "B N T S"]) -> Float[Array, "B T S"]:
    """Returns the weights of edges between 0 and 1."""
    hidden = jax.nn.relu(self.up(jnp.moveaxis(a, 1, -1)))
    return jax.nn.sigmoid(self.down(hidden)[..., 0])


class Adapter(nnx.Module):
  """scale RMSNorm(network(h)), which is added to h: what a fine-tuning trains.

  The scale grows linearly over the layers of the model from `first` to `last`, and is
  learned from there on; where it is 0 the adapter leaves the model as it is.

  Args:
    network: the graph network.
    dim: D.
    aggregate: of "learned" edges, or None.
    first: scale of the model's first layer.
    last: scale of its last layer.
    layers: of the model.
    rngs: for the parameters.
  """

  def __init__(
    self,
    network: GraphNetwork,
    dim: int,
    *,
    aggregate: HeadAggregate | None,
    first: float,
    last: float,
    layers: int,
    rngs: nnx.Rngs,
  ):
    self.network, self.aggregate = network, aggregate
    self.norm = nnx.RMSNorm(dim, epsilon=EPSILON, rngs=rngs)
    self.change = nnx.Param(jnp.zeros(()))  # of the scale, from its start
    self.first, self.step = first, (last - first) / max(layers - 1, 1)

  def __call__(
    self, h: Float[Array, "B T D"], send: Any, index: Any
  ) -> Float[Array, "B T D"]:
    """Returns what is added to h; `index` is the number of the model's layer."""
    scale = self.first + self.step * index + self.change[...]
    return scale.astype(h.dtype) * self.norm(self.network(h, send))
