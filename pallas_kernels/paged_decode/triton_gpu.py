"""Attention to pages on GPUs: a Triton kernel called through jax-triton."""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.flash.triton_gpu.decode import PROGRAMS, joined
from pallas_kernels.paged_decode import triton_gpu_kernel as kernels
from pallas_kernels.paged_decode.lists import visited

DTYPES = ("float32", "bfloat16", "float16")
WIDEST = 256


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The tile sizes of the kernel.

  Attributes:
    tokens: of a tile of keys, a power of two, at least 16.
    rows: heads of a group that share a tile, a power of two, at least 16.
    parts: programs that share the pages of a list.
    warps: of 32 threads.
    stages: tiles in flight from memory, the current one included.
  """

  tokens: int
  rows: int
  parts: int
  warps: int = 4
  stages: int = 3


@dataclasses.dataclass(frozen=True)
class Form:
  """The constants of a compiled kernel: sizes as in `forward`, and those of tiles.

  Attributes:
    lists: groups of heads that read the same keys, by one list.
    width: elements of a tile of queries and keys, a power of two.
    width_v: of a tile of values.
    precision: of products.
  """

  N: int
  K: int
  G: int
  H: int
  V: int
  lists: int
  page: int
  scale: float
  parts: int
  tokens: int
  rows: int
  width: int
  width_v: int
  precision: str

  @classmethod
  def of(cls, q, k, v, starts, page: int, scale: float, tiles: Tiles) -> "Form":
    """Returns the constants for these arrays."""
    (_, N, H), (_, K, V), G = q.shape, v.shape, starts.shape[1]
    widths = (max(16, _power(size)) for size in (H, V))
    # Three products of the tensor cores' 19-bit floats give float32's precision.
    precision = "tf32x3" if q.dtype == jnp.float32 else "ieee"
    sizes = N, K, G, H, V, max(G, K), page, float(scale)
    return cls(*sizes, tiles.parts, tiles.tokens, tiles.rows, *widths, precision)


def supports(q, k, v, starts, page: int) -> None:
  """Raises NotImplementedError with the reason for what the kernel cannot do."""
  del starts, page
  calling.check_types("triton", DTYPES, q=q, k=k, v=v)
  for name, x in (("H", k), ("V", v)):
    if x.shape[2] > WIDEST:
      raise NotImplementedError(
        f"impl 'triton': {name} is {x.shape[2]}; a program holds {WIDEST} at most"
      )


def fitting(q, k, v, starts, page: int) -> Tiles:
  """Returns the default tiles for these arrays, or their shapes."""
  B, N, _ = q.shape
  lists = max(k.shape[1], starts.shape[1])
  rows = min(64, max(16, _power(N // lists)))
  width = max(_power(k.shape[2]), _power(v.shape[2]))
  # Three products for one in float32 need more registers.
  wide = q.dtype.itemsize == 4
  tokens = max(16, min(128, 2 ** (12 if wide else 14) // width))
  blocks = B * lists * -(-(N // lists) // rows)
  most = -(-starts.shape[2] * page // tokens)
  parts = max(1, min(-(-PROGRAMS // blocks), -(-most // 2)))
  # Of heads of 256 a tile of 16 rows takes the registers of eight warps.
  warps = 8 if wide and width >= 256 else 4
  return Tiles(tokens, rows, parts, warps, stages=2 if wide else 3)


def forward(q, k, v, starts, counts, *, page: int, scale: float, scores: bool, tiles):
  """Computes (out, lse) and, with `scores`, the tokens' greatest weights in groups.

  Args:
    q: (B, N, H).
    k: (Z, K, H).
    v: (Z, K, V).
    starts: int32, (B, G, M), first tokens of pages; in bounds also where count is 0.
    counts: int32, (B, G, M), tokens of pages, 0 to `page`.
    page: tokens of a page at most.
    scale: what q . k is multiplied by.
    scores: whether the weights (B, max(G, K), M page) float32 are computed.
    tiles: sizes; None for `fitting`.
  """
  (B, N, _), (_, K, V), (_, G, M) = q.shape, v.shape, starts.shape
  tiles = tiles or fitting(q, k, v, starts, page)
  _check(tiles)
  lists = max(G, K)
  group = N // lists
  lines = B, lists, tiles.parts, group
  float32 = jnp.float32
  shapes = [(*lines, V), lines, lines] + [(B, N, M * page)] * scores
  found = calling.triton(
    q,
    k,
    v,
    starts,
    counts,
    visited(counts),
    kernel=kernels.scores_kernel if scores else kernels.paged_kernel,
    out_type=tuple(jax.ShapeDtypeStruct(shape, float32) for shape in shapes),
    grid=(B * lists * -(-group // tiles.rows) * tiles.parts,),
    name="paged_decode",
    warps=tiles.warps,
    stages=tiles.stages,
    M=M,
    F=Form.of(q, k, v, starts, page, scale, tiles),
  )
  out, top, total = joined(*found[:3], None)
  lse = jnp.where(total > 0, top + jnp.log(jnp.where(total > 0, total, 1)), -jnp.inf)
  out, lse = out.reshape(B, N, V).astype(v.dtype), lse.reshape(B, N)
  return out, lse, *(_weights(x, lse, counts, lists, page) for x in found[3:])


def _weights(logits, lse, counts, lists: int, page: int):
  """Returns the greatest weights (B, lists, M page) of scores (B, N, M page)."""
  B, _, S = logits.shape
  finite = jnp.where(lse == -jnp.inf, 0, lse)[..., None]
  most = jnp.exp(logits - finite).reshape(B, lists, -1, S).max(axis=2)
  inside = jnp.arange(page) < counts[..., None]
  return jnp.where(inside.reshape(B, -1, S), most, 0)


def backward(*arrays, **constants):
  """Raises NotImplementedError: derivatives are those of the plain form."""
  raise NotImplementedError("the derivatives of attention to pages are in plain JAX")


def _check(tiles: Tiles) -> None:
  """Raises ValueError, naming value and rule, for tiles that cannot run."""
  for field in ("tokens", "rows"):
    value = getattr(tiles, field)
    if value < 16 or value & (value - 1):
      raise ValueError(f"tiles.{field} {value} must be a power of two, at least 16")
  if tiles.parts < 1:
    raise ValueError(f"tiles.parts {tiles.parts} must be at least 1")


def _power(size: int) -> int:
  """Returns the least power of two that is at least `size`."""
  return 1 << (size - 1).bit_length()


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
