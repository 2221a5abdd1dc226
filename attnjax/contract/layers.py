"""Checks that all forms of layers share, and those of layers on sequences."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from attnjax.contract import context as contexts
from attnjax.contract import registry
from attnjax.contract.subject import (
  DOCUMENTS,
  LENGTH,
  Subject,
  close,
  equal,
  require,
)


def composes_with_jax(subject: Subject) -> None:
  """Checks jit, grad and remat: every parameter has a finite gradient that is not 0."""
  y, grads = subject.plain["y"], subject.plain["grads"]
  require(y.shape == subject.x.shape, f"{y.shape} of {subject.x.shape}")
  remat = jax.checkpoint(subject.loss)
  again, _ = jax.jit(jax.grad(remat, (0, 1), has_aux=True))(subject.layer, subject.x)
  close(again, grads)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    require(np.isfinite(leaf).all(), f"the gradient of {name} is not finite")
    require((np.asarray(leaf) != 0).any(), f"{name} has no gradient")


def holds_only_float_parameters(subject: Subject) -> None:
  """Checks that a layer stores no random key, cache, statistic or integer array."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(subject.layer):
    name = jax.tree_util.keystr(path)
    require(leaf.dtype == jnp.float32, f"{name} is {leaf.dtype}")
  held = nnx.state(subject.layer, nnx.BatchStat)
  require(not jax.tree.leaves(held), "a running statistic would be trained")


def takes_no_examples_and_no_tokens(subject: Subject) -> None:
  """Checks that empty inputs give empty results, and gradients of 0."""
  image = subject.form == "image"
  for shape in [(0, 4, 6), (2, 0, 6)] if image else [(0, 7), (2, 0)]:
    x = jnp.ones((*shape, subject.dim))
    grads, y = jax.grad(subject.loss, has_aux=True)(subject.layer, x)
    require((y.shape, y.dtype) == (x.shape, x.dtype), f"{y.shape} of {x.shape}")
    require(not any(g.any() for g in jax.tree.leaves(grads)), "a gradient is not 0")
    if subject.form == "causal":
      cache = subject.layer.init_cache(2, 4, jnp.float32)
      y, after = subject.layer.step(x, cache)
      require(y.shape == x.shape, f"step: {y.shape} of {x.shape}")
      equal(after, cache)


def traces_in_a_checked_shard_map(subject: Subject) -> None:
  """Checks that batches may be divided, parameters not, and no rank is promoted.

  Forward pass, backward pass and one step are only traced, which is cheap.
  """
  x = jax.ShapeDtypeStruct((2, *subject.x.shape[1:]), jnp.float32)
  mesh = jax.sharding.AbstractMesh((2,), ("x",), (AxisType.Auto,))

  def gradients(layer, x):
    def loss(layer, x):
      return jax.lax.psum(jnp.sum(layer(x)), "x")

    return jax.grad(loss, (0, 1))(layer, x)

  def step(layer, x):
    cache = layer.init_cache(1, x.shape[1], jnp.float32)
    return layer, layer.step(x, cache)[0]

  causal = subject.form == "causal"
  with jax.numpy_rank_promotion("raise"):
    for run in (gradients, step) if causal else (gradients,):
      specs = P(), P("x")
      call = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=specs)
      by_layer, by_x = jax.eval_shape(call, subject.layer, x)
      require(by_x.shape == x.shape, f"{by_x.shape} of {x.shape}")
      shapes = [jax.tree.map(jnp.shape, tree) for tree in (by_layer, subject.layer)]
      require(jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1]), "parameters")


def gives_every_option_a_default(subject: Subject) -> None:
  """Checks that hyper-parameters are keywords with a default; LAYER has no others."""
  slug = subject.module.__name__.rpartition(".")[2]
  options = registry.defaults(slug)
  unknown = set(subject.module.LAYER) - {*registry.HOST_ARGUMENTS, *options}
  require(not unknown, f"LAYER has {unknown}, which are no options")
  parameters = inspect.signature(subject.module.Layer.__init__).parameters
  for name in options:
    keyword = parameters[name].kind == inspect.Parameter.KEYWORD_ONLY
    require(keyword, f"{name} is no keyword argument")


def weighs_tokens(subject: Subject) -> None:
  """Checks that weights, where there are some, are (B, N, T, T) float32."""
  x = subject.x[:1]
  size = math.prod(x.shape[1:-1])
  try:
    got = jax.eval_shape(lambda layer: contexts.weights(layer, x), subject.layer)
  except NotImplementedError as error:
    return require(len(str(error)) > 20, f"no reason is given: {error}")
  except AttributeError as error:
    raise AssertionError(f"weights neither work nor are refused: {error}") from error
  require(got.dtype == jnp.float32, f"weights are {got.dtype}")
  fits = got.shape[0] == 1 and got.shape[2:] == (size, size)
  return require(fits, f"weights of {size} tokens are {got.shape}")


LAYERS = (
  weighs_tokens,
  composes_with_jax,
  holds_only_float_parameters,
  takes_no_examples_and_no_tokens,
  traces_in_a_checked_shard_map,
  gives_every_option_a_default,
)


def packs_documents(subject: Subject) -> None:
  """Checks that documents packed in one row give the results of each alone."""
  x = subject.x.reshape(1, -1, subject.dim)
  ids = jnp.repeat(jnp.array([[4, 7, 2]]), LENGTH, axis=1)
  run = jax.jit(lambda layer, x: layer(x, segment_ids=ids))
  if "segment_ids" in subject.refused:
    return refuses(subject, segment_ids=ids)
  got = run(subject.layer, x).reshape(subject.x.shape)
  close(got, subject.plain["y"])


def ignores_padding(subject: Subject) -> None:
  """Checks that padding, also NaN or infinity, changes no result and no gradient."""
  real = subject.real
  if "valid" in subject.refused:
    return refuses(subject, valid=real[:1])

  @jax.jit
  def run(layer, x):
    def loss(layer, x):
      y = layer(x, valid=real)
      return jnp.sum(jnp.sin(y) * real[..., None]), y

    return jax.grad(loss, (0, 1), has_aux=True)(layer, x)

  want, got = (
    run(subject.layer, subject.padded(fill))
    for fill in ([0.0] * DOCUMENTS, [jnp.nan, jnp.inf, jnp.nan])
  )
  # Gradients and results equal those with zeros at the padding.
  equal(got, want)
  (by_layer, by_x), y = got
  require(jnp.isfinite(y).all(), "a result at the padding is not finite")
  require(not by_x[~real].any(), "the padding has a gradient")
  close(subject.unpadded(y), subject.plain["y"])
  close((by_layer, subject.unpadded(by_x)), subject.plain["grads"])


def honours_positions(subject: Subject) -> None:
  """Checks that positions are read: counting is the default, others differ.

  Tables of positions may begin with zeros, which tell no position from another: with
  other parameters the results must differ.
  """
  places = jnp.arange(LENGTH)
  if "positions" in subject.refused:
    return refuses(subject, positions=places[None])
  run = jax.jit(lambda layer, x, positions: layer(x, positions=positions))
  close(run(subject.layer, subject.x, places), subject.plain["y"])

  def moved(leaf):
    noise = np.random.default_rng(leaf.size).standard_normal(leaf.shape, np.float32)
    return np.asarray(leaf) + np.float32(0.1) * noise

  layer = jax.tree.map(moved, subject.layer)
  got, other = (run(layer, subject.x, p) for p in (places, places**2))
  require(jnp.abs(other - got).max() > 1e-4, "positions change nothing")


def refuses(subject: Subject, **context) -> None:
  """Raises AssertionError unless the layer refuses, with a reason."""
  size = next(iter(context.values())).shape[1]
  x = jnp.zeros((1, size, subject.dim))
  try:
    subject.layer(x, **context)
  except NotImplementedError as error:
    return require(len(str(error)) > 20, f"no reason is given: {error}")
  raise AssertionError(f"`refuses` names {list(context)}, which the layer takes")


SEQUENCES = (packs_documents, ignores_padding, honours_positions)
