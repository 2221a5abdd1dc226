"""The authors' attention module, and one step of it with both caches."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.softmax import power_law_graph
from tests.arrays import below

_TENSORS = {
  "Wlst": "weight",
  "blst": "shift",
  "pwlst": "power",
  "alst": "coupling",
  "balst": "coupling_shift",
}


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, jax.Array, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for all results."""
  params = jax.tree.map(jnp.asarray, below(arrays, "param."))

  @jax.jit
  def run(params, x, x_next):
    def loss(params, x):
      layer, T = _layer(params, meta), x.shape[1]
      y, found = layer(x), layer.deduce(x)
      cache = layer.init_cache(x.shape[0], T + 1)
      _, cache = layer.step(x, cache)
      y_next, _ = layer.step(x_next, cache)
      results = {"y": y, "y_next": y_next, "A_metric_in": found.learned}
      results |= {"A_LM": found.metric, "G_LM": found.curvature}
      results["scores_before_mask"] = _scores(layer, x)
      wave = jnp.cos(jnp.arange(y.size)).reshape(y.shape)
      return jnp.sum(y * wave), results

    return jax.grad(loss, (0, 1), has_aux=True)(params, x)

  (grads, dx), results = run(params, arrays["in.x"], arrays["in.x_next"])
  for name, got in results.items():
    yield f"out.{name}", got, arrays[f"out.{name}"]
  for name, got in (grads | {"x": dx}).items():
    yield f"grad.{name}", got, arrays[f"grad.{name}"]


def _scores(layer, x):
  heads = layer.project(x)
  bent = power_law_graph.curved(heads.q, heads.more["curvature"])
  return jnp.einsum("btnh,bsnh->bnts", bent, heads.k) * heads.q.shape[-1] ** -0.5


def _layer(params, meta):
  D, N = meta["d_model"], meta["num_heads"]
  layer = power_law_graph.Layer(
    D,
    form="causal",
    heads=N,
    density="full",
    metric_hidden=meta["A_dff"],
    residual_units=meta["num_reslayerA"],
    gated_units=meta["num_denseA"],
    rngs=nnx.Rngs(0),
  )
  parts = {"wq": layer.qkv.query, "wk": layer.qkv.key, "wv": layer.qkv.value}
  for name, part in parts.items():
    part.kernel = nnx.Param(params[f"{name}.weight"].T.reshape(D, N, -1))
    part.bias = nnx.Param(params[f"{name}.bias"].reshape(N, -1))
  layer.out.kernel = nnx.Param(params["dense.weight"].T.reshape(N, -1, D))
  layer.out.bias = nnx.Param(params["dense.bias"])
  metric = layer.operator.metric
  for name, own in _TENSORS.items():
    setattr(metric, own, nnx.Param(params[f"plgatt_layer.{name}"]))
  _put_norm(metric.norm, params, "layernorm1")
  for i, residual in enumerate(metric.residual):
    _put_norm(residual.norm, params, f"reslayerAs.{i}.layernormA")
    for j, unit in enumerate(residual.units):
      prefix = f"reslayerAs.{i}.denseAs.{j}.gluw"
      for number, linear in enumerate((unit.gate, unit.up, unit.down), 1):
        linear.kernel = nnx.Param(params[f"{prefix}{number}.weight"].T)
        linear.bias = nnx.Param(params[f"{prefix}{number}.bias"])
  return layer


def _put_norm(norm, params, name):
  norm.scale = nnx.Param(params[f"{name}.weight"])
  norm.bias = nnx.Param(params[f"{name}.bias"])
