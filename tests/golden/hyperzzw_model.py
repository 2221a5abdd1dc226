"""The Terminator, HyperZ.Z.W's whole network, against the authors'."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.mixers import hyperzzw
from tests.arrays import below
from tests.golden.hyperzzw import fill_block, fill_linear, first, last, widths


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  model = filled(arrays, meta)

  def total(images, model):
    maps, kernels = model.features(images)
    found = {f"block{i}": first(y) for i, y in enumerate(maps)}
    found |= {f"global_hk{i}": first(kernel[None]) for i, kernel in enumerate(kernels)}
    found["logits"] = model.logits(maps)
    for reduce in hyperzzw.REDUCTIONS:
      found[f"slow_loss_{reduce}"] = hyperzzw.slow_neural_loss(kernels, reduce)
    waves = (_wave(found[name]) for name in meta.get("grad_of", ()) or ("logits",))
    return sum(waves), found

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, found), gradient = run(last(arrays["in.x"]), model)
  for name, y in found.items():
    if f"out.{name}" in arrays:
      yield f"out.{name}", y, arrays[f"out.{name}"]
  if "grad.x" in arrays:
    yield "grad.x", first(gradient), arrays["grad.x"]


def _wave(out):
  return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()


def filled(arrays, meta) -> Any:
  weights = [
    below(arrays, start)
    for start in (f"param.blocks.{i}." for i in range(len(meta["factors"])))
  ]
  model: Any = jax.eval_shape(
    lambda: hyperzzw.Terminator(
      channels=meta["in_channel"][0],
      classes=meta["classes"],
      factors=meta["factors"],
      slow_depths=meta["slow_depths"],
      extras=meta["num_concat_pre"],
      dropout=[0.0] * len(weights),
      rngs=nnx.Rngs(0),
      **widths(weights[0]),
    )
  )
  for block, weight in zip(model.blocks, weights):
    fill_block(block, weight)
  fill_linear(model.head, arrays, "param.out_layer")
  return model
