"""The TFDS builder of the Python standard library's source."""

import hashlib
import platform
import sysconfig
from pathlib import Path

import tensorflow_datasets as tfds

from experiments.data import text

_OMITTED = {"site-packages", "dist-packages", "test", "tests", "idlelib"}
_PYTHON = platform.python_version()


class Builder(tfds.core.GeneratorBasedBuilder):
  """One record a file, sorted by path."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Without tests, idlelib and installed packages."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(
      name=f"python{_PYTHON}", description=f"The library of Python {_PYTHON}."
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      features=text.FEATURES,
      disable_shuffling=True,
      homepage="https://docs.python.org/3/library",
      license="PSF-2.0",
      metadata=tfds.core.MetadataDict(python=_PYTHON, sha256=""),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded
    files = _files()
    # Builds of one version of Python may differ in a few generated files.
    self.info.metadata["sha256"] = hashlib.sha256(b"".join(files)).hexdigest()
    splits = text.contiguous(files)
    return {split: self._generate_examples(split, splits[split]) for split in splits}

  def _generate_examples(self, split, documents):
    return text.records(documents, f"stdlib {split}")


def _files() -> list[bytes]:
  root = Path(sysconfig.get_paths()["stdlib"])
  paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
  kept = [name for name in sorted(paths) if not _OMITTED & set(name.split("/")[:-1])]
  if not kept:
    raise FileNotFoundError(f"this Python has no sources of its library in {root}")
  return [paths[name].read_bytes() for name in kept]
