"""The authors' gated heads: DiT's attention and TransNeXt's, whose scores are here."""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.heads import mixture_of_head
from tests.arrays import below

# Of the largest gradient: what is all smaller is rounding. A single routed head is
# renormalised to 1, so that the gradient of its router is 0 but for rounding.
_ROUNDING = 1e-6


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, jax.Array, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each case of the file."""
  for case in meta["cases"]:
    name = case["name"]
    inputs = _starting(arrays, f"in.{name}.")
    params = _starting(arrays, f"param.{name}.")
    results = jax.jit(functools.partial(_results, case=case))(params, inputs)
    wanted = {n: arrays[n] for n in arrays if n.split(".")[1] == name}
    grads = [np.abs(x).max() for n, x in wanted.items() if n.startswith("grad.")]
    for key, got in results.items():
      kind, _, rest = key.partition(".")
      full = f"{kind}.{name}.{rest}"
      if full in arrays:
        want = arrays[full]
        if kind == "grad" and np.abs(want).max() < _ROUNDING * max(grads):
          got = jnp.where(jnp.abs(got) < _ROUNDING * max(grads), 0, got)
          want = np.zeros_like(want)
        yield full, got, want


def _starting(arrays, prefix):
  found = below(arrays, prefix)
  return {n: jnp.asarray(x) for n, x in found.items()}


def _results(params, inputs, case):
  def loss(params, x):
    run = _dit if case["kind"] == "dit" else _vit
    y, balance = run(params, inputs | {"x": x}, case)
    total = jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))
    return total, {"out.y": y, "out.load_balance": balance}

  grads, results = jax.grad(loss, (0, 1), has_aux=True)(params, inputs["x"])
  grads = grads[0] | {"x": grads[1]}
  return results | {f"grad.{name}": value for name, value in grads.items()}


def _dit(params, inputs, case):
  """The Layer with the official parameters, differentiable by them."""
  N, S, dim = case["num_heads"], case["shared"], case["dim"]
  layer = mixture_of_head.Layer(
    dim,
    form="sequence",
    heads=N,
    head_dim=params["qkv.weight"].shape[0] // (3 * N),
    shared=S if case["routed"] else N,
    top_k=case["routed"],
    balance=0.0,
    rope_theta=0.0,
    qkv_bias="qkv.bias" in params,
    out_bias="proj.bias" in params,
    rngs=nnx.Rngs(0),
  )
  parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
  for part, weight in zip(parts, jnp.split(params["qkv.weight"], 3)):
    part.kernel = nnx.Param(weight.T.reshape(dim, N, -1))
  if "qkv.bias" in params:
    for part, bias in zip(parts, jnp.split(params["qkv.bias"], 3)):
      part.bias = nnx.Param(bias.reshape(N, -1))
  layer.out.kernel = nnx.Param(params["proj.weight"].T.reshape(N, -1, dim))
  if "proj.bias" in params:
    layer.out.bias = nnx.Param(params["proj.bias"])
  router = layer.router
  maps = {
    "wg": router.routed_map,
    "wg_0": router.balance_map,
    "wg_1": router.shared_map,
  }
  for name, own in maps.items():
    if own is not None:
      own.kernel = nnx.Param(params[f"{name}.weight"].T)
  return layer.learn(inputs["x"])


def _vit(params, inputs, case):
  """TransNeXt's cosine attention with scores by their formula, gated by `attend`."""
  x, N = inputs["x"], case["num_heads"]
  B, T, _ = x.shape
  qkv = (x @ params["qkv.weight"].T + params.get("qkv.bias", 0)).reshape(B, T, 3, N, -1)
  q, k, v = jnp.moveaxis(qkv, 2, 0)
  q, k = (y / jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (q, k))
  heat = jax.nn.softplus(params["temperature"][:, 0]) * np.log(T)
  q = (q + params["query_embedding"][:, 0]) * heat
  hidden = inputs["relative_coords_table"] @ params["cpb_fc1.weight"].T
  hidden = jax.nn.relu(hidden + params["cpb_fc1.bias"])
  table = (hidden @ params["cpb_fc2.weight"].T + params["cpb_fc2.bias"]).T
  bias = table[:, inputs["relative_pos_index"].reshape(-1)].reshape(1, N, T, T)
  maps = {"routed": "wg", "shared": "wg_1", "balance": "wg_0"}
  logits = {
    own: x @ params[f"{name}.weight"].T if f"{name}.weight" in params else None
    for own, name in maps.items()
  }
  if logits["routed"] is None:
    logits["routed"] = jnp.zeros((B, T, 0))
  out, loss = mixture_of_head.attend(
    q, k, v, **logits, top_k=case["routed"], bias=bias, scale=1.0, return_loss=True
  )
  y = out.reshape(B, T, -1) @ params["proj.weight"].T + params.get("proj.bias", 0)
  return y, loss
