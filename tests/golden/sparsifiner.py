"""Sparsifiner against the authors' attention: in use, and learning its predictor."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.sparse import sparsifiner

_RECON = "grad.recon."


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  layer, x = _layer(arrays, meta), jnp.asarray(arrays["in.x"])

  @jax.jit
  def sparse(layer, x):
    y = layer(x)
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), y

  @jax.jit
  def prediction(layer, x):
    q, k, _ = layer.qkv(x, jnp.arange(x.shape[1]))
    weight, guess = layer.predictor.coefficients(q, k), layer.predictor.scores(q, k)
    mask = sparsifiner.chosen(guess, layer.predictor.first, layer.keep_ratio)
    return weight, guess, mask, layer.predictor.scores(q, k, sparse=False)

  (_, y), gradients = jax.value_and_grad(sparse, (0, 1), has_aux=True)(layer, x)
  found = {"out.y": y, "grad.x": gradients[1]}
  found |= {
    f"grad.{name}": g for name, g in _official(gradients[0], x.shape[2]).items()
  }
  weight, guess, mask, dense = prediction(layer, x)
  found |= {"out.basis_coef": weight, "out.approx_attn": guess, "out.attn_mask": mask}

  layer.kind = "reconstruct"
  found |= {
    "out.recon_approx": dense,
    "out.recon_y": jax.jit(lambda f, x: f(x))(layer, x),
  }
  loss = jax.jit(jax.value_and_grad(lambda layer, x: layer.reconstruction(x)))
  found["out.recon_sumsq"], gradient = loss(layer, x)
  for name, g in _official(gradient, x.shape[2]).items():
    found[_RECON + name.removeprefix("mask_predictor.")] = g
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


def _linears(layer) -> dict[str, tuple]:
  """The parts of each linear map of the authors."""
  predictor, project = layer.predictor, layer.qkv
  return {
    "qkv": (project.query, project.key, project.value),
    "proj": (layer.out,),
    "mask_predictor.proj_c_q": (predictor.query,),
    "mask_predictor.proj_c_k": (predictor.key,),
  }


def _tables(layer) -> dict[str, nnx.Param]:
  names = {"proj_n": "down", "proj_back_n": "up"}
  tables = {n: getattr(layer.predictor, own, None) for n, own in names.items()}
  return {f"mask_predictor.{n}": t for n, t in tables.items() if t is not None}


def _official(layer, dim: int) -> dict[str, jax.Array]:
  """Parameters or gradients under their official names, in their layouts."""
  found = {name: table[...] for name, table in _tables(layer).items()}
  for name, parts in _linears(layer).items():
    inputs = layer.predictor.query.kernel.shape[0] if "mask" in name else dim
    kernels = [part.kernel[...].reshape(inputs, -1).T for part in parts]
    found[f"{name}.weight"] = jnp.concatenate(kernels)
    if parts[0].bias is not None:
      found[f"{name}.bias"] = jnp.concatenate([p.bias[...].ravel() for p in parts])
  return found


def _layer(arrays, meta):
  first = "mask_predictor."
  tokens, dim = meta["tokens"], meta["dim"]
  layer = sparsifiner.Layer(
    dim,
    form="sequence",
    heads=meta["N"],
    grid=(tokens - 1,),
    class_token=True,
    keep_ratio=meta["attn_keep_rate"],
    reduce_n=meta["reduce_n_factor"],
    reduce_c=meta["reduce_c_factor"],
    tie=f"param.{first}proj_back_n" not in arrays,
    top=meta["coef_topk"],
    threshold=meta["basis_threshold"],
    distill=0.0,
    qkv_bias="param.qkv.bias" in arrays,
    rngs=nnx.Rngs(0),
  )
  weights = {k.removeprefix("param."): v for k, v in arrays.items()}
  fill(layer, weights)
  return layer


def fill(layer, weights: Mapping[str, np.ndarray]) -> None:
  """Sets the layer's parameters from weights by their official names."""
  for name, table in _tables(layer).items():
    _set(table, weights[name])
  for name, parts in _linears(layer).items():
    kernels = np.split(weights[f"{name}.weight"], len(parts))
    biases = weights.get(f"{name}.bias")
    for i, part in enumerate(parts):
      _set(part.kernel, kernels[i].T)
      if biases is None and part.bias is not None:
        _set(part.bias, np.zeros(part.bias.size))
      elif part.bias is not None:
        _set(part.bias, np.split(biases, len(parts))[i])


def _set(parameter, value):
  parameter[...] = jnp.asarray(value, jnp.float32).reshape(parameter.shape)
