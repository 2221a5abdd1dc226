"""Caches and masks among the arguments of a function that `jax.export` saves."""

import dataclasses
import importlib
import json
from typing import Any

from jax import export


def serializable[T](cls: type[T]) -> type[T]:
  """Registers a dataclass, which is a pytree already, for `Exported.serialize`.

  Its arrays are the exported function's arguments; its static attributes, numbers,
  tuples of them and dataclasses of attnjax, are saved with the function, and the names
  of module and class.
  """

  def save(static) -> bytes:
    try:
      return json.dumps(static, default=_fields).encode()
    except TypeError as error:
      raise ValueError(f"{cls.__name__} cannot be exported: {error}") from error

  def load(data) -> tuple:
    return _tuples(json.loads(bytes(data).decode(), object_hook=_made))

  export.register_pytree_node_serialization(
    cls,
    serialized_name=f"{cls.__module__}.{cls.__qualname__}",
    serialize_auxdata=save,
    deserialize_auxdata=load,
  )
  return cls


def _fields(value: Any) -> dict[str, Any]:
  """Returns the class and the fields of a dataclass, such as a cache policy."""
  kind = type(value)
  if not dataclasses.is_dataclass(kind) or not kind.__module__.startswith("attnjax."):
    raise TypeError(f"{value!r} is no number, tuple or dataclass of attnjax")
  fields = {
    field.name: getattr(value, field.name) for field in dataclasses.fields(kind)
  }
  return {"module": kind.__module__, "class": kind.__qualname__, "fields": fields}


def _made(saved: dict[str, Any]) -> Any:
  """Returns the dataclass of what `_fields` returned."""
  if saved.keys() != {"module", "class", "fields"}:
    return saved
  if not saved["module"].startswith("attnjax."):
    raise ValueError(f"{saved['module']} is no module of attnjax")
  kind = getattr(importlib.import_module(saved["module"]), saved["class"])
  given = {name: _tuples(value) for name, value in saved["fields"].items()}
  return kind(**given)


def _tuples(value):
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
