"""The decay of each head in each layer: a table, not parameters."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax.contract import check_known

SLOPE_KINDS = ("alibi", "minimax", "fla", "none")


def slopes(
  heads: int,
  kind: str = "alibi",
  index: Int[Array, ""] | int = 0,
  layers: int = 1,
) -> Float[Array, "N"]:
  """Returns the slopes (N,), float32, of the layer `index` of `layers`.

  Args:
    heads: N.
    kind: "alibi": TransNormer's, 2^(-8 (h + 1) / N) if N is a power of two, else
      the slopes of P, the largest power of two below, and every second one of 2 P;
      "minimax": 2^(-8 (h + 1) / N) for every N; both fall with depth to about 0.
      "fla": flash-linear-attention's, 8 h / N, which falls by 1 / layers a layer.
      "none": zeros, which is no decay.
    index: number of the layer, from 0; it may be traced.
    layers: number of the model's layers; if 1, the slopes are the ones of layer 0.

  Raises:
    ValueError: if `kind` is unknown or `index` is not below `layers`.
  """
  check_known("slope_kind", kind, SLOPE_KINDS)
  if isinstance(index, int) and not 0 <= index < layers:
    raise ValueError(f"index = {index} is not a layer of layers = {layers}")
  index = jnp.float32(0) if layers == 1 else jnp.asarray(index, jnp.float32)
  match kind:
    case "none":
      base, factor = [0.0] * heads, 1.0
    case "fla":
      base, factor = [8 / heads * h for h in range(heads)], 1 - index / layers
    case "minimax":
      base, factor = _geometric(heads), 1 - index / (layers - 1 + 1e-5) + 1e-5
    case _:
      base, factor = _interleaved(heads), 1 - index / max(layers - 1, 1) + 1e-5
  return jnp.array(base, jnp.float32) * (1.0 if layers == 1 else factor)


def _geometric(heads):
  return [2 ** (-8 * (h + 1) / heads) for h in range(heads)]


def _interleaved(heads):
  power = 2 ** math.floor(math.log2(heads))
  return _geometric(power) + _geometric(2 * power)[::2][: heads - power]
