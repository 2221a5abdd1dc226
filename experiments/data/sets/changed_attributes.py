"""Changed attributes: find the image that a reference becomes by a text.

Images have a colour, a shape and a place, see `experiments.data.attributes`. Examples
of the split train are an image, another view of it and its caption, from which a model
has to make its triplets; or triplets, if asked for. Validation and test ask with a
gallery's image and "but <a value>" for the one that differs from it in that attribute
alone.

  image         (width,), the image to be found
  reference     (width,), in training another view of the image, else the reference
  caption       (3,), words of the image
  text          (2,), the change; -1 where there is none
  label         0, and -1 at an example that only fills the last batch of a split
  target_id     the place of the image in the gallery; -1 in training
  reference_id  that of the reference
  shown, seen   (3,), the values of the image and of the reference
"""

import functools

import numpy as np

from experiments.data import attributes, generated
from experiments.data.generated import Example
from experiments.data.task import Task, check_least


def task(
  *,
  values: int = 8,
  width: int = 32,
  noise: float = 0.25,
  gallery: int = 512,  # images that are drawn; equal ones are there once
  triplets: bool = False,  # of the split train
  examples: int = 100_000,  # of the split train
  held_out: int = 512,  # of each other split
  seed: int = 0,
) -> Task:
  """Returns the task on images (width,), captions and changes.

  Args:
    values: of each attribute, from 2 to 8.
    width: numbers of a vector.
    noise: deviation of the noise of one attribute, whose embedding has deviation 1.
    gallery: number of images that are drawn.
    triplets: whether examples of the split train have a reference and a text.
    examples: number of examples of the split train.
    held_out: number of queries of each other split.
    seed: the seed of the world and of all examples.

  Raises:
    ValueError: if an option is out of its range.
  """
  check_least(seed=(seed, 0))
  sizes = {"values": values, "width": width, "noise": noise, "gallery": gallery}
  world = _world(seed, **sizes)
  make = {
    "train": functools.partial(training, world=world, triplets=triplets),
    "validation": functools.partial(query, world=world),
    "test": functools.partial(query, world=world),
  }
  return Task(
    "changed_attributes",
    "image_change",
    len(attributes.WORDS),
    0,
    (width,),
    "composed_recall_at_1",
    generated.source_of(make, examples, held_out, seed),
    decode=attributes.decode,
    objective="composed_info_nce",
    sizes={"image_width": width},
    unit="pairs",
    also=("composed_recall_at_5",),
  )


def _world(seed: int, **sizes) -> attributes.World:
  """Returns the world of checked sizes."""
  values, noise = sizes["values"], sizes["noise"]
  check_least(values=(values, 2), width=(sizes["width"], 1))
  check_least(gallery=(sizes["gallery"], 2))
  if values > attributes.KINDS:
    raise ValueError(f"values = {values}; it must be at most {attributes.KINDS}")
  if noise < 0:
    raise ValueError(f"noise = {noise}; it must be at least 0")
  return attributes.world(seed, **sizes)


def training(
  rng: np.random.Generator, world: attributes.World, triplets: bool
) -> Example:
  """Draws an image and another view of it, or a triplet."""
  values = world.embeddings.shape[1]
  shown = rng.integers(values, size=attributes.ATTRIBUTES)
  seen, text = shown, np.full(2, -1, np.int32)
  if triplets:
    seen, place = shown.copy(), rng.integers(attributes.ATTRIBUTES)
    seen[place] = (seen[place] + rng.integers(1, values)) % values
    text = attributes.change(seen, shown)
  image, reference = (attributes.vectors(rng, world, x) for x in (shown, seen))
  return _example(image, reference, shown, seen, text, (-1, -1))


def query(rng: np.random.Generator, world: attributes.World) -> Example:
  """Draws a reference and a change of it that is in the gallery."""
  places = world.queries[rng.integers(len(world.queries))]
  seen, shown = world.triples[places]
  reference, image = world.gallery[places]
  change = attributes.change(seen, shown)
  return _example(image, reference, shown, seen, change, places)


def _example(image, reference, shown, seen, text, places) -> Example:
  ids = dict(zip(("reference_id", "target_id"), np.asarray(places, np.int32)))
  found = {"image": image, "reference": reference, "text": text}
  found |= {"caption": attributes.caption(shown), "label": np.array(0, np.int32)}
  values = {"shown": shown.astype(np.int32), "seen": seen.astype(np.int32)}
  return found | values | {n: np.array(x) for n, x in ids.items()}
