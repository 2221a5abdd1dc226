"""Running statistics of the batch norms inside a module: handed in, handed out.

A module that has batch norm somewhere inside is called as

  stats = layer.init_stats()
  y, stats = layer(x, stats=stats, train=True)   # a step of training
  y, _ = layer(x, stats=stats)                   # evaluation

and raises ValueError without `stats`. Where a module has none, its statistics are `()`.
A batch that comes in parts is measured in parts:

  moments = init_moments(stats)
  for part in parts:
    y, moments = layer(part, stats=moments, train=True)
  stats = moved(layer, stats, moments)           # one step of the running statistics
"""

import operator
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.nn.norms import BatchNorm, Moments, Stats, rule


class Carry:
  """The statistics of a module's parts during a call: handed in, and gathered.

    carry = Carry(self, stats, train)
    x = carry(self.first, x)       # self.first(x), with its statistics if it has any
    return carry.result(x)         # (x, new statistics); x alone if stats is None

  Raises:
    ValueError: if the module has batch norm and `stats` is None, or of other parts.
  """

  def __new__(cls, module: nnx.Module, stats: Any, train: bool):
    """Returns a carry that passes no statistics if no part has batch norm."""
    kind: Any = cls if _has_norm(module) else _Nothing
    return super().__new__(kind)

  def __init__(self, module: nnx.Module, stats: Any, train: bool):
    names = {id(part): name for name, part in _parts(module) if _has_norm(part)}
    if names and not stats:
      raise ValueError(rule(module))
    self._given, self._names, self.train = stats is not None, names, train
    self._stats = dict(stats or ())
    if set(names.values()) != set(self._stats):
      raise ValueError(
        f"stats of {sorted(self._stats)}: {type(module).__name__} has batch norm in"
        f" {sorted(names.values())}"
      )

  def __call__(self, part: Any, *arguments, **options) -> Any:
    """Calls a part of the module with its statistics, and returns its output."""
    y, stats = apply(part, *arguments, stats=self.of(part), train=self.train, **options)
    self.keep(part, stats)
    return y

  def of(self, part: Any) -> Any:
    """Returns the statistics of a part, `()` if it has none."""
    return self._stats[self._names[id(part)]] if id(part) in self._names else ()

  def keep(self, part: Any, stats: Any) -> None:
    """Stores the new statistics of a part."""
    if id(part) in self._names:
      self._stats[self._names[id(part)]] = stats

  def plain(self, module: Any) -> Any:
    """Returns the module of this carry as a function of x to its output alone."""
    stats = self._stats or ()
    return lambda x: apply(module, x, stats=stats, train=self.train)[0]

  def result(self, y: Any) -> Any:
    """Returns (y, new statistics), or y alone if the call was given no statistics."""
    return (y, self._stats or ()) if self._given else y


class _Nothing(Carry):
  """The carry of a module without batch norm."""

  __call__ = staticmethod(operator.call)


def given(stats: Any, train: bool) -> dict[str, Any]:
  """Returns the options `stats` and `train` of a call; {} if `stats` is `()`."""
  if isinstance(stats, tuple) and not stats:
    return {}
  return {"stats": stats, "train": train}


def apply(part: Any, *arguments, stats: Any, train: bool, **options) -> tuple[Any, Any]:
  """Returns (y, new statistics) of a layer, which gets no `stats` if they are `()`."""
  own = given(stats, train)
  y = part(*arguments, **own, **options)
  return y if own else (y, ())


def init_stats(module: Any) -> Any:
  """Returns the initial statistics of every batch norm in a module; `()` without any.

  They are a dict by the path of the attribute that has batch norm: {"stages/0/1": ...}.
  """
  return _tree(module, lambda norm: norm.init_stats())


def init_moments(stats: Any) -> Any:
  """Returns the empty moments of a batch, before its first part is measured."""

  def empty(leaf):
    zero = jnp.zeros_like(leaf.mean)
    return Moments(zero[..., 0], zero, zero)

  return jax.tree.map(empty, stats, is_leaf=lambda leaf: isinstance(leaf, Stats))


def moved(module: Any, stats: Any, moments: Any) -> Any:
  """Returns the running statistics of a module after a step with these moments."""
  return _tree(module, lambda norm, *of: norm.after(*of), stats, moments)


def _tree(module, function, *trees):
  """Maps function(batch norm, *its leaves of trees) over the tree of statistics."""
  if isinstance(module, BatchNorm):
    return function(module, *trees)
  found = {
    name: _tree(part, function, *(tree[name] for tree in trees))
    for name, part in _parts(module)
    if _has_norm(part)
  }
  return found or ()


def _parts(module: Any, prefix: str = "") -> Iterator[tuple[str, nnx.Module]]:
  """Yields (path, module) of a module's direct parts, those in lists included."""
  for name, value in vars(module).items():
    if isinstance(value, nnx.List | nnx.Dict):
      yield from _parts(value, f"{prefix}{name}/")
    elif isinstance(value, nnx.Module):
      yield prefix + name, value


def _has_norm(module: Any) -> bool:
  if isinstance(module, BatchNorm):
    return True
  return any(_has_norm(part) for _, part in _parts(module))
