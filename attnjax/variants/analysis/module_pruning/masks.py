"""Masks of weights by modules, and what is left under them."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import sharding
from attnjax.contract import check_known
from attnjax.variants.analysis.module_pruning import scores

# (module, pattern of the paths of its weights). The group "layer", or else the path
# without the parameter's name, names the layer whose weights are scored together.
RULES = (
  ("qkv", r"(?P<layer>(?:.*/)?qkv)/(?:query|key|value)/kernel"),
  ("projection", r"(?:.*/)?mixer/(?:out|proj)/kernel"),
  ("mlp", r"(?:.*/)?(?:mlp|feed)/(?:gate|up|down)/kernel"),
)
POOLS = ("module", "model", "layer")
SCORES = ("dimap", "magnitude")
Rules = Sequence[tuple[str, str]] | Callable[[str], str | None]


@dataclasses.dataclass(frozen=True)
class PrunedLayer:
  """The weights of one layer among a model's parameters.

  Attributes:
    module: the name of its module.
    name: of the layer.
    leaves: (number of the leaf, repeat of a stack or None) of each part.
    weights: all of its weights, one after the other.
  """

  module: str
  name: str
  leaves: tuple[tuple[int, int | None], ...]
  weights: np.ndarray


def layers(params: Any, rules: Rules = RULES) -> list[PrunedLayer]:
  """Returns the layers that can be pruned; others, AUX-M, are no one's.

  Query, key and value projections are one layer. Parameters that `nn.stack.Stack` has
  stacked are one layer for each repeat.

  Args:
    params: a model, or a tree of its parameters.
    rules: see RULES; or a function of a path to the module's name, or None.

  Raises:
    ValueError: if no parameter belongs to a module.
  """
  found: dict[tuple[str, str], list] = {}
  for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
    module, name = _module(sharding.path_name(path), rules)
    if module is None:
      continue
    repeats = range(len(leaf)) if sharding.is_stacked(path) else [None]
    for repeat in repeats:
      own = name if repeat is None else f"{name}#{repeat}"
      weight = np.asarray(leaf if repeat is None else leaf[repeat])
      found.setdefault((module, own), []).append(((number, repeat), weight.ravel()))
  if not found:
    raise ValueError("no parameter belongs to a module of these rules")
  return [
    PrunedLayer(
      *key, tuple(at for at, _ in parts), np.concatenate([w for _, w in parts])
    )
    for key, parts in found.items()
  ]


def dimap_masks(
  params: Any,
  sparsity: float | Mapping[str, float],
  *,
  rules: Rules = RULES,
  pool: str = "module",
  score: str = "dimap",
) -> Any:
  """Returns a tree like the parameters of booleans, True at the weights that stay.

  The scores of all layers of a pool are ranked together, and the floor(sparsity x
  size) lowest go; of equal ones the first. Parameters of no module stay.

  Args:
    params: a model, or a tree of its parameters.
    sparsity: the share of the modules' weights that goes, below 1; or one a module.
    rules: which parameters belong to which module and layer.
    pool: "module"; "model": one pool of all modules; "layer": each for itself.
    score: "dimap", or "magnitude".

  Raises:
    ValueError: for an unknown word, a sparsity out of range or of no module.
  """
  check_known("pool", pool, POOLS)
  check_known("score", score, SCORES)
  found = layers(params, rules)
  shares = _shares(sparsity, {layer.module for layer in found}, pool)
  pools: dict[str, list[PrunedLayer]] = {}
  for layer in found:
    key = {"module": layer.module, "model": "", "layer": f"{layer.module} {layer.name}"}
    pools.setdefault(key[pool], []).append(layer)
  leaves, tree = jax.tree.flatten(params)
  masks = [np.ones(np.shape(leaf), bool) for leaf in leaves]
  rank = scores.exact_scores if score == "dimap" else _magnitude
  for members in pools.values():
    values = np.concatenate([rank(layer.weights) for layer in members])
    count = int(np.floor(shares[members[0].module] * values.size + 1e-9))
    kept = np.ones(values.size, bool)
    kept[np.argsort(values, kind="stable")[:count]] = False
    for (number, repeat), part in _parts(members, masks, kept):
      masks[number][() if repeat is None else repeat] = part
  return jax.tree.unflatten(tree, [jnp.asarray(mask) for mask in masks])


def apply_masks(params: Any, masks: Any) -> Any:
  """Returns the parameters, 0 where a mask is False."""
  return jax.tree.map(lambda p, m: jnp.where(m, p, 0), params, masks)


def report(params: Any, masks: Any, rules: Rules = RULES) -> dict[str, dict[str, Any]]:
  """Returns the sizes of each module, of the rest and of the model under masks.

  Returns:
    name -> "parameters", "left", their numbers; "sparsity", the share that is gone; and
    "flops", 2 for each weight of a module that is left, a token.
  """
  found = layers(params, rules)
  kept = layers(masks, rules)
  rows: dict[str, list[int]] = {}
  for layer, mask in zip(found, kept):
    row = rows.setdefault(layer.module, [0, 0])
    row[0] += layer.weights.size
    row[1] += int(mask.weights.sum())
  whole = [
    sum(int(count(x)) for x in jax.tree.leaves(tree))
    for tree, count in ((params, np.size), (masks, np.sum))
  ]
  modules = [sum(row[i] for row in rows.values()) for i in (0, 1)]
  flops = {name: 2 * row[1] for name, row in rows.items()}
  rows["rest"] = [a - b for a, b in zip(whole, modules)]
  rows["model"] = whole
  flops |= {"rest": 0, "model": sum(flops.values())}
  return {
    name: {
      "parameters": size,
      "left": left,
      "sparsity": 1 - left / size if size else 0.0,
      "flops": flops[name],
    }
    for name, (size, left) in rows.items()
  }


def _module(path: str, rules: Rules) -> tuple[str | None, str]:
  """Returns the module and the layer of a path; (None, "") if it has none."""
  if callable(rules):
    return rules(path), path.rpartition("/")[0]
  for module, pattern in rules:
    if match := re.fullmatch(pattern, path):
      return module, match.groupdict().get("layer") or path.rpartition("/")[0]
  return None, ""


def _shares(sparsity, modules, pool) -> dict[str, float]:
  """Returns each module's sparsity."""
  if isinstance(sparsity, Mapping):
    if pool == "model":
      raise ValueError("a sparsity for each module needs a pool of modules or layers")
    for name in sparsity:
      check_known("module", name, modules)
    shares = {name: sparsity.get(name, 0.0) for name in modules}
  else:
    shares = dict.fromkeys(modules, sparsity)
  for share in shares.values():
    if not 0 <= share < 1:
      raise ValueError(f"sparsity = {share}; it must be at least 0 and below 1")
  return shares


def _parts(members, masks, kept) -> Iterator[tuple[tuple[int, int | None], np.ndarray]]:
  """Yields the place of each part of the layers, and its part of the mask."""
  at = 0
  for layer in members:
    for number, repeat in layer.leaves:
      shape = masks[number].shape[repeat is not None :]
      size = int(np.prod(shape))
      yield (number, repeat), kept[at : at + size].reshape(shape)
      at += size


def _magnitude(w) -> np.ndarray:
  return np.abs(np.asarray(w, np.float64))
