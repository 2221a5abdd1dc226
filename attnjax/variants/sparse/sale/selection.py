"""The blocks of keys in which some estimated score is large."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax import attention, backends
from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.scores import Scores
from attnjax.variants.sparse.sale import definition
from attnjax.variants.sparse.sale.quantizer import Codes, quantize
from attnjax.variants.sparse.sale.regions import Sizes
from pallas_kernels import low_bit_selection

IMPLEMENTATIONS = attention.IMPLEMENTATIONS
# A head whose tau is less is dense.
LEAST = 1e-5
_ROWS = 128  # queries whose scores are held at a time


def select(
  q: Float[Array, "B T N H"],
  k: Float[Array, "B T K H"],
  *,
  tau: Any = 0.004,
  lengths: Int[Array, "B"] | None = None,
  block_q: int = 64,
  block_k: int = 32,
  local: int = 128,
  segment: int = 128,
  bits: int = 4,
  granularity: str = "token",
  impl: str = "auto",
) -> Bool[Array, "B N Q S"]:
  """Chooses the blocks of keys that each block of queries attends to.

  Args:
    q: queries of a prompt.
    k: its keys; K divides N.
    tau: the least weight that counts, beside the mass of what is computed anyway: a
      number, or (N,) or (B, N); a head of less than 1e-5 takes all blocks.
    lengths: tokens of each row, 0, 1, 2, ...; all if None.
    block_q: queries of a block.
    block_k: keys of a block.
    local: last keys that are taken anyway, those of the queries' block included.
    segment: the candidates are a multiple of so many keys.
    bits: of the codes; 32 for exact scores.
    granularity: of the codes' scales, "token" or "group".
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: for sizes that do not fit each other, and unknown names.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  given = {"block_q": block_q, "block_k": block_k, "local": local, "segment": segment}
  sizes, how = Sizes(**given), {"bits": bits, "granularity": granularity}
  if impl == "reference":
    given |= {"tau": tau, "lengths": lengths}
    return definition.reference_select(q, k, **given, **how)
  q, k = jax.lax.stop_gradient((q, k))
  _, lse = near(q, k, k[..., :1], sizes, lengths, impl)
  large = kept(q, k, lse, tau, sizes, lengths, how, impl)
  return large | sizes.anyway(q.shape[1], lengths)


def near(
  q, k, v, sizes: Sizes, lengths, impl: str
) -> tuple[Float[Array, "B T N V"], Float[Array, "B T N"]]:
  """Computes attention to what is computed anyway: (out, lse), exact."""
  scores = Scores(sizes.mask(q.shape[1], lengths))
  return attention.attend(q, k, v, scores, impl=impl)


def kept(
  q, k, lse, tau, sizes: Sizes, lengths, how, impl: str
) -> Bool[Array, "B N Q S"]:
  """Returns the candidates in which an estimated score passes its row's threshold.

  Args:
    q: queries.
    k: keys.
    lse: of `near`, (B, T, N).
    tau: as in `select`.
    sizes: of blocks.
    lengths: as in `select`.
    how: `bits` and `granularity`.
    impl: "xla", a name of kernels, or "auto".
  """
  T = q.shape[1]
  found = quantize(q, k, lengths=lengths, block_k=sizes.block_k, **how)
  least = thresholds(q, lse, tau, found.k_mean)
  rounded = how["granularity"] == "group" and how["bits"] < 32

  def plain(*arrays):
    del arrays
    large = excesses(found, least, sizes, rounded=rounded) > 0
    return large & sizes.candidates(T, lengths)

  how = {"block_q": sizes.block_q, "block_k": sizes.block_k, "rounded": rounded}
  run = backends.choose(
    impl,
    {"xla": plain},
    lambda impl: low_bit_selection.prepared(found.q, found.k, impl=impl, **how),
  )
  scales = found.q_scale, found.k_scale, found.bias
  return run(found.q, found.k, *scales, least, sizes.last(T, lengths))


def thresholds(q, lse, tau, k_mean) -> Float[Array, "B T N"]:
  """Returns the least raw score that counts in each row, +inf for padding.

    exp(c (score - M)) / L > tau   <=>   score > M + ln(tau L) / c,    lse = c M + ln L

  The estimated scores are of centered keys: c q . mean(k) less than those of `lse`.

  Args:
    q: queries (B, T, N, H).
    lse: of what is computed anyway, -inf for padding.
    tau: a number, (N,) or (B, N).
    k_mean: the mean keys, (B, K, H).
  """
  B, T, N, H = q.shape
  wide = q.astype(lse.dtype).reshape(B, T, k_mean.shape[1], -1, H)
  shift = jnp.einsum("btkgh,bkh->btkg", wide, k_mean, precision="highest")
  tau = jnp.broadcast_to(jnp.asarray(tau, lse.dtype), (B, N))[:, None]
  log = jnp.where(tau < LEAST, -jnp.inf, jnp.log(jnp.maximum(tau, LEAST)))
  padding = lse == -jnp.inf
  found = (jnp.where(padding, 0, lse) + log) * H**0.5 - shift.reshape(B, T, N)
  return jnp.where(padding, jnp.inf, found)


def excesses(
  codes: Codes, least: Float[Array, "B T N"], sizes: Sizes, *, rounded: bool
) -> Float[Array, "B N Q S"]:
  """Computes by how much the largest estimated score of a block passes its threshold.

  In tiles of queries: O(T) memory beside the result.

  Args:
    codes: of the prompt.
    least: the threshold of each row.
    sizes: of blocks.
    rounded: whether the bias is rounded to a multiple of the product of scales.
  """
  (B, T, N, _), K = codes.q.shape, codes.k.shape[2]
  Q, S = sizes.blocks(T)
  step = max(1, _ROWS // sizes.block_q)
  rows, columns = -Q % step + Q, S * sizes.block_k
  dtype = accumulator_dtype(least)

  def cut(x, fill=0):
    """Returns (tiles, B, tokens, K, G, ...) of an array of query heads."""
    widths = [(0, 0), (0, rows * sizes.block_q - T), *[(0, 0)] * (x.ndim - 2)]
    x = jnp.pad(x, widths, constant_values=fill)
    x = x.reshape(B, -1, step * sizes.block_q, K, N // K, *x.shape[3:])
    return jnp.moveaxis(x, 1, 0)

  # Products of codes are exact in any type of floats that holds the codes.
  k = codes.k.astype(dtype)
  bias = codes.bias.reshape(B, T, K, -1).transpose(0, 2, 3, 1)[:, :, :, None]
  k_scale = codes.k_scale.transpose(0, 2, 1)[:, :, None, None]

  def tile(part):
    q, scale, bound = part
    scale, bound = (x.transpose(0, 2, 3, 1)[..., None] for x in (scale, bound))
    product = jnp.einsum("btkgh,bskh->bkgts", q.astype(dtype), k, precision="highest")
    score = estimated(product, scale * k_scale, bias, rounded) - bound
    widths = [(0, 0)] * 4 + [(0, columns - T)]
    score = jnp.pad(score, widths, constant_values=-jnp.inf)
    blocks = score.reshape(B, N, step, sizes.block_q, S, sizes.block_k)
    return blocks.max(axis=(3, 5))

  given = cut(codes.q), cut(codes.q_scale), cut(least, jnp.inf)
  found = jnp.moveaxis(jax.lax.map(tile, given), 0, 2)
  return found.reshape(B, N, rows, S)[:, :, :Q]


def estimated(product: Array, scale: Array, bias: Array, rounded: bool) -> Array:
  """Returns the scores of products of codes, with what centering took from them."""
  if not rounded:
    return product * scale + bias
  safe = jnp.where(scale > 0, scale, 1)
  return jnp.where(scale > 0, (product + jnp.round(bias / safe)) * scale, bias)
