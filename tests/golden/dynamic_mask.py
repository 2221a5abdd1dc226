"""Dynamic mask attention against the Doge model of transformers."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn import projections
from attnjax.variants.sparse import dynamic_mask


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  keep_keys, x = meta["keep_window_size"], jnp.asarray(arrays["in.x"])
  mask = arrays.get("in.mask")
  options = {"causal": mask is None, "keep_keys": keep_keys}
  options |= {} if mask is None else {"mask": jnp.asarray(mask)}
  layer = _layer(arrays, meta)

  def total(layer, x):
    q, k, v = layer.qkv(x, jnp.arange(x.shape[1]))
    importance = layer.importances(v)
    y = layer.out(dynamic_mask.attend(q, k, v, importance, **options))
    eye = projections.identity_values(k)
    found = {
      "out.y": y,
      "out.bias": importance.swapaxes(1, 2),
      "out.attn": dynamic_mask.attend(q, k, eye, importance, **options).swapaxes(1, 2),
    }
    B, T = x.shape[:2]
    allowed = dynamic_mask.allowed(
      (B, T, T), options["causal"], mask=options.get("mask")
    )
    found["out.dynamic_keep"] = dynamic_mask.selected(importance, allowed, keep_keys)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), found

  run = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))
  (_, found), (parameters, dx) = run(layer, x)
  found |= {"grad.x": dx, "grad.A": parameters.amplitude[...]}
  for name, part in _linears(parameters).items():
    kernel = part.kernel[...]
    inputs = kernel.size // arrays[f"param.{name}.weight"].shape[0]
    found[f"grad.{name}.weight"] = kernel.reshape(inputs, -1).T
    if part.bias is not None:
      found[f"grad.{name}.bias"] = part.bias[...].ravel()
  for name in ("query", "key"):
    norm = getattr(parameters.qkv, f"{name}_norm")
    found[f"grad.{name[0]}_norm.weight"] = norm.scale[...]
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


def _linears(layer):
  return {
    "q_proj": layer.qkv.query,
    "k_proj": layer.qkv.key,
    "v_proj": layer.qkv.value,
    "dt_proj": layer.importance,
    "o_proj": layer.out,
  }


def _layer(arrays, meta):
  bias = meta["attention_bias"]
  layer = dynamic_mask.Layer(
    meta["hidden"],
    form="causal",
    heads=meta["N"],
    kv_heads=meta["K"],
    head_dim=meta["H"],
    keep_keys=meta["keep_window_size"],
    rope_theta=meta["rope_theta"],
    qkv_bias=bias,
    out_bias=bias,
    rngs=nnx.Rngs(0),
  )
  for name, part in _linears(layer).items():
    _set(part.kernel, arrays[f"param.{name}.weight"].T)
    if bias:
      _set(part.bias, arrays[f"param.{name}.bias"])
  for name in ("query", "key"):
    norm = getattr(layer.qkv, f"{name}_norm")
    norm.epsilon = meta["eps"]
    _set(norm.scale, arrays[f"param.{name[0]}_norm.weight"])
  _set(layer.amplitude, arrays["param.A"])
  return layer


def _set(parameter, value):
  parameter[...] = jnp.asarray(value).reshape(parameter.shape)
