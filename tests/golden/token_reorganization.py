"""EViT against the authors' network: kept patches, logits and gradients."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.tokens import token_reorganization as evit
from attnjax.variants.tokens.token_reorganization import backbone
from tests import networks


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  model = _filled(arrays, meta, meta["fuse_token"])
  x = np.moveaxis(arrays["in.x"], 1, 3)
  outs, gradients = _run(model, x)
  found = {f"out.{name}": y for name, y in outs.items()}
  found["grad.x"] = np.moveaxis(gradients[1], 3, 1)
  found |= {f"grad.{name}": y for name, y in _official(gradients[0]).items()}
  if "out.y_no_fuse" in arrays:
    plain = _filled(arrays, meta, False)
    found["out.y_no_fuse"] = jax.jit(lambda m, x: m(x))(plain, x)
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


@jax.jit
def _run(model, x):
  def total(model, x):
    with _seen() as kept:
      y = model(x)
    outs = {f"kept{i}": jnp.sort(index, axis=1) for i, index in enumerate(kept)}
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), outs | {"y": y}

  gradients, outs = jax.grad(total, (0, 1), has_aux=True)(model, x)
  return outs, gradients


@contextlib.contextmanager
def _seen() -> Iterator[list[Any]]:
  """Records the places of kept patches of every reorganisation."""
  call, kept = backbone.reorganize, []

  def run(x, scores, **options):
    found = call(x, scores, **options)
    if found[1].shape[1] < scores.shape[1]:
      kept.append(found[1])
    return found

  with mock.patch.object(backbone, "reorganize", run):
    yield kept


def _filled(arrays, meta, fuse):
  """The network with the file's parameters."""
  rates, patch = meta["keep_rate"], meta["patch_size"]
  rates = [rates] * meta["depth"] if isinstance(rates, (int, float)) else rates
  places = tuple(i for i, rate in enumerate(rates) if rate < 1)
  sides = [size // patch for size in arrays["in.x"].shape[2:]]

  def build():
    return evit.Model(
      arrays["in.x"].shape[1],
      meta["num_classes"],
      dim=meta["embed_dim"],
      depth=meta["depth"],
      heads=meta["num_heads"],
      patch=patch,
      grid=(sides[0], sides[1]),
      mlp_ratio=meta["mlp_ratio"],
      places=places,
      keep_ratio=tuple(rates[i] for i in places),
      fuse=fuse,
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model, body = filled.model, filled.model.stages
  first, *blocks = body.stages[0].sequence
  filled.convolution(model.stem.project, "patch_embed.proj")
  table = filled.below("pos_embed")[""][0]
  networks.fill(first.token, filled.below("cls_token")[""].ravel())
  networks.fill(first.position, table[0])
  own = first.positions.table
  networks.fill(own, table[1:].reshape(own.shape))
  for i, block in enumerate(blocks):
    _block(filled, block, f"blocks.{i}.")
  filled.norm(body.norms[-1].part, "norm")
  filled.linear(model.head, "head")
  networks.check_epsilon(model, meta["norm_eps"])
  filled.stats()  # nothing is left over
  return model


def _block(filled, block, name):
  filled.norm(block.norm, f"{name}norm1")
  filled.norm(block.feed_norm, f"{name}norm2")
  filled.linear(block.feed.up, f"{name}mlp.fc1")
  filled.linear(block.feed.down, f"{name}mlp.fc2")
  given, layer = filled.below(f"{name}attn."), block.mixer
  parts = layer.qkv.query, layer.qkv.key, layer.qkv.value
  for part, weight, bias in zip(
    parts, np.split(given["qkv.weight"], 3), np.split(given["qkv.bias"], 3)
  ):
    networks.fill(part.kernel, weight.T.reshape(part.kernel.shape))
    networks.fill(part.bias, bias.reshape(part.bias.shape))
  networks.fill(
    layer.out.kernel, given["proj.weight"].T.reshape(layer.out.kernel.shape)
  )
  networks.fill(layer.out.bias, given["proj.bias"])


def _official(model) -> dict[str, Any]:
  """Returns gradients under their official names, in their layouts."""
  first, *blocks = model.stages.stages[0].sequence
  table = first.positions.table[...]
  rows = [first.position[...][None], table.reshape(-1, table.shape[-1])]
  found: dict[str, Any] = {"pos_embed": np.concatenate(rows)[None]}
  for i, block in enumerate(blocks):
    qkv, name = block.mixer.qkv, f"blocks.{i}."
    parts = qkv.query, qkv.key, qkv.value
    kernels = [p.kernel[...].reshape(p.kernel.shape[0], -1).T for p in parts]
    found[f"{name}attn.qkv.weight"] = np.concatenate(kernels)
    biases = [p.bias[...].ravel() for p in parts]
    found[f"{name}attn.qkv.bias"] = np.concatenate(biases)
    linears = {"mlp.fc1": block.feed.up, "mlp.fc2": block.feed.down}
    found |= _linears(name, linears)
    found[f"{name}attn.proj.weight"] = (
      block.mixer.out.kernel[...].reshape(-1, table.shape[-1]).T
    )
    found[f"{name}attn.proj.bias"] = block.mixer.out.bias[...]
    for own, norm in (("norm1", block.norm), ("norm2", block.feed_norm)):
      found |= {
        f"{name}{own}.weight": norm.scale[...],
        f"{name}{own}.bias": norm.bias[...],
      }
  found["cls_token"] = first.token[...][None, None]
  return found | _linears("", {"head": model.head})


def _linears(name, parts):
  weights = {f"{name}{own}.weight": part.kernel[...].T for own, part in parts.items()}
  return weights | {f"{name}{n}.bias": part.bias[...] for n, part in parts.items()}
