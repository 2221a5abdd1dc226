"""Whole networks against the authors' runs: parameters, statistics and results.

The parameters of a file are set in place in a network that holds NumPy arrays of NaN:
one that a file does not have shows, and so does one of the file that no part takes.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn import running
from attnjax.nn.class_token import rows_of
from attnjax.nn.norms import BatchNorm, Stats
from attnjax.nn.stages import Stage

_ENDS = ("weight", "bias")


class Filled:
  """A network that takes the parameters and the statistics of a file, part by part."""

  def __init__(self, build: Callable[..., Any], arrays: Mapping[str, np.ndarray]):
    def nothing(leaf):
      return np.full(leaf.shape, np.nan, leaf.dtype)

    self.model: Any = jax.tree.map(nothing, jax.eval_shape(build))
    self.arrays, self._names, self._left = arrays, {}, set()
    for key in arrays:
      if key.startswith("param.") and not key.endswith("num_batches_tracked"):
        self._left.add(key.removeprefix("param."))

  def below(self, prefix: str) -> dict[str, np.ndarray]:
    """Takes all parameters whose names begin so; returns them by the rest of these."""
    found = {name for name in self._left if name.startswith(prefix)}
    self._left -= found
    return {name.removeprefix(prefix): self.arrays[f"param.{name}"] for name in found}

  def linear(self, part: Any, name: str) -> None:
    """Sets a linear map from weights (out, in), or of a convolution of 1 x 1."""
    weights = self._own(name, _ENDS)
    weight = weights["weight"]
    fill(part.kernel, weight.reshape(weight.shape[:2]).T)
    if "bias" in weights:
      fill(part.bias, weights["bias"])

  def convolution(self, part: Any, name: str) -> None:
    """Sets a convolution from weights (out, in, rows, columns)."""
    weights = self._own(name, _ENDS)
    weight = weights["weight"].transpose(2, 3, 1, 0)
    fill(part.kernel, weight.reshape(part.kernel.shape))
    if "bias" in weights:
      fill(part.bias, weights["bias"])

  def depthwise(self, part: Any, name: str) -> None:
    """Sets a depthwise convolution from weights (channels, 1, rows, columns)."""
    weights = self._own(name, _ENDS)
    fill(part.kernel, weights["weight"][:, 0].transpose(1, 2, 0))
    fill(part.bias, weights["bias"])

  def norm(self, part: Any, name: str) -> None:
    """Sets a norm's scale and bias, and remembers whose statistics a batch norm has."""
    weights = self._own(name, _ENDS)
    fill(part.scale, weights["weight"])
    fill(part.bias, weights["bias"])
    if isinstance(part, BatchNorm):
      self._own(name, ("running_mean", "running_var"))
      self._names[id(part)] = name

  def stats(self) -> Any:
    """Returns the running statistics of the file; `()` for a network without any."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(self.model):
      if np.isnan(leaf).any():
        raise ValueError(f"the file has no {jax.tree_util.keystr(path)}")
    if self._left:
      raise ValueError(f"no part takes {sorted(self._left)}")
    return self._stats(self.model, running.init_stats(self.model))

  def named(self, stats: Any) -> dict[str, Any]:
    """Returns statistics by their names in a file."""
    found = {}
    for part, leaf in _leaves(self.model, stats):
      own = self._names[id(part)]
      found |= {f"{own}.running_mean": leaf.mean, f"{own}.running_var": leaf.var}
    return found

  def _own(self, name, ends):
    self._left -= {f"{name}.{end}" for end in ends}
    known = {end: f"param.{name}.{end}" for end in ends}
    return {end: self.arrays[key] for end, key in known.items() if key in self.arrays}

  def _stats(self, part, tree):
    if isinstance(tree, Stats):
      own = f"param.{self._names[id(part)]}.running_"
      return Stats(*(self.arrays[own + end] for end in ("mean", "var")))
    return {n: self._stats(_at(part, n), own) for n, own in dict(tree).items()} or ()


def fill(parameter: Any, value: np.ndarray) -> None:
  """Sets a parameter in place.

  Raises:
    ValueError: for another shape.
  """
  if parameter.shape != value.shape:
    raise ValueError(f"{parameter.shape} cannot hold {value.shape}")
  parameter[...] = value


def check_epsilon(part: Any, epsilon: float) -> None:
  """Checks the epsilon of all layer norms of a part; it is too small for results.

  Raises:
    ValueError: if one has another.
  """
  norms = [n for _, n in nnx.iter_graph(part) if isinstance(n, nnx.LayerNorm)]
  found = {norm.epsilon for norm in norms}
  if found != {epsilon}:
    raise ValueError(f"the norms have the epsilons {found}, not {epsilon}")


def compare(
  filled: Filled,
  more: Callable[..., dict] | None = None,
  *,
  wide: bool = False,
  parts: Mapping[str, Any] | None = None,
  joined: Callable[[list], Any] = lambda maps: maps[-1],
) -> Iterator[tuple]:
  """Yields (key, what attnjax computes, what the file holds) for every result.

  The network is called as its users do: once, and once more for a step of training if
  the file holds one. The maps are what its stages took and gave meanwhile.

  Args:
    filled: the network, with all of its parameters.
    more: more(model, i, map of stage i) -> other results, by their names in the file.
    wide: whether it computes in float64, for networks that amplify rounding.
    parts: kinds of modules by the names that their results have in the file.
    joined: joined(maps of all stages) -> what the file calls "norm".
  """
  arrays, of = filled.arrays, (tuple((parts or {}).items()), joined)
  trains = any(key.startswith("out.train.") for key in arrays)
  for case in [key[3:-1] for key in arrays if re.fullmatch(r"in\.(\w+\.)?x", key)]:
    options = f"grad.{case}x" in arrays, trains and not case, more, of
    given = filled.model, filled.stats(), np.moveaxis(arrays[f"in.{case}x"], 1, 3)
    if wide:
      given = jax.tree.map(lambda leaf: leaf.astype(np.float64), given)
    with jax.enable_x64(wide):
      outs, gradient, after = jax.device_get(_run(*given, options))
    found = {f"out.{case}{name}": y for name, y in outs.items()}
    found |= {f"grad.{case}x": gradient}
    found |= {f"out.after.{name}": y for name, y in filled.named(after).items()}
    for key in (key for key in found if key in arrays):
      yield key, _ordered(found[key], arrays[key].ndim), arrays[key]


@functools.partial(jax.jit, static_argnums=3)
def _run(model, stats, x, options):
  """Returns results by their names, the gradient and the statistics after a step."""
  slope, trains, more, of = options

  @jax.jit  # traced once, and then differentiated: half as slow
  def evaluated(x):
    outs, _ = _called(model, x, stats, False, *of)
    for i in range(len(model.stages.stages) if more else 0):
      outs |= more(model, i, outs[f"stage{i}"])
    return outs

  def total(x):
    outs = evaluated(x)
    y = outs["logits"]
    return (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape)).sum(), outs

  gradient, after = None, ()
  if slope:
    (_, outs), gradient = jax.value_and_grad(total, has_aux=True)(x)
  else:
    outs = evaluated(x)
  if trains:
    new, after = _called(model, x, stats, True, *of)
    outs |= {f"train.{name}": y for name, y in new.items()}
  return outs, gradient, after


def _called(model, x, stats, train, parts, joined) -> tuple[dict[str, Any], Any]:
  """Returns what a call gives and what passes its stages, and the new statistics."""
  with contextlib.ExitStack() as stack:
    kept = {n: stack.enter_context(_recorded(kind)) for n, kind in parts}
    each, body = (
      stack.enter_context(_recorded(kind)) for kind in (Stage, type(model.stages))
    )
    logits, after = running.apply(model, x, stats=stats, train=train)
  outs = {"logits": logits, "norm": joined(body[0][1]), "embed": each[0][0]}
  for i, (before, y) in enumerate(each):
    outs |= {f"embed{i}": before, f"merge{i - 1}": before, f"stage{i}": y}
  for name, calls in kept.items():
    outs |= {f"{name}{i}": y for i, (_, y) in enumerate(calls)}
  return outs, after


@contextlib.contextmanager
def _recorded(kind: Any) -> Iterator[list[tuple[Any, Any]]]:
  """Records (input, output) of every call of a kind of module."""
  call, kept = kind.__call__, []

  def run(self, x, **options):
    found = call(self, x, **options)
    y = found[0] if isinstance(found, tuple) else found
    kept.append((rows_of(x), rows_of(y)))
    return found

  with mock.patch.object(kind, "__call__", run):
    yield kept


def _ordered(y, axes: int):
  """Returns a map as (B, C, H, W) if it has 4 axes in the file, or as (B, H W, C)."""
  if y.ndim < 4:
    return y
  return np.moveaxis(y, 3, 1) if axes == 4 else y.reshape(y.shape[0], -1, y.shape[3])


def _leaves(part: Any, tree: Any) -> Iterator[tuple[Any, Stats]]:
  if isinstance(tree, Stats):
    yield part, tree
  else:
    for name, own in dict(tree).items():
      yield from _leaves(_at(part, name), own)


def _at(part: Any, path: str) -> Any:
  for name in path.split("/"):
    part = part[int(name)] if name.isdigit() else getattr(part, name)
  return part
