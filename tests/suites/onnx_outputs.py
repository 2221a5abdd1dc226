"""All outputs of ONNX's Attention, scores before the softmax too."""

from typing import Any

import jax.numpy as jnp

from attnjax import dot_product_attention
from tests.suites.onnx_cases import Case


def outputs(case: Case, arrays: dict, options: dict, impl: str) -> dict[str, Any]:
  """The outputs in ONNX's layout, by their names."""
  out = dot_product_attention(**arrays, **options, impl=impl)
  flat = case.inputs["Q"].ndim == 3
  found = {"Y": out.reshape(*out.shape[:2], -1) if flat else out.swapaxes(1, 2)}
  found["present_key"] = arrays["key"].swapaxes(1, 2)
  found["present_value"] = arrays["value"].swapaxes(1, 2)
  if "qk_matmul_output" in case.outputs:
    mode = case.attributes.get("qk_matmul_output_mode", 0)
    found["qk_matmul_output"] = (weights if mode == 3 else scores)(
      arrays, options, mode, impl
    ).astype(arrays["query"].dtype)
  return found


def weights(arrays, options, mode, impl):
  """The softmax's weights: what it gives for the values of an identity matrix."""
  del mode
  B, S, K, _ = arrays["key"].shape
  eye = jnp.broadcast_to(jnp.eye(S, dtype=arrays["value"].dtype)[:, None], (B, S, K, S))
  out = dot_product_attention(**arrays | {"value": eye}, **options, impl=impl)
  return out.swapaxes(1, 2)


def scores(arrays, options, mode, impl):
  """The lse of each key alone: scores that are raw, capped, or with bias and mask."""
  (B, T, N, _), S = arrays["query"].shape, arrays["key"].shape[1]
  known = ("scale", "softcap", "mask", "query_positions")[: (1, 2, 4)[mode]]
  options = {name: options[name] for name in known}
  bias = arrays.get("bias", jnp.zeros(())) if mode == 2 else jnp.zeros(())
  bias = jnp.moveaxis(jnp.broadcast_to(bias, (B, N, T, S)), 3, 1)
  alone = {
    n: arrays[n].reshape(B * S, 1, *arrays[n].shape[2:]) for n in ("key", "value")
  }
  _, lse = dot_product_attention(
    jnp.repeat(arrays["query"], S, axis=0),
    **alone,
    bias=bias.reshape(B * S, N, T, 1),
    key_positions=jnp.tile(jnp.arange(S), B)[:, None],
    **options,
    return_lse=True,
    impl=impl,
  )
  return jnp.moveaxis(lse.reshape(B, S, T, N), (1, 3), (3, 1))
