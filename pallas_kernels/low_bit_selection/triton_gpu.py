"""Low-bit selection on GPUs: a Triton kernel called through jax-triton."""

import dataclasses

import jax
import jax.numpy as jnp

from pallas_kernels import calling
from pallas_kernels.low_bit_selection.triton_gpu_kernel import select_kernel

# Queries of a block and channels that a program holds, at most.
MOST_ROWS, MOST_WIDTH = 256, 512


@dataclasses.dataclass(frozen=True)
class Tiles:
  """The sizes of what a program works on.

  Attributes:
    columns: keys of a step, a power of two, whole blocks.
    warps: of 32 threads.
    stages: steps in flight from memory, the current one included.
  """

  columns: int
  warps: int = 4
  stages: int = 3


def supports(q, k, block_q: int, block_k: int) -> None:
  """Raises NotImplementedError, with the reason, for what the kernel cannot do."""
  calling.check_types("triton", ("int8",), q=q, k=k)
  if block_q > MOST_ROWS:
    raise NotImplementedError(
      f"impl 'triton': block_q is {block_q}; a program holds {MOST_ROWS} queries"
    )
  if block_k & (block_k - 1) or block_k > MOST_ROWS:
    raise NotImplementedError(
      f"impl 'triton': block_k is {block_k}; it takes powers of two up to {MOST_ROWS}"
    )
  if q.shape[3] > MOST_WIDTH:
    raise NotImplementedError(
      f"impl 'triton': H is {q.shape[3]}; a program holds {MOST_WIDTH} channels"
    )


def fitting(q, k, block_q: int, block_k: int) -> Tiles:
  """Returns the default tiles: two blocks of 32 keys, eight warps for large ones."""
  del k
  wide = block_q * q.shape[3] > 64 * 128
  return Tiles(max(block_k, 64), warps=8 if wide else 4, stages=2 if wide else 3)


def forward(
  q,
  k,
  q_scale,
  k_scale,
  bias,
  least,
  last,
  *,
  block_q: int,
  block_k: int,
  rounded: bool,
  tiles: Tiles,
):
  """Computes the map, int8 (B, N, Q, S); the arrays are those of `prepared`.

  Raises:
    ValueError: if tiles do not fit the blocks.
  """
  _check(tiles.columns, block_k)
  (B, T, N, H), K, Q = q.shape, k.shape[2], last.shape[1]
  S = -(-T // block_k)
  return calling.triton(
    q,
    k,
    *(x.astype(jnp.float32).swapaxes(1, 2) for x in (q_scale, k_scale, bias, least)),
    last.astype(jnp.int32),
    kernel=select_kernel,
    out_type=jax.ShapeDtypeStruct((B, N, Q, S), jnp.int8),
    grid=(Q * B * N,),
    name="low_bit_selection",
    T=T,
    Q=Q,
    S=S,
    batches=last.shape[0],
    N=N,
    K=K,
    H=H,
    WIDTH=max(32, _power(H)),
    ROWS=max(16, _power(block_q)),
    COLUMNS=tiles.columns,
    BLOCK_Q=block_q,
    BLOCK_K=block_k,
    ROUNDED=rounded,
    warps=tiles.warps,
    stages=tiles.stages,
  )


def _check(size: int, block_k: int) -> None:
  if size < 16 or size & (size - 1) or size % block_k:
    raise ValueError(
      f"tiles.columns {size}; it must be a power of two, at least 16, and whole blocks"
      f" of {block_k}"
    )


def _power(size: int) -> int:
  """Returns the least power of two that is not less."""
  return 1 << (size - 1).bit_length()


def backward(*arrays, **constants):
  """Raises NotImplementedError: what is selected has no derivative."""
  raise NotImplementedError("a selection of blocks has no derivative")


KERNEL = calling.Kernel("triton", forward, backward, supports, fitting)
