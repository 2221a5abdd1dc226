"""The pruning of heads and layers, by usage or importance, in any model of a host.

A model has `blocks` with a `mixer` each, or a `stack` of them, whose parameters are
stacked over the repeats of its pattern. Nothing here is drawn: of equal numbers the
lower head, or the earlier layer, is kept. A pruned model is a smaller one, and the old
one stays as it is.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from attnjax.variants.heads.specialized_heads import routing
from attnjax.variants.heads.specialized_heads.layer import Layer
from attnjax.variants.heads.specialized_heads.routing import Usage

IMPORTANCES = ("gate", "magnitude")


def usage(model: Any, *inputs: Array, **context: Any) -> list[Usage]:
  """Returns the usage of each layer's heads on a batch, in the order of the layers.

  Args:
    model: with `trace`, as all hosts have.
    *inputs: of the model.
    **context: of its call; padding counts nowhere.

  Raises:
    ValueError: if a layer has no router.
  """
  found = []
  for index, heads in enumerate(model.trace(*inputs, **context).heads):
    if heads is None or "logits" not in heads.more:
      raise ValueError(f"layer {index} has no router: its heads are not counted")
    found.append(routing.usage(heads.more["logits"], heads.more["weight"]))
  return found


def contributions(model: Any, *inputs: Array, **context: Any) -> Float[Array, "L"]:
  """Returns |y - x| / |x| of each block, by which layers are chosen."""
  hidden = model.trace(*inputs, **context).hidden
  ids, valid = context.get("segment_ids"), context.get("valid")
  found = []
  for x, y in zip(hidden, hidden[1:]):
    real = jnp.ones(x.shape[:2], bool) if valid is None else valid
    real = real if ids is None else real & (ids >= 0)
    change, size = (
      jnp.sqrt(jnp.sum(jnp.where(real[..., None], z, 0) ** 2)) for z in (y - x, x)
    )
    found.append(change / jnp.maximum(size, 1e-30))
  return jnp.stack(found)


def importance(
  model: Any, loss: Callable[..., Array], batch: Any = None, *, kind: str = "gate"
) -> list[Float[Array, "N"]]:
  """Returns the importance of each layer's heads, for attention of any kind.

  Paul Michel, Omer Levy, Graham Neubig. Are Sixteen Heads Really Better than One?
  arXiv:1905.10650, section 4.1: a head's output is multiplied by a gate, and the mean
  over examples of |d loss / d gate| at gate 1 is its importance, here divided by the
  norm over the layer's heads, as there.

  Args:
    model: whose mixers have an `out` projection with a kernel (N, H, D).
    loss: (model, one example) to a scalar; not used by "magnitude".
    batch: a tree of arrays whose first axis counts examples.
    kind: "gate", or "magnitude": the norm of the head's part of the projection.

  Raises:
    ValueError: if the kind is unknown.
  """
  if kind not in IMPORTANCES:
    raise ValueError(f"kind {kind!r}; it is one of {', '.join(IMPORTANCES)}")
  kernels = [one.out.kernel[...] for one in _mixers(model)]
  if kind == "magnitude":
    found = [jnp.sqrt((kernel**2).sum(axis=(-2, -1))) for kernel in kernels]
    return _in_order(model, found)

  def of_one(example):
    slopes = [x.out.kernel[...] for x in _mixers(jax.grad(loss)(model, example))]
    return [jnp.abs((k * g).sum(axis=(-2, -1))) for k, g in zip(kernels, slopes)]

  found = [x.mean(axis=0) for x in jax.lax.map(of_one, batch)]
  sizes = [jnp.sqrt((x**2).sum(axis=-1, keepdims=True)) for x in found]
  return _in_order(model, [x / jnp.maximum(y, 1e-30) for x, y in zip(found, sizes)])


def prune(
  model: Any,
  found: Sequence[Any],
  keep: int | float = 1,
  *,
  layers: int | None = None,
) -> Any:
  """Returns the model with some heads of each layer.

  Of a routed layer with one head left the router goes, and the mean gate of its picks
  is folded into the expander: where the router took that head alone, and its gate was
  the mean, the output stays. With more heads the router takes one of these.

  Args:
    model: of `specialized_heads`, or of attention with `qkv` and `out` projections and
      as many heads of keys as of queries.
    found: for each layer its `Usage`, or importances (N,).
    keep: how many heads a layer keeps, an int; or a float: all with that share of the
      layer's usage or importance, and at least the first.
    layers: so many layers are pruned, those whose best head has the largest share; all
      if None. Only of a model without stacked parameters.

  Raises:
    ValueError: if a number does not fit, or layers of one stack would differ.
  """
  model = _copied(model)
  groups = list(_groups(model))
  count = sum(len(places) for _, places in groups)
  if len(found) != count:
    raise ValueError(f"usage of {len(found)} layers for a model of {count}")
  scores = [np.asarray(x.rate if isinstance(x, Usage) else x) for x in found]
  chosen = _clearest(scores, layers)
  for block, places in groups:
    kept = [_best(scores[i], keep) for i in places if i in chosen]
    if not kept:
      continue
    if len(kept) < len(places) or len({len(x) for x in kept}) > 1:
      raise ValueError(f"layers {places} are stacked: all keep as many heads")
    one = len(places) == 1 and not hasattr(model, "stack")
    parts: list[Any] = [np.stack(kept)]
    if isinstance(found[places[0]], Usage):
      parts.append(jnp.stack([found[i].gate for i in places]))
    block.mixer = pruned(block.mixer, *(x[0] if one else x for x in parts))
  return model


def prune_layers(model: Any, scores: Any, keep: int) -> Any:
  """Returns the model with the `keep` layers of the largest scores (L,), in order.

  Raises:
    ValueError: if it keeps none or more than there are, or the pattern has several
      mechanisms.
  """
  scores = np.asarray(scores)
  if not 1 <= keep <= scores.size:
    raise ValueError(f"keep = {keep} of {scores.size} layers")
  index = np.sort(np.argsort(-scores, kind="stable")[:keep])
  model = _copied(model)
  if hasattr(model, "stack"):
    if len(model.stack.blocks) > 1:
      raise ValueError("a pattern of several mechanisms: its layers stay")
    (block,) = model.stack.blocks
    rows = jax.tree.map(lambda x: x[index], block)
    model.stack.blocks = nnx.List([rows])
    model.stack.depth = keep
  else:
    model.blocks = nnx.List([model.blocks[int(i)] for i in index])
  return model


def pruned(layer: Any, index: Any, gates: Float[Array, "*R N"] | None = None) -> Any:
  """Returns a layer with the heads `index` (*R, n), R repeats if it is stacked.

  Args:
    layer: see `prune`.
    index: numbers of the heads.
    gates: the mean gates of all heads, which are folded where one head is left.
  """
  layer, number = _copied(layer), index.shape[-1]
  for part in (layer.qkv.query, layer.qkv.key, layer.qkv.value):
    part.kernel = nnx.Param(_heads(part.kernel[...], index, -2))
    if part.bias is not None:
      part.bias = nnx.Param(_heads(part.bias[...], index, -2))
  if not isinstance(layer, Layer):
    layer.out.kernel = nnx.Param(_heads(layer.out.kernel[...], index, -3))
    if hasattr(layer, "kv_heads"):
      layer.kv_heads = number
    return layer
  layer.heads = number
  if layer.router is not None:
    if number > 1:
      layer.router.kernel = nnx.Param(_heads(layer.router.kernel[...], index, -1))
    else:
      layer.router = None
      if gates is not None:
        up, gate = layer.expander.up.kernel[...], _heads(gates, index, -1)
        layer.expander.up.kernel = nnx.Param(up * gate[..., None].astype(up.dtype))
  return layer


def _groups(model: Any) -> Iterator[tuple[Any, list[int]]]:
  """Yields (block, the numbers of the layers whose parameters it holds)."""
  if not hasattr(model, "stack"):
    yield from ((block, [i]) for i, block in enumerate(model.blocks))
    return
  blocks = model.stack.blocks
  for place, block in enumerate(blocks):
    yield block, list(range(place, model.stack.depth, len(blocks)))


def _mixers(model):
  return [block.mixer for block, _ in _groups(model)]


def _in_order(model, found):
  """Returns the rows of stacked results in the order of the layers."""
  rows = {}
  for (_, places), x in zip(_groups(model), found):
    rows |= dict(zip(places, x if x.ndim > 1 else x[None]))
  return [rows[i] for i in sorted(rows)]


def _clearest(scores, layers) -> set[int]:
  """Returns the layers that are pruned, by the share of their best head."""
  if layers is None:
    return set(range(len(scores)))
  if not 0 <= layers <= len(scores):
    raise ValueError(f"layers = {layers} of {len(scores)}")
  share = [-x.max() / max(x.sum(), 1e-30) for x in scores]
  return set(np.argsort(share, kind="stable")[:layers].tolist())


def _best(score, keep) -> np.ndarray:
  """Returns the heads that are kept, in their order."""
  order = np.argsort(-score, kind="stable")
  if isinstance(keep, float):
    number = max(int((score / max(score.sum(), 1e-30) >= keep).sum()), 1)
  else:
    number = keep
  if not 1 <= number <= score.size:
    raise ValueError(f"keep = {keep} of {score.size} heads")
  return np.sort(order[:number])


def _heads(x, index, axis):
  """Takes the heads `index` (n,), or (R, n) of each repeat, of an axis of x."""
  if index.ndim == 1:
    return jnp.take(x, jnp.asarray(index), axis=axis)
  return jnp.stack([jnp.take(row, i, axis=axis) for row, i in zip(x, index)])


def _copied(tree):
  return jax.tree.map(lambda x: x, tree)
