"""Hyper-parameters of published networks, and the checks of their forms.

The forms are "backbone", whose networks classify, and "dense", whose networks map.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract.names import check_known
from attnjax.contract.registry import constructor
from attnjax.contract.subject import Subject, close, equal, require
from attnjax.nn import running
from attnjax.nn.norms import Moments, Stats

CLASSES = 5  # of the networks that are checked
_PUBLISHED = {"dense": 3}  # outputs of the networks whose parameters are published


def defaults(module: Any) -> dict[str, Any]:
  """Returns the hyper-parameters of a system's Model with their defaults."""
  parameters = list(inspect.signature(module.Model).parameters.values())[2:]
  return {p.name: p.default for p in parameters if p.name != "rngs"}


def sized(module: Any, size: str) -> dict[str, Any]:
  """Returns the hyper-parameters of a size of a system's Model, defaults included.

  Raises:
    ValueError: for a size that there is not, with the nearest names.
  """
  slug = module.__name__.rpartition(".")[2]
  check_known(f"size of {slug}", size, module.SIZES)
  return defaults(module) | module.SIZES[size]


def of_one_system(
  systems: Sequence[ModuleType], host: str, forms: Iterable[str], size: str
) -> dict[str, Any]:
  """Returns the hyper-parameters that a host of whole networks has for a system.

  Raises:
    ValueError: for a system of none of the forms, several systems, an unknown size.
  """
  names = [module.__name__.rpartition(".")[2] for module in systems]
  if len(names) != 1:
    raise ValueError(f"mechanism {','.join(names)!r}: the host {host} takes one system")
  constructor(names[0], {}, forms)
  return {"size": size} | sized(systems[0], size)


def names_its_options(subject: Subject) -> None:
  """Checks that SIZES name hyper-parameters: keywords with defaults of one type."""
  known = defaults(subject.module)
  require("mini" in subject.module.SIZES, "there is no size mini")
  for name, default in known.items():
    missing = default is None or default is inspect.Parameter.empty
    require(not missing, f"{name} needs a default that is not None")
  for size, options in subject.module.SIZES.items():
    unknown = set(options) - set(known)
    require(not unknown, f"SIZES[{size!r}] has {unknown}, which are no options")
    for name, value in options.items():
      same = isinstance(value, type(known[name]))
      require(same, f"SIZES[{size!r}]: {name} = {value!r}, not {known[name]!r}")
  parameters = list(inspect.signature(subject.module.Model).parameters.values())
  for parameter in parameters[2:]:
    keyword = parameter.kind == inspect.Parameter.KEYWORD_ONLY
    require(keyword, f"{parameter.name} is no keyword")


def has_the_parameters_of_the_paper(subject: Subject) -> None:
  """Checks the published numbers of parameters, to 1 %, without allocating any."""
  for size, published in subject.module.PARAMETERS.items():
    model = abstract(subject, size, classes=_PUBLISHED.get(subject.form, 1000))
    found = sum(leaf.size for leaf in jax.tree.leaves(model))
    within = abs(found / published - 1) <= 0.01
    require(within, f"{size}: {found:,} parameters, not {published:,.0f}")


def trains(subject: Subject) -> None:
  """Checks that parameters have gradients, norms measure, and a key drops something.

  Evaluation with the measured moments gives the results of training, and measures
  nothing.
  """
  dropping = {"drop", "dropout"} & set(defaults(subject.module))
  changes: dict[str, Any] = dict.fromkeys(dropping, 0.5)
  model = drawn(abstract(subject, "mini", **changes))
  x = jax.random.normal(jax.random.key(1), (3, 28, 28, 3))
  grads, (y, moments), exact, rest = _run(model, x)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    name = jax.tree_util.keystr(path)
    require(np.isfinite(leaf).all(), f"the gradient of {name} is not finite")
    require((np.asarray(leaf) != 0).any(), f"{name} has no gradient")
  for leaf in jax.tree.leaves(moments, is_leaf=_is_moments):
    measured = leaf.count > 1 and np.abs(leaf.mean).sum() > 0
    require(measured, "a batch norm has measured nothing")
  (part, kept), (dropped, _) = rest
  require(np.abs(part[0] - part[1]).max() > 0, "all images have equal logits")
  np.testing.assert_allclose(part, y[:2], rtol=2e-3, atol=2e-3)
  equal(kept, exact)
  moved = np.abs(dropped - part).max()
  if dropping:
    require(moved > 1e-4, "a key drops nothing")
  else:
    close(dropped, part)


def holds_only_float_parameters(subject: Subject) -> None:
  """Checks that a network stores no random key, statistic or integer array."""
  model = abstract(subject, "mini")
  kinds = {type(leaf) for _, leaf in nnx.iter_graph(model)}
  held = {kind.__name__ for kind in kinds if issubclass(kind, nnx.Variable)}
  require(held == {"Param"}, f"variables of the kinds {held}")
  types = {leaf.dtype for leaf in jax.tree.leaves(model)}
  require(types == {jnp.dtype("float32")}, f"parameters are {types}")
  try:
    if running.init_stats(model):
      model(jnp.zeros((1, 28, 28, 3)))
  except ValueError as error:
    return require("pass stats=" in str(error), f"without stats: {error}")
  return require(not running.init_stats(model), "statistics are not asked for")


def recomputes_its_blocks(subject: Subject) -> None:
  """Checks that `remat` recomputes the blocks of every stage in the backward pass."""
  model = abstract(subject, "mini", remat="full")
  x = jax.ShapeDtypeStruct((1, 28, 28, 3), jnp.float32)

  def run(model, x):
    return running.apply(model, x, stats=running.init_stats(model), train=True)[0]

  found = [e.primitive.name for e in jax.make_jaxpr(run)(model, x).eqns]
  count = sum(name.startswith(("remat", "checkpoint")) for name in found)
  require(count >= 2, f"remat = full recomputes {count} blocks: {sorted(set(found))}")


def abstract(
  subject: Subject, size: str, channels: int = 3, classes: int = CLASSES, **changes
) -> Any:
  """Returns an abstract network, whose leaves are shapes."""
  options = subject.module.SIZES[size] | changes
  return _made(subject.module.Model, channels, classes, tuple(sorted(options.items())))


@functools.cache
def _made(build: Callable, channels: int, classes: int, options: tuple) -> Any:
  def make():
    return build(channels, classes, **dict(options), rngs=nnx.Rngs(0))

  return jax.eval_shape(make)


def drawn(model: Any) -> Any:
  """Returns a network of shapes with drawn weights; scales are near 1."""
  draw = np.random.default_rng(0)

  def leaf(path, shape):
    found = 0.1 * draw.standard_normal(shape.shape)
    return jnp.asarray(found + ("scale" in jax.tree_util.keystr(path)), jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, model)


def outputs(subject: Subject) -> Any:
  """Returns gradients and outputs of the smallest network: what a mutant may change."""
  model = drawn(abstract(subject, "mini"))
  x = jax.random.normal(jax.random.key(1), (2, 28, 28, 3))

  def loss(model):
    out = running.apply(model, x, stats=running.init_stats(model), train=True)
    return jnp.sum(jnp.sin(out[0])), out

  return jax.jit(jax.grad(loss, has_aux=True))(model)


@jax.jit
def _run(model, x):
  """Returns gradients, (results, moments), their Stats, and two evaluations."""

  def loss(model):
    start = running.init_moments(running.init_stats(model))
    found = running.apply(model, x, stats=start, train=True)
    return jnp.sum(jnp.sin(found[0])), found

  grads, (y, moments) = jax.grad(loss, has_aux=True)(model)
  exact = jax.tree.map(lambda m: Stats(m.mean, m.var), moments, is_leaf=_is_moments)
  given: dict[str, Any] = {"stats": exact, "train": False}
  rest = [
    running.apply(model, x[:2], key=key, **given) for key in (None, jax.random.key(0))
  ]
  return grads, (y, moments), exact, rest


def _is_moments(leaf: Any) -> bool:
  return isinstance(leaf, Moments)
