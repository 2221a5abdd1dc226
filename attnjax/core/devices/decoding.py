"""Decoding of shardings: the mesh axes that divide an array, from its parts' places.

XLA may divide an axis of an array by a part of a mesh axis: 4 heads over 8 devices,
after a reshape. So axes of a mesh are first split into axes of prime sizes.
"""

import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P


def split(mesh: Mesh, sharding) -> Mesh:
  """Returns a mesh of the same devices, in order, on axes of prime sizes."""
  devices, sizes = mesh.devices, mesh.shape
  if mesh.empty:  # shardings that JAX has no names for
    devices = np.array(list(sharding.devices_indices_map(())))
    sizes = {"devices": devices.size}
  primes = {
    f"{axis}.{i}": prime
    for axis, size in sizes.items()
    for i, prime in enumerate(_primes(size))
  }
  return Mesh(devices.reshape(tuple(primes.values())), tuple(primes))


def _primes(number: int) -> list[int]:
  found, prime = [], 2
  while number > 1:
    while number % prime == 0:
      found.append(prime)
      number //= prime
    prime += 1
  return found


def spec(sharding, shape: tuple[int, ...], mesh: Mesh) -> P:
  """Returns the axes of a split mesh that divide each axis; None where unclear."""
  if sharding is None or sharding.is_fully_replicated or not shape:
    return P()
  try:
    places = list(sharding.devices_indices_map(shape).values())
  except ValueError:  # some axis does not divide by its number of parts
    return P()
  return P(*(_axes([p[axis] for p in places], mesh) for axis in range(len(shape))))


def _axes(slices, mesh: Mesh):
  """Returns the mesh axes, the slowest first, along which a part's index grows."""
  starts = np.array([one.start or 0 for one in slices])
  values = np.unique(starts)
  part = np.searchsorted(values, starts).reshape(mesh.devices.shape)
  steps = {
    name: int(part.take(1, axis).flat[0] - part.flat[0])
    for axis, name in enumerate(mesh.axis_names)
  }
  order = sorted(
    (name for name, step in steps.items() if step), key=lambda n: -steps[n]
  )
  number, at = 0, np.indices(part.shape)
  for name in order:
    number = number * mesh.shape[name] + at[mesh.axis_names.index(name)]
  return tuple(order) if len(values) > 1 and (part == number).all() else None
