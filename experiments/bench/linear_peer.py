"""The linear attention of flash-linear-attention, where it is installed."""

import warnings
from collections.abc import Iterator
from typing import Any

from experiments.bench import gpu_calls


def calls(capability: int, N: int) -> Iterator[tuple[str, gpu_calls.Call, int]]:
  """Yields (part, call with heads of 128, its tiles' width), with fla's choices."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      from fla.ops.common import chunk_h, chunk_o
  except ImportError:
    return
  wide = 128 if capability >= 90 else 64
  kernels = {
    "states": (chunk_h.chunk_fwd_kernel_h, 64, {}),
    "output": (chunk_o.chunk_fwd_kernel_o, 64, {}),
    "states back": (chunk_h.chunk_bwd_kernel_dh, 64, {"dh": "*fp32"}),
    "keys": (chunk_o.chunk_bwd_kernel_dqkwg, wide, {"h": "*fp32", "dh": "*fp32"}),
    "values": (chunk_o.chunk_bwd_kernel_dv, wide, {"dh": "*fp32"}),
  }
  for part, (kernel, width, kinds) in kernels.items():
    while not hasattr(kernel, "params"):
      kernel = kernel.fn
    yield part, _call(kernel, N, width, kinds), width


def _call(function, N: int, width: int, kinds) -> gpu_calls.Call:
  constants: dict[str, Any] = dict(H=N, HV=N, HQ=N, NG=1, B=1, K=128, V=128)
  constants |= dict(BT=64, BS=64, BK=width, BV=width, USE_G=True)
  constants |= dict(USE_INITIAL_STATE=True, STORE_FINAL_STATE=True)
  constants |= dict(STORE_INITIAL_STATE_GRADIENT=True, USE_FINAL_STATE_GRADIENT=True)
  names = [p.name for p in function.params]
  wide = dict.fromkeys(("g", "dg", "h0", "ht", "dht", "dh0"), "*fp32")
  kinds = {"scale": "fp32", "T": "i32"} | wide | kinds
  absent = ("g_gamma", "gk", "gv", "cu_seqlens", "split_offsets", "chunk_indices", "dw")
  absent += ("dv",) if "dw" in names else ()
  constants |= dict.fromkeys(absent)
  switches = [n for n in names if n.isupper() and n not in constants and len(n) > 2]
  constants = {n: c for n, c in constants.items() if n in names}
  constants |= dict.fromkeys(switches, False)
  signature = {
    n: "constexpr" if n in constants else kinds.get(n, "*bf16") for n in names
  }
  attributes = {
    (i,): [["tt.divisibility", 16]]
    for i, kind in enumerate(signature.values())
    if kind.startswith("*")
  }
  how = dict(num_warps=4, num_stages=3, ptx_version=88)
  return gpu_calls.Call(function, signature, constants, attributes, how)
