"""The authors' RCMHA with a memory, labml's MDHA, and the RMHA of Transformer-XL."""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract import weights
from attnjax.nn.segment_memory import SegmentMemory
from attnjax.variants.softmax import rcmha
from tests.arrays import below

_LOST = "grad.key.1.conv.bias"


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, jax.Array, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each case of the file."""
  for case in meta["cases"]:
    name = case["name"]
    params, given = (
      jax.tree.map(jnp.asarray, below(arrays, f"{kind}.{name}."))
      for kind in ("param", "in")
    )
    results = jax.jit(functools.partial(_results, case=case))(params, given)
    for key, got in results.items():
      kind, _, rest = key.partition(".")
      if f"{kind}.{name}.{rest}" in arrays:
        want = arrays[f"{kind}.{name}.{rest}"]
        if key == _LOST:
          # Softmax takes a bias of all keys out: its gradient is 0, the file has its
          # rounding. Both are compared on the scale of the filters' gradient.
          size = np.abs(arrays[f"grad.{name}.key.1.conv.weight"]).max()
          got, want = got + size, want + size
        yield f"{kind}.{name}.{rest}", got, want


def _results(params, given, case):
  kind = case["name"].partition("_")[0]
  token = "w" if kind == "rmha" else "x"

  def loss(params, x):
    y, results = _run(params, x, given.get("mem"), kind, case)
    total = jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))
    return total, results | {"out.y": y}

  grads, results = jax.grad(loss, (0, 1), has_aux=True)(params, given[token])
  by_all = grads[0] | {token: grads[1]}
  return results | {f"grad.{key}": value for key, value in by_all.items()}


def _run(params, x, memory, kind, case):
  """Returns y (T, B, D) and the weights (T, S, B, N): the sequence comes first."""
  dim, heads = x.shape[2], case["n_head" if kind == "rmha" else "heads"]
  length = 0 if memory is None else memory.shape[0]
  layer = rcmha.Layer(
    dim,
    kind=kind,
    heads=heads,
    head_dim=case.get("d_head", dim // heads),
    filters="auto" if kind == "rmha" else "shared",
    linear_bias="all",
    max_distance=max(length + x.shape[0] - 1, 0),
    rngs=nnx.Rngs(0),
  )
  own, kept = x, memory
  if kind == "rmha":
    _put_rmha(layer, params, heads)
    if case["pre_lnorm"]:
      own, kept = (z if z is None else _norm(z, params) for z in (x, memory))
  else:
    _put(layer, params, heads)
  rows = own.swapaxes(0, 1)
  context = {}
  if length:
    kept = kept.swapaxes(0, 1)
    context["memory"] = SegmentMemory(kept, jnp.zeros(kept.shape[:2], jnp.int32))
  y = layer(rows, **context).swapaxes(0, 1)
  found = weights(layer, rows, **context).transpose(2, 3, 0, 1)
  if kind == "rmha":
    y = x + y if case["pre_lnorm"] else _norm(x + y, params)
  return y, {"out.weights": found}


def _put(layer, params, heads):
  """The parameters of labml's modules, into a layer with all biases."""
  for name in ("query", "key", "value"):
    weight = params[f"{name}.0.linear.weight"]
    project = getattr(layer.heads, name)
    convolution = layer.heads.convolutions[name]
    project.kernel = nnx.Param(weight.T.reshape(weight.shape[1], heads, -1))
    bias = params.get(f"{name}.0.linear.bias", jnp.zeros(weight.shape[0]))
    project.bias = nnx.Param(bias.reshape(heads, -1))
    # The filter's last entry multiplies the token itself.
    kernel = params[f"{name}.1.conv.weight"][:, 0, ::-1].T
    convolution.kernel = nnx.Param(kernel[:, None])
    convolution.bias = nnx.Param(params[f"{name}.1.conv.bias"])
  weight = params["output.weight"]
  layer.out.kernel = nnx.Param(weight.T.reshape(heads, -1, weight.shape[0]))
  layer.out.bias = nnx.Param(params["output.bias"])
  if "key_pos_embeddings" in params:
    # Row P - d of the authors' table is of distance d; S distances are stored.
    S = layer.distances.most + 1
    vectors, biases = params["key_pos_embeddings"], params["key_pos_bias"]
    layer.distances.vectors = nnx.Param(vectors[1 : S + 1][::-1])
    layer.distances.biases = nnx.Param(biases[1 : S + 1][::-1])
    layer.distances.u = nnx.Param(params["query_pos_bias"])


def _put_rmha(layer, params, heads):
  weight = params["qkv_net.weight"]
  parts = jnp.split(weight.T.reshape(weight.shape[1], 3 * heads, -1), 3, axis=1)
  for name, kernel in zip(("query", "key", "value"), parts):
    project = getattr(layer.heads, name)
    project.kernel = nnx.Param(kernel)
    project.bias = nnx.Param(jnp.zeros(kernel.shape[1:]))
  weight = params["r_net.weight"]
  layer.distances.project.kernel = nnx.Param(
    weight.T.reshape(weight.shape[1], heads, -1)
  )
  weight = params["o_net.weight"]
  layer.out.kernel = nnx.Param(weight.T.reshape(heads, -1, weight.shape[0]))
  layer.distances.u = nnx.Param(params["r_w_bias"])
  layer.distances.w = nnx.Param(params["r_r_bias"])


def _norm(x, params):
  """The layer norm of Transformer-XL, with PyTorch's epsilon."""
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  scale, shift = params["layer_norm.weight"], params["layer_norm.bias"]
  return (x - mean) / jnp.sqrt(var + 1e-5) * scale + shift
