"""SALE's quantizer against the authors' kernels, whose layout is (B, heads, T, H)."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.variants.sparse import sale


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  for name, case in meta["cases"].items():
    q, k = (jnp.asarray(arrays[f"in.{name}.{x}"]).swapaxes(1, 2) for x in "qk")
    options = {"granularity": case["mode"], "block_k": case["block"] or 32}
    codes = jax.jit(lambda q, k, options=options: sale.quantize(q, k, **options))(q, k)
    for key, value in _results(codes, k, case["mode"]).items():
      yield f"out.{name}.{key}", value.swapaxes(1, 2), arrays[f"out.{name}.{key}"]


def _results(codes, k, mode):
  scale = jnp.repeat(codes.k_scale, codes.q.shape[2] // codes.k.shape[2], axis=2)
  found = {"q_codes": codes.q, "k_codes": codes.k}
  found |= {"q_scale": codes.q_scale, "k_scale": codes.k_scale}
  found |= {f"{x}_packed": sale.pack(getattr(codes, x)) for x in "qk"}
  unpacked = {f"{x}_codes": sale.unpack(found[f"{x}_packed"]) for x in "qk"}
  found["qmk"] = codes.bias if mode == "token" else codes.bias / scale
  return found | unpacked | {"smooth_k": k - codes.k_mean[:, None]}
