"""DaViT against the authors' blocks of both kinds."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.local import davit
from tests.arrays import below

KINDS = {"spatial": "window", "channel": "channel"}


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """(key, what attnjax computes, what the file holds) for every result."""
  meta = meta | meta.get("hyper", {})
  weights = jax.tree.map(jnp.asarray, below(arrays, "param."))
  blocks = {name: _block(weights, name, meta) for name in KINDS}

  def total(x, weights):
    maps, outs = x.reshape(x.shape[0], meta["H"], meta["W"], -1), {}
    for name, block in blocks.items():
      filled = nnx.clone(block)
      fill(filled, _own(weights, name))
      outs[name] = filled(maps).reshape(x.shape)
    wave = jnp.cos(jnp.arange(x.size)).reshape(x.shape)
    return sum((out * wave).sum() for out in outs.values()), outs

  run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
  (_, outs), (gradient, others) = run(jnp.asarray(arrays["in.x"]), weights)
  for name, out in outs.items():
    yield f"out.{name}", out, arrays[f"out.{name}"]
  found = {"x": gradient} | others
  for key, want in arrays.items():
    if key.startswith("grad."):
      yield key, found[key.removeprefix("grad.").removeprefix("param.")], want


def _block(weights, name, meta):
  hidden, dim = weights[f"{name}.mlp.fc1.weight"].shape
  return davit.Block(
    dim,
    kind=KINDS[name],
    hidden=hidden,
    heads=meta["heads"],
    window=meta["ws"],
    qkv_bias=f"{name}.attn.qkv.bias" in weights,
    rngs=nnx.Rngs(0),
  )


def _own(weights, name):
  return below(weights, f"{name}.")


def fill(block, own):
  qkv, out = block.mix.qkv, block.mix.out
  for i, part in enumerate((qkv.query, qkv.key, qkv.value)):
    heads = (3, *part.out_features)
    part.kernel[...] = own["attn.qkv.weight"].reshape(*heads, -1)[i].transpose(2, 0, 1)
    if "attn.qkv.bias" in own:
      part.bias[...] = own["attn.qkv.bias"].reshape(heads)[i]
  out.kernel[...] = own["attn.proj.weight"].T.reshape(out.kernel.shape)
  out.bias[...] = own["attn.proj.bias"]
  for i in (0, 1):
    kernel = own[f"cpe.{i}.proj.weight"]
    block.positions[i].kernel[...] = kernel[:, 0].transpose(1, 2, 0)
    block.positions[i].bias[...] = own[f"cpe.{i}.proj.bias"]
    block.norms[i].scale[...] = own[f"norm{i + 1}.weight"]
    block.norms[i].bias[...] = own[f"norm{i + 1}.bias"]
  for part, label in ((block.feed.up, "fc1"), (block.feed.down, "fc2")):
    part.kernel[...] = own[f"mlp.{label}.weight"].T
    part.bias[...] = own[f"mlp.{label}.bias"]
