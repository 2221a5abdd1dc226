"""The peer of the TPU kernels: jax's splash attention."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import tpu_schedule


def splash(
  machine: str, T: int, step: tuple[int, int], seen: np.ndarray | None = None
) -> dict[str, tpu_schedule.Kernel]:
  """Compiles jax's splash attention with its fused backward kernel.

  Args:
    machine: a key of `bundles.TOPOLOGIES`.
    T: number of queries and of keys.
    step: (queries, keys) of a grid step.
    seen: a mask (T, T) as an array; causal if None.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel,
    splash_attention_mask,
  )

  block_q, block_k = step
  inner = min(512, block_k)
  sizes = splash_attention_kernel.BlockSizes(
    block_q=block_q,
    block_kv=block_k,
    block_kv_compute=inner,
    block_q_dkv=block_q,
    block_kv_dkv=block_k,
    block_kv_dkv_compute=inner,
    use_fused_bwd_kernel=True,
  )
  if seen is None:
    mask: Any = splash_attention_mask.CausalMask((T, T))
  else:
    mask = splash_attention_mask.NumpyMask(seen)
  attend = splash_attention_kernel.make_splash_mha(
    splash_attention_mask.MultiHeadMask([mask]),
    block_sizes=sizes,
    head_shards=1,
    q_seq_shards=1,
  )
  x = jax.ShapeDtypeStruct((1, T, 128), jnp.bfloat16)

  def gradient(q, k, v, g):
    return jax.vjp(lambda *qkv: attend(*qkv), q, k, v)[1](g)

  _, kernels = tpu_schedule.compile_for(machine, gradient, (x, x, x, x))
  named = {"forward": "fwd", "backward": "dkv"}
  return {
    kernel: next(x for x in kernels if x.name.startswith(f"splash_mha_{part}"))
    for kernel, part in named.items()
  }
