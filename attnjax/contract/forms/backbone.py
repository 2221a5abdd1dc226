"""The form "backbone": a whole published network for images; host: backbone.

A system's module has

  Model       Model(channels, classes, *, rngs, **hyper-parameters), which builds an
              `attnjax.nn.backbone.Classifier`
  SIZES       size -> the hyper-parameters that differ from the defaults
  PARAMETERS  size -> the number of parameters of the paper, for 3 channels and 1,000
              classes; sizes whose number is not published are left out
  PADDED      not in all: True where images are padded to whole cells of the last
              stage; elsewhere each stage pads the map that it is given

  model = Model(3, 1000, **SIZES["tiny"], rngs=nnx.Rngs(0))
  logits, stats = model(images, key=key, stats=model.init_stats(), train=True)

Images (B, H, W, channels) are of any size. `model.features(images)` are the maps of all
stages, `model.weights(images)` the weights of all attentions. The size "mini", in every
module, is invented: a CPU trains it on images of 28 x 28 in minutes.

Names that mean the same in all networks that have them:

  channels   of the images
  classes    number of logits
  dims       width of each stage
  depths     number of blocks of each stage
  heads      of each stage; they divide its width
  mlp_ratio  hidden width of the MLPs, in the stage's width
  drop       share of examples for which the residuals of the last block are left out in
             training; it rises over the blocks from 0 in equal steps
  dropout    share of units that are left out in training, the same in all blocks
  remat      what `jax.checkpoint` keeps of each block, see `attnjax.nn.stack.REMAT`
  impl       of the attention, as in `attend`
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
  """A function `Model`."""

  def __call__(self, channels: int, classes: int, *, rngs: nnx.Rngs, **options) -> Any:
    """Returns a Classifier."""
    ...


def takes_images_of_any_size(subject: Subject) -> None:
  """Checks the sides and widths of every stage's map for images of odd sizes."""
  published, sizes = next(iter(subject.module.SIZES)), subject.module.SIZES
  for size, rows, columns in (("mini", 64, 37), (published, 128, 45)):
    # Two blocks of a stage make the maps that many make.
    depths = {n: d for n, d in sizes[size].items() if n == "depths"}
    shallow: dict[str, Any] = {
      n: tuple(min(depth, 2) for depth in d) for n, d in depths.items()
    }
    maps = _features(networks.abstract(subject, size, **shallow), (rows, columns))
    strides = [rows // x.shape[1] for x in maps]  # which all divide the rows
    got = [x.shape[2] for x in maps]
    want = _sides(subject, columns, strides)
    require(got == want, f"{size}: maps of {columns} columns have {got}, not {want}")
    exact = [rows // stride for stride in strides] == [x.shape[1] for x in maps]
    require(exact, f"{size}: maps of {rows} rows have {[x.shape[1] for x in maps]}")
    widths = tuple(x.shape[3] for x in maps)
    dims = networks.sized(subject.module, size).get("dims", widths)
    require(widths == dims, f"{size}: widths {widths}, not {dims}")


def classifies_and_weighs(subject: Subject) -> None:
  """Checks that logits are (B, classes) float32, and weights (B, N, T, S)."""

  def run(model, images):
    stats = running.init_stats(model)
    logits, _ = model(images, stats=stats)
    return logits, model.weights(images, stats=stats)

  images = jax.ShapeDtypeStruct((2, 37, 50, 3), jnp.float32)
  logits, weights = jax.eval_shape(run, networks.abstract(subject, "mini"), images)
  require(logits.shape == (2, networks.CLASSES), f"logits {logits.shape}")
  require(logits.dtype == jnp.float32, f"logits are {logits.dtype}")
  some = not getattr(subject.module, "WEIGHTLESS", False)
  require((len(weights) > 0) == some, f"weights of {len(weights)} blocks")
  fits = all(x.shape[0] == 2 and x.ndim == 4 for x in weights)
  require(fits, f"weights are {[x.shape for x in weights]}, not (B, N, T, S)")


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


CHECKS = (
  networks.names_its_options,
  networks.has_the_parameters_of_the_paper,
  takes_images_of_any_size,
  classifies_and_weighs,
  networks.holds_only_float_parameters,
  networks.recomputes_its_blocks,
  networks.trains,
)
outputs = networks.outputs
