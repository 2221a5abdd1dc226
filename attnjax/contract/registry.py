"""The catalogue's register: the listing of the folders, and layers by their slugs."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, Protocol, cast, runtime_checkable

from attnjax.contract.names import check_known

# Arguments that a host gives to a Layer's constructor, and that no config chooses.
HOST_ARGUMENTS = ("self", "dim", "dims", "form", "layers", "rngs")


@functools.cache
def systems() -> dict[str, str]:
  """Maps the slug of each system to its dotted name; only packages are imported."""
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


@functools.cache
def form_names() -> tuple[str, ...]:
  """Returns the names of all forms: the files of `attnjax.contract.forms`."""
  package = importlib.import_module("attnjax.contract.forms")
  return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def form(name: str) -> ModuleType:
  """Returns the module of a form.

  Raises:
    ValueError: if there is none, with the nearest names.
  """
  check_known("form", name, form_names())
  return importlib.import_module(f"attnjax.contract.forms.{name}")


def load(slug: str) -> ModuleType:
  """Returns the module of a system.

  Its Layer, Scorer, Model and Reducer tell their options to `inspect.signature`, and to
  notebooks, and take a number for `rngs`.

  Raises:
    ValueError: if there is none, with the nearest names.
  """
  check_known("mechanism", slug, systems())
  module = importlib.import_module(systems()[slug])
  for name in ("Layer", "Scorer", "Model", "Reducer"):
    made = getattr(module, name, None)
    if inspect.isclass(made):
      _open(made, module)
    elif inspect.isfunction(made):
      setattr(module, name, _seeded(made))
  return module


def layer_forms(module: ModuleType) -> tuple[str, ...]:
  """Returns those of a system's forms that its Layer takes."""
  return tuple(name for name in module.FORMS if hasattr(form(name), "Layer"))


def _open(kind: type, module: ModuleType) -> None:
  """Gives a class of modules the signature of its __init__, and seeds for `rngs`.

  The metaclass of Flax's modules hides the signature. A call without a form that must
  be given raises TypeError with the names of the forms.
  """
  make = kind.__init__
  if hasattr(make, "takes_seeds"):
    return
  signature = inspect.signature(make)
  form = signature.parameters.get("form")
  asked = form is not None and form.default is inspect.Parameter.empty

  @functools.wraps(make)
  def formed(self, *arguments, **options):
    if asked and "form" not in options:
      known = ", ".join(layer_forms(module))
      raise TypeError(f"{kind.__module__}.{kind.__name__} needs form=, one of: {known}")
    make(self, *arguments, **options)

  setattr(kind, "__init__", _seeded(formed))  # noqa: B010
  own = list(signature.parameters.values())[1:]
  setattr(kind, "__signature__", signature.replace(parameters=own))  # noqa: B010


def _seeded(make: Callable) -> Callable:
  """Returns a function of the same signature whose `rngs` may be a number."""
  if hasattr(make, "takes_seeds"):
    return make

  @functools.wraps(make)
  def seeded(*arguments, **options):
    if isinstance(options.get("rngs"), int):
      from flax import nnx

      options["rngs"] = nnx.Rngs(options["rngs"])
    return make(*arguments, **options)

  setattr(seeded, "takes_seeds", True)  # noqa: B010
  return seeded


def defaults(slug: str) -> dict[str, Any]:
  """Returns the options of a system's Layer with their defaults, for a config.

  A system without a Layer has those of its Scorer, if it has one; a Scorer beside a
  Layer takes the Layer's options.
  """
  module = load(slug)
  made = getattr(module, "Layer", getattr(module, "Scorer", None))
  if made is None:
    return {}
  parameters = inspect.signature(made.__init__).parameters.values()
  options = {p.name: p.default for p in parameters if p.name not in HOST_ARGUMENTS}
  for name, default in options.items():
    if default is inspect.Parameter.empty or default is None:
      raise TypeError(
        f"{slug}.{made.__name__}: {name} needs a default that is not None"
      )
  return options


def constructor(
  slug: str, options: Mapping[str, Any], forms: Iterable[str]
) -> "Constructor":
  """Returns the Constructor of a system's Layer for a host.

  Of a form of whole networks it is that of its Model: build(channels, classes, rngs=);
  of the form "pairs" that of its Scorer: build(dims, rngs=).

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
  chosen = next((f for f in forms if f in module.FORMS), None)
  if chosen is None:
    raise ValueError(
      f"mechanism {slug!r} has the forms {', '.join(module.FORMS)};"
      f" this host takes {' or '.join(forms)}"
    )
  if hasattr(form(chosen), "Scorer"):
    make = functools.partial(module.Scorer, **options)
  elif chosen not in layer_forms(module):
    make = functools.partial(module.Model)
  else:
    make = functools.partial(module.Layer, form=chosen, **options)
    if "layers" not in inspect.signature(module.Layer.__init__).parameters:
      make = functools.partial(_of_any_depth, make)
  setattr(make, "form", chosen)  # noqa: B010
  setattr(make, "module", module)  # noqa: B010
  again = functools.partial(constructor, slug, dict(options))
  setattr(make, "of", again)  # noqa: B010
  return cast(Constructor, make)


@runtime_checkable
class Constructor(Protocol):
  """Makes the layers of one mechanism, of a form, for a model of `layers` layers.

  `module` is the system's, for a host that takes more of it than its Layer, and
  `of(forms)` the constructor of the system, with its options, of another form.
  """

  form: str
  module: ModuleType
  of: Callable[[Iterable[str]], "Constructor"]

  def __call__(self, dim: int, *, layers: int, rngs: Any) -> Any:
    """Returns a layer of width `dim`."""
    ...


def _of_any_depth(make, dim, *, layers, rngs):
  del layers
  return make(dim, rngs=rngs)
