"""Caches and masks among the arguments of a function that `jax.export` saves."""

import json

from jax import export


def serializable[T](cls: type[T]) -> type[T]:
  """Registers a dataclass, which is a pytree already, for `Exported.serialize`.

  Its arrays are the exported function's arguments; its static attributes, numbers and
  tuples of them, are saved with the function, and the names of module and class.
  """

  def save(static) -> bytes:
    try:
      return json.dumps(static).encode()
    except TypeError as error:
      raise ValueError(f"{cls.__name__} cannot be exported: {error}") from error

  def load(data) -> tuple:
    return _tuples(json.loads(bytes(data).decode()))

  export.register_pytree_node_serialization(
    cls,
    serialized_name=f"{cls.__module__}.{cls.__qualname__}",
    serialize_auxdata=save,
    deserialize_auxdata=load,
  )
  return cls


def _tuples(value):
  return tuple(map(_tuples, value)) if isinstance(value, list) else value
