"""The pass of low-bit selection, over whole matrices."""

import jax.numpy as jnp

from pallas_kernels.low_bit_selection.mosaic_tpu import backward

__all__ = ["backward", "forward"]


def forward(
  q,
  k,
  q_scale,
  k_scale,
  bias,
  least,
  last,
  *,
  block_q,
  block_k,
  rounded,
  tiles,
):
  """Returns which candidates hold a score above its row's threshold, (B, N, Q, S)."""
  del tiles
  (B, T, N, _), Q, S = q.shape, last.shape[1], -(-q.shape[1] // block_k)
  k, k_scale = (jnp.repeat(x, N // k.shape[2], axis=2) for x in (k, k_scale))
  product = jnp.einsum("btnh,bsnh->bnts", q.astype(jnp.float32), k.astype(jnp.float32))
  one, two, lost, least = (x.swapaxes(1, 2) for x in (q_scale, k_scale, bias, least))
  unit, lost = one[..., None] * two[:, :, None], lost[:, :, None]
  if rounded:
    whole = jnp.round(lost / jnp.where(unit > 0, unit, 1))
    score = jnp.where(unit > 0, (product + whole) * unit, lost)
  else:
    score = product * unit + lost
  passes = score > least[..., None]
  widths = (0, 0), (0, 0), (0, Q * block_q - T), (0, S * block_k - T)
  passes = jnp.pad(passes, widths).reshape(B, N, Q, block_q, S, block_k).any((3, 5))
  number = jnp.arange(S)
  inside = (number >= 1) & (number <= last[:, None, :, None])
  return (passes & inside).astype(jnp.int8)
