"""The authors' heads along an axis, and their block, with their clamped normaliser."""

import functools
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.mixers.gaussian_adaptive import GaussianBlock
from tests.arrays import below

_NAMES = {"mean_offsets": "displacement", "c": "spread"}


def compare(
  arrays: Mapping[str, np.ndarray], meta: dict
) -> Iterator[tuple[str, jax.Array, np.ndarray]]:
  """(key of the file, attnjax's result, the file's) for each case of the file."""
  for case in meta["cases"]:
    name = case["name"]
    prefix = f"param.{name}."
    params = jax.tree.map(jnp.asarray, below(arrays, prefix))
    run = jax.jit(functools.partial(_results, case=case))
    for key, got in run(params, arrays[f"in.{name}.x"]).items():
      kind, _, rest = key.partition(".")
      full = f"{kind}.{name}.{rest}"
      if full in arrays:
        yield full, got, arrays[full]


def _results(params, x, case):
  def loss(params, x):
    y, weights = _run(params, x, case)
    found = {f"out.weights.layer_{i}": w for i, w in enumerate(weights)}
    found |= {"out.y": y, "out.weights": weights[0]}
    total = jnp.sum(y * jnp.cos(jnp.arange(y.size)).reshape(y.shape))
    return total, found

  grads, results = jax.grad(loss, (0, 1), has_aux=True)(params, x)
  grads = grads[0] | {"x": grads[1]}
  return results | {f"grad.{name}": value for name, value in grads.items()}


def _run(params, x, case):
  """Returns (y, the weights of each layer); a case of heads alone is a block of one."""
  block = any(name.startswith("layers.") for name in params)
  sizes = [case[name] for name in ("norm_axes", "num_heads", "num_gaussians")]
  sizes = [size if isinstance(size, list) else [size] for size in sizes]
  options = {"padding_value": case["padding_value"], "clamp": True, "residual": block}
  module = GaussianBlock(*sizes, **options, rngs=nnx.Rngs(0))
  for i, (layer, heads) in enumerate(zip(module.layers, sizes[1])):
    prefix = f"layers.{i}." if block else ""
    for theirs, own in _NAMES.items():
      rows = [params[f"{prefix}attention_heads.{m}.{theirs}"] for m in range(heads)]
      setattr(layer, own, nnx.Param(jnp.stack(rows)))
  return module.learn(x)
