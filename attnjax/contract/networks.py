"""Hyper-parameters of published networks, and the checks of the form "backbone"."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract.names import check_known
from attnjax.contract.subject import Subject, close, equal, require
from attnjax.nn import running
from attnjax.nn.norms import Moments, Stats

_CLASSES = 5


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
  for name, parameter in inspect.signature(subject.module.Model).parameters.items():
    keyword = parameter.kind == inspect.Parameter.KEYWORD_ONLY
    require(keyword or name in ("channels", "classes"), f"{name} is no keyword")


def has_the_parameters_of_the_paper(subject: Subject) -> None:
  """Checks the published numbers of parameters, to 1 %, without allocating any."""
  for size, published in subject.module.PARAMETERS.items():
    model = abstract(subject, size, channels=3, classes=1000)
    found = sum(leaf.size for leaf in jax.tree.leaves(model))
    within = abs(found / published - 1) <= 0.01
    require(within, f"{size}: {found:,} parameters, not {published:,.0f}")


def takes_images_of_any_size(subject: Subject) -> None:
  """Checks the sides and widths of every stage's map for images of odd sizes."""
  published, sizes = next(iter(subject.module.SIZES)), subject.module.SIZES
  for size, rows, columns in (("mini", 64, 37), (published, 128, 45)):
    # Two blocks of a stage make the maps that many make.
    depths = {n: d for n, d in sizes[size].items() if n == "depths"}
    shallow: dict[str, Any] = {
      n: tuple(min(depth, 2) for depth in d) for n, d in depths.items()
    }
    maps = _features(abstract(subject, size, **shallow), (rows, columns))
    strides = [rows // x.shape[1] for x in maps]  # which all divide the rows
    got = [x.shape[2] for x in maps]
    want = _sides(subject, columns, strides)
    require(got == want, f"{size}: maps of {columns} columns have {got}, not {want}")
    exact = [rows // stride for stride in strides] == [x.shape[1] for x in maps]
    require(exact, f"{size}: maps of {rows} rows have {[x.shape[1] for x in maps]}")
    widths = tuple(x.shape[3] for x in maps)
    dims = sized(subject.module, size).get("dims", widths)
    require(widths == dims, f"{size}: widths {widths}, not {dims}")


def classifies_and_weighs(subject: Subject) -> None:
  """Checks that logits are (B, classes) float32, and weights (B, N, T, S)."""

  def run(model, images):
    stats = running.init_stats(model)
    logits, _ = model(images, stats=stats)
    return logits, model.weights(images, stats=stats)

  images = jax.ShapeDtypeStruct((2, 37, 50, 3), jnp.float32)
  logits, weights = jax.eval_shape(run, abstract(subject, "mini"), images)
  require(logits.shape == (2, _CLASSES), f"logits {logits.shape}")
  require(logits.dtype == jnp.float32, f"logits are {logits.dtype}")
  some = not getattr(subject.module, "WEIGHTLESS", False)
  require((len(weights) > 0) == some, f"weights of {len(weights)} blocks")
  fits = all(x.shape[0] == 2 and x.ndim == 4 for x in weights)
  require(fits, f"weights are {[x.shape for x in weights]}, not (B, N, T, S)")


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
  subject: Subject, size: str, channels: int = 3, classes: int = _CLASSES, **changes
) -> Any:
  """Returns an abstract network, whose leaves are shapes."""
  options = subject.module.SIZES[size] | changes
  return _made(subject.module.Model, channels, classes, tuple(sorted(options.items())))


@functools.cache
def _made(build: Callable, channels: int, classes: int, options: tuple) -> Any:
  def make():
    return build(channels, classes, **dict(options), rngs=nnx.Rngs(0))

  return jax.eval_shape(make)


def _features(model: Any, image: tuple[int, int]) -> list[Any]:
  """Returns the shapes of the maps of two images."""

  def run(model, images):
    given = {"stats": running.init_stats(model), "train": True}
    return running.apply(model.features, images, key=jax.random.key(0), **given)[0]

  return jax.eval_shape(run, model, jax.ShapeDtypeStruct((2, *image, 3), jnp.float32))


def _sides(subject: Subject, side: int, strides: list[int]) -> list[int]:
  """Returns the side of each stage's map, from the image's side and the strides."""
  if getattr(subject.module, "PADDED", False):
    side = -(-side // strides[-1]) * strides[-1]
  found, before = [], 1
  for stride in strides:
    side, before = -(-side // (stride // before)), stride
    found.append(side)
  return found


def drawn(model: Any) -> Any:
  """Returns a network of shapes with drawn weights; scales are near 1."""
  draw = np.random.default_rng(0)

  def leaf(path, shape):
    found = 0.1 * draw.standard_normal(shape.shape)
    return jnp.asarray(found + ("scale" in jax.tree_util.keystr(path)), jnp.float32)

  return jax.tree_util.tree_map_with_path(leaf, model)


@jax.jit
def _run(model, x):
  """Returns gradients, (results, moments), their Stats, and two evaluations."""

  def loss(model):
    start = running.init_moments(running.init_stats(model))
    found = model(x, stats=start, train=True)
    return jnp.sum(jnp.sin(found[0])), found

  grads, (y, moments) = jax.grad(loss, has_aux=True)(model)
  exact = jax.tree.map(lambda m: Stats(m.mean, m.var), moments, is_leaf=_is_moments)
  part = x[:2]
  rest = model(part, stats=exact), model(part, stats=exact, key=jax.random.key(0))
  return grads, (y, moments), exact, rest


def _is_moments(leaf: Any) -> bool:
  return isinstance(leaf, Moments)


NETWORKS = (
  names_its_options,
  has_the_parameters_of_the_paper,
  takes_images_of_any_size,
  classifies_and_weighs,
  holds_only_float_parameters,
  recomputes_its_blocks,
  trains,
)
