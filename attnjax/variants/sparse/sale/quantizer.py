"""Low-bit codes of queries and keys, whose means over the prompt are taken out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8, UInt8

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype

GRANULARITIES = ("token", "group")
BITS = (2, 3, 4, 5, 6, 7, 8, 32)
# Queries in runs of 16 rows share a scale two by two, keys in a block four by four:
# those that a thread of the authors' tensor cores holds.
_RUN, _THREADS = 16, 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codes:
  """The codes of a prompt, code times scale being the centered token.

  Attributes:
    q: int8, (B, T, N, H); with 32 bits floats, which are the centered queries.
    k: as `q`, (B, T, K, H).
    q_scale: (B, T, N), 0 for a token that is 0.
    k_scale: (B, T, K).
    bias: (B, T, N), mean(q) . k of each centered key: what a score lost by centering.
    k_mean: (B, K, H), the mean key.
  """

  q: Any
  k: Any
  q_scale: Any
  k_scale: Any
  bias: Any
  k_mean: Any


def centered(
  x: Float[Array, "B T N H"], lengths: Int[Array, "B"] | None = None
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N H"]]:
  """Returns x without its mean over the tokens, 0 at padding, and the mean.

  Args:
    x: queries or keys.
    lengths: tokens of each row; all if None.
  """
  x = x.astype(accumulator_dtype(x))
  if lengths is None:
    mean = x.mean(axis=1)
    return x - mean[:, None], mean
  real = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None, None]
  count = jnp.maximum(lengths, 1).astype(x.dtype)[:, None, None]
  mean = jnp.where(real, x, 0).sum(axis=1) / count
  return jnp.where(real, x - mean[:, None], 0), mean


def quantize(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  *,
  lengths: Int[Array, "B"] | None = None,
  bits: int = 4,
  granularity: str = "token",
  block_k: int = 32,
) -> Codes:
  """Computes symmetric codes, round(x / s) with s = max |x| / (2^(bits - 1) - 1).

  Args:
    q: queries.
    k: keys; K divides N.
    lengths: tokens of each row; all if None.
    bits: one of BITS; 32 leaves the centered tokens as they are.
    granularity: "token", a scale for each token; or "group", the authors' default: of
      16 queries t and t + 8 share one, of `block_k` keys those of equal (t mod 8) / 2.
    block_k: keys of a block.

  Raises:
    ValueError: for bits and granularities that there are not, and groups of keys that
      do not divide a block.
  """
  check(bits, granularity, block_k)
  (q, q_mean), (k, k_mean) = (centered(x, lengths) for x in (q, k))
  B, T, N, H = q.shape
  mean = q_mean.reshape(B, k.shape[2], -1, H)
  bias = jnp.einsum("bkgh,btkh->btkg", mean, k, precision="highest").reshape(B, T, N)
  if bits == 32:
    one, other = (jnp.ones(x.shape[:3], x.dtype) for x in (q, k))
    return Codes(q, k, one, other, bias, k_mean)
  most = 2 ** (bits - 1) - 1
  sizes = [jnp.abs(x).max(axis=3) for x in (q, k)]
  if granularity == "group":
    sizes = [_shared(sizes[0], _RUN, 1), _shared(sizes[1], block_k, 2)]
  q_scale, k_scale = (x / most for x in sizes)
  q_codes, k_codes = (_codes(x, s, most) for x, s in zip((q, k), sizes))
  return Codes(q_codes, k_codes, q_scale, k_scale, bias, k_mean)


def check(bits: int, granularity: str, block_k: int) -> None:
  """Raises ValueError for what `quantize` does not take."""
  check_known("granularity", granularity, GRANULARITIES)
  if bits not in BITS:
    raise ValueError(f"bits = {bits}; they are one of {BITS}")
  if granularity == "group" and block_k % _THREADS:
    raise ValueError(f"block_k = {block_k}; groups of keys take a multiple of 8")


def _codes(x, size, most):
  safe = jnp.where(size > 0, size, 1)[..., None]
  return jnp.round(x * (most / safe)).astype(jnp.int8)


def _shared(size: Float[Array, "B T N"], run: int, adjacent: int) -> Array:
  """Returns the maxima of groups of tokens, at each token.

  Args:
    size: of each token.
    run: tokens of a run, a multiple of 8; a shorter last one has the tokens it has.
    adjacent: tokens side by side that share a maximum, also with those 8 and 16 later.
  """
  B, T, N = size.shape
  padded = jnp.pad(size, ((0, 0), (0, -T % run), (0, 0)))
  parts = padded.reshape(B, -1, run // _THREADS, _THREADS // adjacent, adjacent, N)
  most = parts.max(axis=(2, 4), keepdims=True)
  return jnp.broadcast_to(most, parts.shape).reshape(padded.shape)[:, :T]


def pack(codes: Int8[Array, "... H"]) -> UInt8[Array, "... h"]:
  """Returns codes of 4 bits, two in a byte, channel 2 i in the high half.

  Raises:
    ValueError: if the number of channels is odd.
  """
  if codes.shape[-1] % 2:
    raise ValueError(f"{codes.shape[-1]} channels; two go into a byte")
  half = jax.lax.bitcast_convert_type(codes, jnp.uint8) & jnp.uint8(15)
  return half[..., ::2] << jnp.uint8(4) | half[..., 1::2]


def unpack(packed: UInt8[Array, "... h"]) -> Int8[Array, "... H"]:
  """Returns the codes of `pack`."""
  both = jnp.stack([packed, packed << jnp.uint8(4)], axis=-1)
  signed = jax.lax.bitcast_convert_type(both, jnp.int8) >> jnp.int8(4)
  return signed.reshape(*packed.shape[:-1], -1)
