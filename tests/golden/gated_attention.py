"""The authors' Qwen3Attention, in one fused projection of queries and gates."""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax import contract
from attnjax.variants.softmax import gated_attention
from tests.arrays import below


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, jax.Array, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each case of the file."""
  for case in meta["cases"]:
    name = case.get("name", case["mode"])
    x = jnp.asarray(arrays[f"in.{name}.x"])
    prefix = f"param.{name}."
    params = jax.tree.map(jnp.asarray, below(arrays, prefix))
    results = jax.jit(functools.partial(_results, case=case))(params, x)
    for key, got in results.items():
      kind, _, rest = key.partition(".")
      if f"{kind}.{name}.{rest}" in arrays:
        yield f"{kind}.{name}.{rest}", got, arrays[f"{kind}.{name}.{rest}"]


def _results(params, x, case):
  def loss(params, x):
    layer = _layer(params, case)
    y = layer(x)
    total = jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))
    return total, {"out.y": y, "out.weights": contract.weights(layer, x)}

  (by_params, by_x), results = jax.grad(loss, (0, 1), has_aux=True)(params, x)
  by_all = by_params | {"x": by_x}
  return results | {f"grad.{key}": value for key, value in by_all.items()}


def _layer(params, case):
  """The Layer with the official parameters, differentiable by them."""
  N, K, H = (case[n] for n in ("num_heads", "num_key_value_heads", "head_dim"))
  dim, bias = case["hidden_size"], "q_proj.bias" in params
  layer = gated_attention.Layer(
    dim,
    form="causal" if case["causal"] else "sequence",
    heads=N,
    kv_heads=K,
    head_dim=H,
    gate=case["mode"],
    qk_norm="q_norm.weight" in params,
    rope_theta=case["rope_theta"],
    qkv_bias=bias,
    out_bias=bias,
    rngs=nnx.Rngs(0),
  )
  project = layer.qkv
  for end in ("weight", "bias") if bias else ("weight",):
    # The rows of q_proj are, for each key head, its queries, then its gates.
    rows = params[f"q_proj.{end}"].reshape(K, -1, *params[f"q_proj.{end}"].shape[1:])
    queries, gates = jnp.split(rows, [N // K * H], axis=1)
    _put(project.query, end, queries, (N, H))
    if layer.gate is not None:
      _put(layer.gate.values, end, gates, (N, -1))
    _put(project.key, end, params[f"k_proj.{end}"], (K, H))
    _put(project.value, end, params[f"v_proj.{end}"], (K, H))
  layer.out.kernel = nnx.Param(params["o_proj.weight"].T.reshape(N, H, dim))
  if bias:
    layer.out.bias = nnx.Param(params["o_proj.bias"])
  if project.query_norm is not None and project.key_norm is not None:
    project.query_norm.scale = nnx.Param(params["q_norm.weight"])
    project.key_norm.scale = nnx.Param(params["k_norm.weight"])
  return layer


def _put(linear, end, rows, heads):
  """Rows (heads x size, D) of a weight, or (heads x size,) of a bias, into `linear`."""
  if end == "bias":
    linear.bias = nnx.Param(rows.reshape(heads))
  else:
    weight = rows.reshape(*heads, rows.shape[-1])
    linear.kernel = nnx.Param(jnp.moveaxis(weight, -1, 0))
