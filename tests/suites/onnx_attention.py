"""ONNX's Attention by attnjax.dot_product_attention."""

from typing import Any

import jax.numpy as jnp

import attnjax
from tests.suites.onnx_cases import Case


def arguments(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
  """(query, key, value and bias if there is one, the other arguments)."""
  given, have = case.inputs, case.attributes
  arrays = {
    "query": heads(given["Q"], have.get("q_num_heads")),
    "key": heads(given["K"], have.get("kv_num_heads")),
    "value": heads(given["V"], have.get("kv_num_heads")),
  }
  past = given["past_key"].shape[2] if "past_key" in given else 0
  for name in ("key", "value"):
    if past:
      before = jnp.asarray(given[f"past_{name}"]).swapaxes(1, 2)
      arrays[name] = jnp.concatenate([before, arrays[name]], axis=1)
  T, S = arrays["query"].shape[1], arrays["key"].shape[1]
  options: dict[str, Any] = {"scale": have.get("scale"), "query_positions": past}
  options["softcap"] = have.get("softcap", 0.0)
  if "nonpad_kv_seqlen" in given:
    lengths = jnp.asarray(given["nonpad_kv_seqlen"], jnp.int32)
    options |= {"key_value_seq_lengths": lengths, "query_positions": lengths - T}
  left, right = (have.get(f"{side}_window_size", -1) for side in ("left", "right"))
  seen = attnjax.masks.Window(*(None if x < 0 else x for x in (left, right)))
  if have.get("is_causal"):
    seen &= attnjax.masks.Causal()
  mask = given.get("attn_mask")
  if mask is not None:
    missing = S - mask.shape[-1]  # keys that it does not reach are not seen
    low = False if mask.dtype == bool else -jnp.inf
    widths = [(0, 0)] * (mask.ndim - 1) + [(0, missing)]
    mask = jnp.pad(jnp.asarray(mask), widths, constant_values=low)
    if mask.dtype == bool:
      seen &= attnjax.masks.Dense(jnp.atleast_2d(mask))
    else:
      arrays["bias"] = mask
  return arrays, options | {"mask": seen}


def heads(x, number):
  """(B, T, N, H) from (B, N, T, H), or from (B, T, N H) and the number of heads."""
  x = jnp.asarray(x)
  return x.swapaxes(1, 2) if x.ndim == 4 else x.reshape(*x.shape[:2], number, -1)
