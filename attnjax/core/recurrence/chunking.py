"""Sequences cut in chunks of equal length."""

import jax
import jax.numpy as jnp


def split(
  x: jax.Array, number: int, size: int, fill: float = 0.0, mode: str = "constant"
) -> jax.Array:
  """Splits (B, T, ...) to (number, B, size, ...).

  Args:
    x: at most number x size tokens.
    number: of chunks.
    size: tokens of a chunk.
    fill: pads the last chunk.
    mode: "constant" pads by `fill`, "edge" by the last token.
  """
  widths = ((0, 0), (0, number * size - x.shape[1])) + ((0, 0),) * (x.ndim - 2)
  more = {"constant_values": fill} if mode == "constant" else {}
  x = jnp.pad(x, widths, mode=mode, **more)
  return jnp.moveaxis(x.reshape(x.shape[0], number, size, *x.shape[2:]), 1, 0)
