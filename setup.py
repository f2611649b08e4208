"""Packaging of shardrec. Versions live in constraints.txt alone; which package goes where lives here."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
PINS = {
    line.split("==")[0]: line
    for line in (HERE / "constraints.txt").read_text().split("\n")
    if line and not line.startswith("#")
}
RAY = PINS["ray"]
PINS["ray"] = RAY.replace("ray", "ray[train]", 1)


def pinned(*names: str) -> list[str]:
    return [PINS[name] for name in names]


TORCHREC_NEEDS = pinned("tensordict", "torchmetrics", "tqdm", "pyre-extensions", "iopath")
OPTIONAL = {  # what some commands need: in a clone, pip install '.[serve]'
    "onnx": pinned("onnx", "onnxscript", "onnxruntime"),
    "retrieve": pinned("faiss-cpu"),
    "serve": pinned("starlette", "uvicorn", "httptools", "uvloop", "orjson", "prometheus_client"),
    "tune": pinned("optuna"),
    "mlflow": pinned("mlflow-skinny", "SQLAlchemy", "alembic"),
    "wandb": pinned("wandb"),
}

setup(
    name="shardrec",
    version="0.1.0",
    description="Distributed training of recommenders whose ID tables outgrow a machine",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["shardrec", "shardrec.*"]),
    package_data={
        "shardrec.trainer": ["runs/*.yaml"],
        "shardrec.models.kernels": ["*.h"],
        "shardrec.models.layers.kernels": ["*.h", "*.cpp"],
        "shardrec.sharding.kernels": ["*.h", "*.cpp"],
    },
    install_requires=pinned(
        *("torch", "ray", "pyarrow", "numpy", "pydantic", "PyYAML", "typer", "rich", "safetensors", "psutil"),
        *("tensorboard", "matplotlib"),
    ),
    extras_require={
        # torchrec asks for the CUDA build of fbgemm-gpu by name, so on CPU machines make adds it with --no-deps
        "cpu": pinned("fbgemm-gpu-cpu") + TORCHREC_NEEDS,
        "cuda": pinned("torchrec", "fbgemm-gpu"),
        **OPTIONAL,
        "dev": [package for packages in OPTIONAL.values() for package in packages]
        + [RAY.replace("ray", "ray[default]", 1)]  # its job server
        + pinned(
            *("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "scikit-learn", "xxhash"),
            *("nbclient", "nbformat", "ipykernel", "pandas", "ruff", "mypy", "types-PyYAML", "httpx"),
            *("moto", "Flask", "flask-cors", "py-partiql-parser"),  # an object store
        ),
    },
    entry_points={"console_scripts": ["shardrec = shardrec.__main__:main"]},
)
