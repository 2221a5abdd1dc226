"""Any data set of TensorFlow Datasets by its name: "tfds:<name>[/<config>]".

For those who have it prepared, or a network. Sets with a text become byte corpora,
which are kept in memory; sets with an image and a class become image tasks. Only files
that can be read without TensorFlow are: array_record (in which it is prepared here)
and parquet.
"""

import difflib
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds

from attnjax import contract
from experiments.data import images, prepare, progress, text
from experiments.data.task import SPLITS, Source, Task, check_split


def task(
  name: str,
  /,
  *,
  feature: str = "",
  length: int = 256,
  documents: bool = False,
  cache_dir: str = "",
) -> Task:
  """Returns the task on a TFDS data set, which is downloaded and prepared on first use.

  A split that the set lacks is a slice taken out of its split train.

  Args:
    name: <name>[/<config>][:<version>] as in TFDS.
    feature: the text or image to take; "" is `text`, else `image`.
    length: bytes of a window of text.
    documents: whether windows have segment_ids; only for text.
    cache_dir: the folder of the data set; "" is the folder of TFDS, $TFDS_DATA_DIR or
      ~/tensorflow_datasets.

  Raises:
    ValueError: if there is no such set, or it is neither text nor images of one size
      with a label, or its files need TensorFlow.
    OSError: if it cannot be downloaded or prepared here.
  """
  label = f"tfds:{name}"
  builder = _prepared(name, label, cache_dir)
  features = dict(builder.info.features.items())
  if feature and feature not in features:
    raise ValueError(contract.unknown(f"feature of {label}", feature, features))
  for field in (feature,) if feature else ("text", "image"):
    if _is_text(features.get(field)):
      return _text(builder, label, field, length=length, documents=documents)
    if _is_image(features.get(field)) and not documents:
      return _images(builder, label, field)
  raise ValueError(
    f"{label} has no {feature or 'text or image'} to learn from"
    f"{' as text documents' if documents else ''}; its features are"
    f" {', '.join(sorted(features))}: name one that is text or an image as `feature`"
  )


def _is_text(feature: Any) -> bool:
  if not isinstance(feature, tfds.features.Tensor):
    return isinstance(feature, tfds.features.Text)
  shape, dtype = feature.shape, cast(Any, feature.np_dtype)
  string, octets = np.dtype(dtype).kind in "OSU", dtype == np.uint8
  return (string and shape == ()) or (octets and shape == (None,))


def _is_image(feature: Any) -> bool:
  tensors = (tfds.features.Image, tfds.features.Tensor)
  return isinstance(feature, tensors) and len(feature.shape) in (2, 3)


def _text(builder, label: str, field: str, *, length: int, documents: bool) -> Task:
  slices = _slices(builder.info.splits, label)

  def read(split: str) -> Iterable[bytes]:
    records = _records(builder, label, slices[split])
    for record in progress.track(records, f"{label}: reading {split}"):
      value = record[field]
      yield value if isinstance(value, bytes) else value.tobytes()

  return text.task(label, read, length=length, documents=documents)


def _images(builder, label: str, field: str) -> Task:
  features = dict(builder.info.features.items())
  image, target = features[field], features.get("label")
  classes = getattr(target, "num_classes", None)
  if not isinstance(target, tfds.features.ClassLabel) or not classes:
    raise ValueError(f"{label} has no feature `label` that is a class")
  shape = (*image.shape, 1) if len(image.shape) == 2 else image.shape
  if None in shape:
    raise ValueError(f"{label} has images of different sizes, {shape}; one is needed")
  whole = np.issubdtype(image.np_dtype, np.integer)
  top = np.iinfo(image.np_dtype).max if whole else 1.0
  slices = _slices(builder.info.splits, label)

  def source(split: str) -> Source:
    records = _records(builder, label, slices[check_split(split)])
    return images.Images(records, shape, top, image=field)

  return Task(label, "images", 0, classes, shape, "accuracy", source)


def _slices(have: Iterable[str], label: str) -> Mapping[str, str]:
  """Maps each split to its slice of the data set, in TFDS's notation."""
  if "train" not in have:
    raise ValueError(f"{label} has no split train, only {', '.join(sorted(have))}")
  missing = [split for split in SPLITS if split not in have]
  kept = 100 - 5 * len(missing)
  slices = {split: split for split in SPLITS}
  for i, split in enumerate(missing):
    slices["train"] = f"train[:{kept}%]"
    slices[split] = f"train[{kept + 5 * i}%:{kept + 5 * (i + 1)}%]"
    progress.say(f"{label}: has no split {split}; it is {slices[split]} instead")
  return slices


def _records(builder, label: str, split: str) -> Any:
  try:
    return builder.as_data_source(split)
  except NotImplementedError as error:
    raise ValueError(
      f"{label} is prepared in {builder.data_dir} as {builder.info.file_format.value},"
      " which needs TensorFlow; prepare it as array_record in another cache_dir"
    ) from error


def _prepared(name: str, label: str, cache_dir: str) -> tfds.core.DatasetBuilder:
  builder = _find(name, label, cache_dir)
  if builder.is_prepared():
    return builder
  home = Path(builder.data_dir)
  with prepare.lock(home.parent, home.name):
    builder = _find(name, label, cache_dir)  # another process may have prepared it
    if builder.is_prepared():
      return builder
    progress.say(f"{label}: preparing it in {home}")
    try:
      _check_network(builder)
      builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # whatever the code of any data set raises
      raise OSError(
        f"{label} cannot be prepared here, {type(error).__name__}: {_line(error)};"
        " prepare it elsewhere as array_record and set cache_dir to its folder"
      ) from error
  return _find(name, label, cache_dir)


def _find(name: str, label: str, cache_dir: str) -> tfds.core.DatasetBuilder:
  folder = os.path.expanduser(cache_dir) or None
  try:
    # Prepared files are found without the code that made them.
    return tfds.builder(name, data_dir=folder)
  except tfds.core.DatasetNotFoundError as error:
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(name.partition("/")[0], known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
      f"unknown TFDS set {name!r}{hint} It is none of the {len(known)} of"
      f" tfds.list_builders() and not prepared in {folder or 'the folder of TFDS'}"
    ) from error
  except ValueError as error:
    raise ValueError(f"{label}: {_line(error)}") from error


def _check_network(builder: tfds.core.DatasetBuilder) -> None:
  """Raises OSError at once where TFDS would try for minutes."""
  urls = builder.url_infos or ()
  hosts = sorted({urllib.parse.urlsplit(url).hostname or "" for url in urls})
  if not hosts or urllib.request.getproxies():
    return
  for host in hosts:
    try:
      socket.getaddrinfo(host, 443)
      return
    except socket.gaierror:
      continue
  raise OSError(f"no network, the name {hosts[0]} is not known")


def _line(error: Exception) -> str:
  return " ".join(str(error).split())[:300]
