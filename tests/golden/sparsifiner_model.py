"""Sparsifiner's whole network against the authors', with and without pruning."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.variants.sparse import sparsifiner
from attnjax.variants.sparse.sparsifiner.backbone import Block
from tests import networks
from tests.golden import sparsifiner as layers


def compare(arrays: Mapping[str, np.ndarray], meta: dict) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result."""
  model = _filled(arrays, meta)
  x = np.moveaxis(arrays["in.x"], 1, 3)
  outs, gradient = _run(model, x, meta["prune_rows"])
  found = {f"out.{name}": y for name, y in outs.items()} | {"grad.x": gradient}
  found["grad.x"] = np.moveaxis(gradient, 3, 1)
  for key in arrays:
    if key.startswith(("out.", "grad.")):
      yield key, found[key], arrays[key]


@functools.partial(jax.jit, static_argnums=2)
def _run(model, x, prune_rows):
  @jax.jit
  def evaluated(x):
    with _seen() as blocks:
      logits = model(x)
    last = model.stages.norms[-1](blocks[-1][2])
    outs = {"logits": logits, "tokens": last.rows[:, 1:]}
    for i, (block, before, after) in enumerate(blocks):
      heads = block.heads(before)
      guess, first = block.mixer.scores(heads), block.mixer.predictor.first
      rate = block.mixer.kept(heads)
      mask = sparsifiner.chosen(guess, first, rate, before.left, whole=True)
      if prune_rows and before.left is not None:
        mask &= before.left[:, None, :, None]
      outs |= {f"attn_mask{i}": mask, f"approx_attn{i}": guess}
      left = jnp.ones(guess.shape[::3], bool) if after.left is None else after.left
      outs[f"token_mask{i}"] = left[:, 1:]
    return outs

  def total(x):
    outs = evaluated(x)
    y = outs["logits"]
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), outs

  (_, outs), gradient = jax.value_and_grad(total, has_aux=True)(x)
  return outs, gradient


@contextlib.contextmanager
def _seen() -> Iterator[list[tuple[Any, Any, Any]]]:
  """Records (block, input, output) of every call of a block."""
  call, kept = Block.__call__, []

  def run(self, x, **options):
    y = call(self, x, **options)
    kept.append((self, x, y))
    return y

  with mock.patch.object(Block, "__call__", run):
    yield kept


def _filled(arrays, meta):
  """The network with the file's parameters."""
  share, shares = 1.0, []
  for own, prunes in zip(meta["token_keep_rate"], meta["token_pruning"]):
    share = own if prunes else share
    shares.append(share)
  predictor = "blocks.0.attn.mask_predictor."
  patch = meta["patch_size"]

  def build():
    return sparsifiner.Model(
      meta["channels"],
      meta["classes"],
      dim=meta["embed_dim"],
      depth=meta["depth"],
      heads=meta["num_heads"],
      patch=patch,
      grid=(meta["image"][0] // patch, meta["image"][1] // patch),
      mlp_ratio=meta["mlp_ratio"],
      shares=tuple(shares),
      keep_ratio=meta["attn_keep_rate"],
      reduce_n=meta["reduce_n_factor"],
      reduce_c=meta["reduce_c_factor"],
      tie=f"param.{predictor}proj_back_n" not in arrays,
      top=meta["coef_topk"],
      threshold=meta["basis_threshold"],
      distill=0.0,
      qkv_bias="param.blocks.0.attn.qkv.bias" in arrays,
      rngs=nnx.Rngs(0),
    )

  filled = networks.Filled(build, arrays)
  model, body = filled.model, filled.model.stages
  first, *blocks = body.stages[0].sequence
  filled.convolution(model.stem.project, "patch_embed.proj")
  table = filled.below("pos_embed")[""][0]
  networks.fill(first.token, filled.below("cls_token")[""].ravel())
  networks.fill(first.position, table[0])
  places = first.positions.table
  networks.fill(places, table[1:].reshape(places.shape))
  for i, block in enumerate(blocks):
    name = f"blocks.{i}."
    filled.norm(block.norm, f"{name}norm1")
    layers.fill(block.mixer, filled.below(f"{name}attn."))
    filled.norm(block.feed_norm, f"{name}norm2")
    filled.linear(block.feed.up, f"{name}mlp.fc1")
    filled.linear(block.feed.down, f"{name}mlp.fc2")
  filled.norm(body.norms[-1].part, "norm")
  filled.linear(model.head, "head")
  networks.check_epsilon(model, meta["norm_eps"])
  filled.stats()  # nothing is left over
  return model
