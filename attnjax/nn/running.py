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
  """Hands the parts of a module their statistics, and gathers the new ones.

    carry = Carry(self, stats, train)
    x = carry(self.first, x)       # self.first(x), with its statistics if it has any
    return carry.result(x)         # (x, new statistics); x alone if stats is None

  Raises:
    ValueError: if the module has batch norm and `stats` is None, or not of it.
  """

  def __new__(cls, module: nnx.Module, stats: Any, train: bool):
    """Returns a carry that calls parts as they are where none has batch norm."""
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
    """The result of a part of the module."""
    y, stats = apply(part, *arguments, stats=self.of(part), train=self.train, **options)
    self.keep(part, stats)
    return y

  def of(self, part: Any) -> Any:
    """The statistics of a part, `()` if it has none."""
    return self._stats[self._names[id(part)]] if id(part) in self._names else ()

  def keep(self, part: Any, stats: Any) -> None:
    """Takes the new statistics of a part."""
    if id(part) in self._names:
      self._stats[self._names[id(part)]] = stats

  def plain(self, module: Any) -> Any:
    """The module whose carry this is, as a function of x to its output alone."""
    stats = self._stats or ()
    return lambda x: apply(module, x, stats=stats, train=self.train)[0]

  def result(self, y: Any) -> Any:
    """What the module's call returns for its output y."""
    return (y, self._stats or ()) if self._given else y


class _Nothing(Carry):
  """The carry of a module without batch norm."""

  __call__ = staticmethod(operator.call)


def given(stats: Any, train: bool) -> dict[str, Any]:
  """Returns the options of a layer's call, which need not know of empty statistics."""
  if isinstance(stats, tuple) and not stats:
    return {}
  return {"stats": stats, "train": train}


def apply(part: Any, *arguments, stats: Any, train: bool, **options) -> tuple[Any, Any]:
  """(y, new statistics) of a layer, which need not know of them if they are `()`."""
  own = given(stats, train)
  y = part(*arguments, **own, **options)
  return y if own else (y, ())


def init_stats(module: Any) -> Any:
  """The statistics of every batch norm in a module, as they begin; `()` without any.

  A dict of the parts that have some, by the path of the attribute: {"stages/0/1": ...}.
  """
  return _tree(module, lambda norm: norm.init_stats())


def init_moments(stats: Any) -> Any:
  """What has been measured of a batch before its first part: nothing."""

  def empty(leaf):
    zero = jnp.zeros_like(leaf.mean)
    return Moments(zero[..., 0], zero, zero)

  return jax.tree.map(empty, stats, is_leaf=lambda leaf: isinstance(leaf, Stats))


def moved(module: Any, stats: Any, moments: Any) -> Any:
  """The running statistics of a module after one step with what was measured."""
  return _tree(module, lambda norm, *of: norm.after(*of), stats, moments)


def _tree(module, function, *trees):
  """A tree of statistics: the function of each batch norm and its leaves of others."""
  if isinstance(module, BatchNorm):
    return function(module, *trees)
  found = {
    name: _tree(part, function, *(tree[name] for tree in trees))
    for name, part in _parts(module)
    if _has_norm(part)
  }
  return found or ()


def _parts(module: Any, prefix: str = "") -> Iterator[tuple[str, nnx.Module]]:
  """(path, module) of the modules right below one, those in lists included."""
  for name, value in vars(module).items():
    if isinstance(value, nnx.List | nnx.Dict):
      yield from _parts(value, f"{prefix}{name}/")
    elif isinstance(value, nnx.Module):
      yield prefix + name, value


def _has_norm(module: Any) -> bool:
  if isinstance(module, BatchNorm):
    return True
  return any(_has_norm(part) for _, part in _parts(module))
