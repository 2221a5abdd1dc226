"""The softmax kernels of flash-linear-attention, where it is installed."""

import warnings

from experiments.bench.gpu_calls import Call


def calls(capability: int, H: int, V: int) -> list[tuple[str, Call, tuple, int]]:
  """Returns [(part, call, (block_q, block_k), loop index)]; [] where fla is missing."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      from fla.ops.attn import parallel
  except ImportError:
    return []
  # fla's own choices for these chips.
  sizes = {80: ((128, 32, 4), (64, 32, 4))}
  first, second = sizes.get(capability, ((128, 64, 8), (128, 64, 8)))
  kernels = {
    "forward": (parallel.parallel_attn_fwd_kernel, first),
    "queries": (parallel.parallel_attn_bwd_kernel_dq, second),
    "keys": (parallel.parallel_attn_bwd_kernel_dkv, second),
  }
  table = []
  for part, (kernel, (BT, BS, warps)) in kernels.items():
    last = -1 if part == "keys" else 0  # its keys' kernel begins at the diagonal
    table.append((part, _call(kernel.fn, H, V, BT, BS, warps), (BT, BS), last))
  return table


def _call(function, H, V, BT, BS, warps) -> Call:
  constants = dict(H=16, HQ=16, G=1, K=H, V=V, BT=BT, BS=BS, BK=H, BV=V, B=1, W=None)
  constants |= dict.fromkeys(
    ("g_cumsum", "dg_cumsum", "sink_bias", "cu_seqlens", "chunk_indices")
  )
  switches = ("USE_G", "USE_SINK_BIAS", "USE_WINDOW", "IS_VARLEN")
  constants |= dict.fromkeys(switches, False)
  names = [p.name for p in function.params]
  constants = {n: c for n, c in constants.items() if n in names}
  kinds = {"scale": "fp32", "T": "i32", "lse": "*fp32", "delta": "*fp32"}
  signature = {
    n: "constexpr" if n in constants else kinds.get(n, "*bf16") for n in names
  }
  attributes = {
    (i,): [["tt.divisibility", 16]]
    for i, kind in enumerate(signature.values())
    if kind.startswith("*")
  }
  options = dict(num_warps=warps, num_stages=3, ptx_version=88)
  return Call(function, signature, constants, attributes, options)
