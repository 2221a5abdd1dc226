"""The authors' GIN- and PNA-attention as released, and their Sparse-GIN both ways."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract import weights
from attnjax.variants.softmax import isomorphic_graph as graphs
from attnjax.variants.softmax.isomorphic_graph import sparse
from tests.arrays import below

_GIN = "attention_GIN_MLP_GIN_"
_EDGES = {"sigmoid_elementwise": "sigmoid", "flowthreshold": "flow"}
_EDGES |= {"scaled_topk_causal_4d": "scaled_top_k", "silu+binary": "silu_binary"}


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
    run = _results if "x" in given else _sparse
    for key, got in jax.jit(functools.partial(run, case=case))(params, given).items():
      kind, _, rest = key.partition(".")
      if f"{kind}.{name}.{rest}" in arrays:
        yield f"{kind}.{name}.{rest}", got, arrays[f"{kind}.{name}.{rest}"]


def _results(params, given, case):
  def loss(params, x):
    layer = _layer(params, *x.shape[1:], case)
    y, found = layer(x, index=1), weights(layer, x, index=1)
    total = jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))
    return total, {"out.y": y, "out.adjacency": found}

  grads, results = jax.grad(loss, (0, 1), has_aux=True)(params, given["x"])
  by_all = grads[0] | {"x": grads[1]}
  return results | {f"grad.{key}": value for key, value in by_all.items()}


def _layer(params, length, dim, case) -> Any:
  """Returns a layer with the official parameters, differentiable by them."""
  heads, mode = case["heads"], case.get(f"{_GIN}threshold_mode", "none")
  size = dim // heads
  layer: Any = graphs.Layer(
    dim,
    heads=heads,
    kind=case["kind"],
    weighting="softmax" if case[f"{_GIN}use_softmax"] else "relu",
    edges=_EDGES.get(mode, mode.replace("_binary_above", "")),
    threshold=case.get(f"{_GIN}threshold_value", 0.2),
    keep_keys=max(
      int(length * case.get(f"{_GIN}top_k_fraction_of_sequence_length", 0.1)), 1
    ),
    learned_threshold="threshold.0" in params,
    sharpen="sharpening_parameters.0" in params,
    differential="q_proj_2.weight" in params,
    mlp_ratio=float(case["attention_GIN_MLP_multiplier"]),
    project_out="o_proj.weight" in params,
    as_released=True,
    rngs=nnx.Rngs(0),
  )
  maps = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}
  maps |= {"q_proj_2": "second_query", "k_proj_2": "second_key"}
  for theirs, ours in maps.items():
    if f"{theirs}.weight" in params:
      kernel = params[f"{theirs}.weight"].T.reshape(dim, heads, size)
      getattr(layer.qkv, ours).kernel = nnx.Param(kernel)
  if layer.out is not None:
    layer.out.kernel = nnx.Param(params["o_proj.weight"].T.reshape(heads, size, dim))
  if layer.alpha is not None:
    layer.alpha = nnx.Param(params["sharpening_parameters.0"])
  if layer.mixing is not None:
    layer.mixing = nnx.Param(params["lambda_param.0"] - 0.2)  # the start of layer 1
  if layer.learned is not None:
    layer.learned = nnx.Param(params["threshold.0"])
  gin = case["kind"] == "gin"
  part = "gin_layers.{}.mlp" if gin else "aggregator_mlps.{}"

  def stacked(name):
    return jnp.stack([params[name.format(n)] for n in range(heads)])

  for place, own in (("0", layer.mlps.up), ("4" if gin else "2", layer.mlps.down)):
    own.kernel = nnx.Param(stacked(f"{part}.{place}.weight").swapaxes(1, 2))
    if own.bias is not None:
      own.bias = nnx.Param(stacked(f"{part}.{place}.bias"))
  if gin:
    layer.epsilon = nnx.Param(stacked("gin_layers.{}.epsilon"))
    layer.mlps.scales = nnx.Param(stacked("gin_layers.{}.normlayer.weight"))
  return layer


def _sparse(params, given, case):
  """The graph network on the edges of given attention weights."""
  h, a = given["h"], given["attn"]
  T, itself = h.shape[1], jnp.eye(h.shape[1], dtype=bool)
  seen = jnp.tri(T, dtype=bool)[None, None]
  network = _network(params, h.shape[2], case)
  cut = {"threshold": case["threshold"], "least": case["epsilon_threshold"]}

  def run(as_released):
    found = sparse.combined(a, seen, itself, as_released=as_released, **cut)
    return found, network(h, lambda _, u: sparse.sent(sparse.Edges(None, found), u))

  edges, y = run(False)
  results = {
    "adjacency": edges,
    "y_edges_key_to_query": y,
    "y_as_released": run(True)[1],
  }
  return {f"out.{name}": value for name, value in results.items()}


def _network(params, dim, case) -> Any:
  network: Any = graphs.GraphNetwork(
    dim,
    hidden=case["gnn_hidden"],
    layers=case["num_layers"],
    multiplier=float(case["GIN_hidden_dim_multiplier"]),
    activation=case["activation"],
    residual=case["gnn_residual"],
    rngs=nnx.Rngs(0),
  )
  maps = {"input_projection": network.into, "output_projection": network.out}
  for i in range(case["num_layers"]):
    maps |= {f"convs.{i}.linear1": network.up[i], f"convs.{i}.linear2": network.down[i]}
  for name, own in maps.items():
    own.kernel = nnx.Param(params[f"{name}.weight"].T)
    own.bias = nnx.Param(params[f"{name}.bias"])
  each = [params[f"convs.{i}.epsilon"][0] for i in range(case["num_layers"])]
  network.epsilon = nnx.Param(jnp.stack(each))
  if "activation.weight" in params:
    network.slope = nnx.Param(params["activation.weight"][0])
  return network
