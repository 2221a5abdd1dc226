"""The contract that every system of the catalogue keeps.

A system is one module, `attnjax/variants/<family>/<slug>.py`; the listing of the
folders is the only register. A module has

  attend           the pure function (or another verb), with `impl=`
  reference        the definition, naive and readable
  IMPLEMENTATIONS  what `impl` may be besides "auto"; the first one is "reference"
  CASES            small problems on which all implementations agree
  Layer            the NNX layer around `attend`
  FORMS            how the Layer plugs in, see below
  LAYER            tiny hyper-parameters of the Layer for the tests
  GROWTH           p, where the matrix products of a Layer grow as T^p, T the tokens
  scaled           not in all: the hyper-parameters for which that is so, as a function
                   of the tokens on each axis, where the defaults are not

A Layer is built as `Layer(dim, *, form, rngs, **hyper-parameters)`, every
hyper-parameter a keyword with a default that is not None. A Layer whose
mathematics depends on the depth also takes `layers`, the number of layers of the
model. `form` is one of the module's FORMS:

  "causal"    (B, T, D) -> (B, T, D), token t sees tokens <= t; hosts: language
  "sequence"  (B, T, D) -> (B, T, D), every token sees all; hosts: vision
  "image"     (B, H, W, D) -> (B, H, W, D); hosts: pyramid, vision

Sequence layers are called as

  layer(x, *, segment_ids=None, padding=None, positions=None, index=0) -> y

with segment_ids (B, T) int: tokens of different ids, or of id -1, do not see each
other (packed documents); padding (B, T) bool, True at the real tokens; positions
(B, T) or (T,), 0, 1, 2, ... by default; index: which of the `layers` this one is, an
int or a traced scalar (blocks are stacked and scanned, so it cannot be stored). What
stands at padding and at negative ids, NaN too, is as zeros there: see `nn.unseen`.
Padding on either side of a row changes nothing. Inside a row nobody sees it; where a
layer knows of places, it keeps its own: positions count it unless they are given,
windows of neighbours reach over it, and convolutions take zeros there. Layers without
places, recurrences and sums, pass it by as if it were not there. No examples or no
tokens give the empty result, and leave a cache as it is. What a layer cannot honour it
refuses with NotImplementedError. Image layers: layer(x).

Causal layers also decode, by whole chunks or token by token:

  cache = layer.init_cache(batch, length, dtype)
  y, cache = layer.step(x, cache, *, segment_ids=None, padding=None, index=0)

`layer.weights(x, ...)`, with the arguments of the call, gives (B, N, T, S) float32:
how much of value s token t takes, where that makes sense.
No layer holds a random key, a cache or an integer array.
"""

import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from types import ModuleType
from typing import Any

import jax

FORMS = ("causal", "sequence", "image")
# What a host gives to a Layer's constructor: not a config's to choose.
HOST_ARGUMENTS = ("self", "dim", "form", "layers", "rngs")


@dataclasses.dataclass(frozen=True)
class Case:
  """One small problem on which all implementations of a function must agree.

  Attributes:
    name: shown in the test's name.
    shapes: argument name -> shape; arrays are drawn from a unit normal.
    options: keyword arguments that are not differentiated: numbers, strings, and
      functions of a key, which are called to make integer or boolean arrays.
    make: arrays to be differentiated that need a structure; replaces or adds to the
      drawn ones.
  """

  name: str
  shapes: Mapping[str, tuple[int, ...]]
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  make: Callable[[jax.Array], Mapping[str, jax.Array]] | None = None

  def arrays(self, dtype="float32", seed=0) -> dict[str, jax.Array]:
    """The differentiable arguments."""
    key = jax.random.key(seed)
    drawn = {
      name: jax.random.normal(jax.random.fold_in(key, i), shape, dtype)
      for i, (name, shape) in enumerate(self.shapes.items())
    }
    return drawn | dict(self.make(key) if self.make else {})

  def arguments(self, seed=0) -> dict[str, Any]:
    """The other keyword arguments, with their arrays made."""
    key = jax.random.key(seed + 1)
    return {n: v(key) if callable(v) else v for n, v in self.options.items()}


@functools.cache
def systems() -> dict[str, str]:
  """Slug -> dotted name of every system; nothing is imported but the packages."""
  # Not `from attnjax import`: that would ask attnjax.__getattr__, which asks here.
  variants = importlib.import_module("attnjax.variants")
  found: dict[str, str] = {}
  for family in pkgutil.iter_modules(variants.__path__, "attnjax.variants."):
    package = importlib.import_module(family.name)
    for module in pkgutil.iter_modules(package.__path__):
      if module.name in found:
        raise ValueError(
          f"slug {module.name!r} is used by {found[module.name]} and {family.name}"
        )
      found[module.name] = f"{family.name}.{module.name}"
  return dict(sorted(found.items()))


def load(slug: str) -> ModuleType:
  """The module of a system; ValueError with the nearest names if there is none."""
  check_known("mechanism", slug, systems())
  return importlib.import_module(systems()[slug])


def defaults(slug: str) -> dict[str, Any]:
  """The hyper-parameters of a system's Layer with their defaults, for a config."""
  parameters = inspect.signature(load(slug).Layer.__init__).parameters.values()
  options = {p.name: p.default for p in parameters if p.name not in HOST_ARGUMENTS}
  for name, default in options.items():
    if default is inspect.Parameter.empty or default is None:
      raise TypeError(f"{slug}.Layer: {name} needs a default that is not None")
  return options


def constructor(slug: str, options: Mapping[str, Any], forms: Iterable[str]):
  """The Constructor of a system's Layer for a host.

  Args:
    slug: the system.
    options: hyper-parameters of its Layer; those not named keep their defaults.
    forms: the forms that the host can use, the preferred one first.

  Raises:
    ValueError: if the slug or an option is unknown, or no form fits.
  """
  module, forms, known = load(slug), tuple(forms), defaults(slug)
  for name in options:
    check_known(f"option of {slug}", name, known)
  form = next((f for f in forms if f in module.FORMS), None)
  if form is None:
    raise ValueError(
      f"mechanism {slug!r} has the forms {', '.join(module.FORMS)};"
      f" this host takes {' or '.join(forms)}"
    )
  return Constructor(slug, form, dict(options))


@dataclasses.dataclass(frozen=True)
class Constructor:
  """Makes the layers of one mechanism for a host: `build(dim, layers=, rngs=)`."""

  slug: str
  form: str
  options: Mapping[str, Any]

  def __call__(self, dim: int, *, layers: int, rngs):
    """A layer of width `dim` for a model of `layers` layers."""
    make = load(self.slug).Layer
    if "layers" in inspect.signature(make.__init__).parameters:
      return make(dim, form=self.form, layers=layers, rngs=rngs, **self.options)
    return make(dim, form=self.form, rngs=rngs, **self.options)


def check_known(what: str, name: str, known: Collection[str]) -> None:
  """Raises ValueError, with the nearest names and all of them, if `name` is none."""
  if name not in known:
    raise ValueError(unknown(what, name, known))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
  """The message for a name that is not there: the nearest ones, and all of them."""
  near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  hint = f"; did you mean {' or '.join(near)}?" if near else "."
  return f"unknown {what} {name!r}{hint} There are: {', '.join(sorted(known))}"
