"""CrossFormer, the whole network, against the authors'."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import crossformer
from tests.arrays import below
from tests.golden.crossformer import fill_block, fill_linear, fill_norm, put

# What the authors' code offers beside what its configurations choose.
_CHOSEN = {"pad_type": 0, "no_mask": False, "group_type": "constant"}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  model = _filled(arrays, meta)
  ends = np.cumsum(np.add(meta["depths"], 1)) - 1

  def total(images, model):
    images = jnp.moveaxis(images, 1, -1)
    trace = model.trace(images)
    maps = {"embed": trace.hidden[0], "norm": model.stages.norms[-1](trace.hidden[-1])}
    maps |= {f"stage{i}": trace.hidden[end] for i, end in enumerate(ends)}
    outs = {name: y.reshape(y.shape[0], -1, y.shape[-1]) for name, y in maps.items()}
    outs["logits"] = trace.output
    waves = (_wave(outs[name]) for name in meta.get("grad_of", ()) or ("logits",))
    return sum(waves), outs

  run = jax.jit(jax.value_and_grad(total, has_aux=True))
  (_, outs), gradient = run(jnp.asarray(arrays["in.x"]), model)
  for name, out in outs.items():
    if f"out.{name}" in arrays:
      yield f"out.{name}", out, arrays[f"out.{name}"]
  if "grad.x" in arrays:
    yield "grad.x", gradient, arrays["grad.x"]


def _wave(out):
  return (out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)).sum()


def _filled(arrays, meta) -> Any:
  for name, value in _CHOSEN.items():
    if meta[name] != value:
      raise NotImplementedError(f"{name} = {meta[name]}: attnjax has {value}")
  weight = below(arrays, "param.")
  (ratio,), (merge,) = set(meta["mlp_ratio"]), set(map(tuple, meta["merge_size"]))
  adaptive, depths = meta["adaptive_interval"], tuple(meta["depths"])
  model: Any = jax.eval_shape(
    lambda: crossformer.Model(
      meta["channels"],
      meta["classes"],
      dim=meta["embed_dim"],
      depths=depths,
      heads=tuple(meta["num_heads"]),
      groups=tuple(meta["group_size"]),
      intervals=(0,) * len(depths) if adaptive else tuple(meta["crs_interval"]),
      stem=tuple(meta["patch_size"]),
      merge=merge,
      cooling=meta["use_acl"],
      mlp_ratio=ratio,
      rngs=nnx.Rngs(0),
    )
  )
  for number, merge in enumerate(model.stages.merges):
    under = f"layers.{number - 1}.downsample"
    name, part = (under, "reductions") if number else ("patch_embed", "projs")
    fill_norm(merge.norm, weight, f"{name}.norm")
    for i, convolution in enumerate(merge.convolutions):
      fill_convolution(convolution, weight, f"{name}.{part}.{i}")
  for number, stage in enumerate(model.stages.stages):
    for i, block in enumerate(stage.sequence):
      _fill(block, weight, f"layers.{number}.blocks.{i}.")
  fill_norm(model.stages.norms[-1], weight, "norm")
  fill_linear(model.head, weight, "head")
  return model


def _fill(block, weight, prefix):
  own = below(weight, prefix)
  if "ex_conv.weight" in own:
    kernel = own["ex_conv.weight"][:, 0]
    put(block.convolution.kernel, np.moveaxis(kernel, 0, -1))
    put(block.convolution.bias, own["ex_conv.bias"])
    fill_norm(block.norm, own, "ex_ln")
    block = block.block
  fill_block(block, own)


def fill_convolution(part, weight, name):
  """Fills a convolution; the authors' kernels are (out, in, rows, columns)."""
  put(part.kernel, np.transpose(weight[f"{name}.weight"], (2, 3, 1, 0)))
  put(part.bias, weight[f"{name}.bias"])
