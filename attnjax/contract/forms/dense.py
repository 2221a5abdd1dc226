"""The form "dense": a network from images to maps of the same size; host: dense.

A system's module has

  Model       Model(channels, outputs, *, rngs, **hyper-parameters), the whole published
              network
  SIZES       size -> the hyper-parameters that differ from the defaults; "mini" is
              invented, and trains on a CPU in minutes
  PARAMETERS  size -> the number of parameters of the paper, for 3 channels and 3
              outputs; sizes whose number is not published are left out

  model = Model(3, 3, **SIZES["published"], rngs=nnx.Rngs(0))
  maps = model(images, key=key)

images (B, H, W, channels) of any size, also 1 x 1 and no multiple of a stride, give
maps (B, H, W, outputs) in float32, also where parameters and images have 16 bits. A
`key` turns on what is dropped in training. Pictures are in [0, 1], and so are those
that a network restores: where it subtracts a mean it adds it again.

With batch norm inside, a call also takes `stats` and `train` and returns (maps, new
statistics), see `attnjax.nn.running`. A network with an option `remat` recomputes its
blocks. Other names are those of the form "backbone":

  channels   of the images
  outputs    of the maps, at each point
  remat      what `jax.checkpoint` keeps of each block, see `attnjax.nn.stack.REMAT`
  rngs       for the parameters
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from attnjax.contract import networks
from attnjax.contract.subject import Subject, require
from attnjax.nn import running


class Builder(Protocol):
  """A function `Model`, or a class of that name."""

  def __call__(self, channels: int, outputs: int, *, rngs: nnx.Rngs, **options) -> Any:
    """Returns a network."""
    ...


def maps_images_of_any_size(subject: Subject) -> None:
  """Checks that maps are (B, H, W, outputs) float32, for images of any sides."""

  def run(model, images):
    return running.apply(model, images, stats=running.init_stats(model), train=False)[0]

  published = next(iter(subject.module.SIZES))
  for size, outputs, sides, dtype in (
    (published, 3, (37, 64), "float32"),
    ("mini", 3, (1, 1), "float32"),
    ("mini", 5, (7, 65), "bfloat16"),
  ):
    model = networks.abstract(subject, size, classes=outputs)
    model = jax.tree.map(lambda x, t=dtype: jax.ShapeDtypeStruct(x.shape, t), model)
    images = jax.ShapeDtypeStruct((2, *sides, 3), dtype)
    maps = jax.eval_shape(run, model, images)
    want = (2, *sides, outputs)
    require(maps.shape == want, f"{size}: maps {maps.shape} of {sides}, not {want}")
    require(maps.dtype == jnp.float32, f"{size}: maps of {dtype} are {maps.dtype}")


def recomputes_its_blocks(subject: Subject) -> None:
  """Checks that an option `remat` recomputes blocks in the backward pass."""
  if "remat" in networks.defaults(subject.module):
    networks.recomputes_its_blocks(subject)


CHECKS = (
  networks.names_its_options,
  networks.has_the_parameters_of_the_paper,
  maps_images_of_any_size,
  networks.holds_only_float_parameters,
  recomputes_its_blocks,
  networks.trains,
)
outputs = networks.outputs
