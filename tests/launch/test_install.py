"""launch/install.sh: an environment beside the torch of a site, here that of the tests; no network is asked."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NGC = "2.6.0a0+ecf3bae40a.nv25.01"
"""As NVIDIA's images number their torch: before 2.6.0, but not before 2.4."""


def install(*words: str | Path, code: int = 0, **env: str) -> str:
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")
    }
    asked = inherited | {"PYTHON": sys.executable, "PIP_INDEX_URL": "http://127.0.0.1:9/nobody"} | env
    done = subprocess.run(["bash", ROOT / "launch/install.sh", *words], env=asked, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    if code:
        assert done.stderr.startswith("install.sh: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stdout if code == 0 else done.stderr


def package(layer: Path, name: str, version: str, *needs: str, code: str = "") -> None:
    """A package as pip leaves it, in a layer of a site."""
    (layer / name).mkdir(parents=True)
    (layer / name / "__init__.py").write_text(f"__version__ = {version!r}\n{code}")
    about = layer / f"{name}-{version}.dist-info"
    about.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    (about / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def wheelhouse(tmp_path: Path) -> Path:
    """A folder with one wheel that nobody asks for."""
    folder = tmp_path / "wheelhouse"
    folder.mkdir()
    with zipfile.ZipFile(folder / "nothing-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("nothing-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: nothing\nVersion: 1\n")
    return folder


def listing(folder: Path) -> Mapping[str, int]:
    """What is installed and since when: pip writes the description of a package anew with the package itself."""
    return {p.name: p.stat().st_mtime_ns for p in folder.glob("*.dist-info")}


def test_torch_of_the_site_stays_the_sites(tmp_path: Path, wheelhouse: Path):
    layer = Path(torch.__file__).parents[1]
    before = listing(layer)
    target = tmp_path / "env"
    said = install("--use-site-torch", "--wheelhouse", wheelhouse, target, LOADEDMODULES="cuda/12.4:pytorch/2.13")
    assert f"torch {torch.__file__} {torch.__version__}" in said
    assert f"cluster file: venv: {target}  modules: [cuda/12.4, pytorch/2.13]" in said
    assert listing(layer) == before

    asked = "import skyframe, torch; print(torch.__file__, skyframe.__file__)"
    command = f"source {target}/bin/activate; python -c '{asked}'; echo $PYTHONNOUSERSITE; skyframe --version"
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    shown = subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=env, capture_output=True, text=True).stdout
    assert shown.split("\n")[:2] == [f"{torch.__file__} {ROOT}/skyframe/__init__.py", "1"]
    own = {p.name for p in target.glob("lib/python3*/site-packages/*.dist-info")}
    assert {name.partition("-")[0] for name in own} <= {"pip", "skyframe_eo"}


def pins(layer: Path, code: int = 0) -> str:
    env = {**os.environ, "PYTHONPATH": str(layer)}
    command = [sys.executable, ROOT / "launch/site_torch.py", "pins", ROOT]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_what_pip_may_not_touch(tmp_path: Path):
    package(tmp_path, "torch", NGC, "nvidia-cublas-cu12==12.8.3.14", "sympy==1.13.1", "jinja2", "gone; extra == 'x'")
    package(tmp_path, "nvidia_cublas_cu12", "12.8.3.14")
    package(tmp_path, "sympy", "1.13.1")
    package(tmp_path, "numpy", "1.26.4")  # on PYTHONPATH it is imported whatever the environment holds
    lines = pins(tmp_path).splitlines()
    ours = dict.fromkeys((ROOT / "constraints.txt").read_text().splitlines())
    mentioned = {line.partition("==")[0] for line in lines}
    assert set(lines) - set(ours) == {
        f"torch=={NGC}", "nvidia-cublas-cu12==12.8.3.14", "sympy==1.13.1", "numpy==1.26.4",
    }  # fmt: skip
    assert "zarr==3.1.6" in lines and "pytorch-lightning==2.6.6" in lines
    assert "Jinja2" not in mentioned and "MarkupSafe" not in mentioned  # torch asks for them: the site's if they serve


def test_cuda_that_the_site_lacks_is_not_brought(tmp_path: Path):
    package(tmp_path, "torch", NGC, "nvidia-cublas-cu12==12.8.3.14")
    assert "asks for nvidia-cublas-cu12, which the site lacks" in pins(tmp_path, code=2)


def test_a_torch_that_came_along_is_found(tmp_path: Path):
    target = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", target], check=True)
    (layer,) = target.glob("lib/python3*/site-packages")
    package(layer, "torch", "2.13.0")
    command = [target / "bin/python", ROOT / "launch/site_torch.py", "prove", "/site/torch/__init__.py 2.13.0"]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and f"torch, torch-2.13.0.dist-info came into {layer}" in done.stderr
    shutil.rmtree(layer / "torch-2.13.0.dist-info")
    (layer / "torch").rename(layer / "elsewhere")
    package(tmp_path / "before", "torch", "2.12.0")
    done = subprocess.run(command, env={**env, "PYTHONPATH": str(tmp_path / "before")}, capture_output=True, text=True)
    assert done.returncode == 2 and "before/torch/__init__.py 2.12.0, expected the site's /site/torch" in done.stderr


WRONG = [
    (["--use-site-torch"], "no TARGET is given"),
    (["there"], "is there already"),
    (["--site-torch", "new"], "--site-torch is no option"),
    (["one", "new"], "one and new are given"),
    (["--wheelhouse", "there", "new"], "holds no wheels"),
    (["new", "--wheelhouse"], "--wheelhouse names no folder"),
    (["--wheelhouse", "wheelhouse", "new"], "holds no wheel of setuptools>=70.1 for Python 3"),
]


@pytest.mark.parametrize(("words", "sentence"), WRONG, ids=[s for _, s in WRONG])
def test_wrong_words(tmp_path: Path, monkeypatch, wheelhouse: Path, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert sentence in install(*words, code=2)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("version", "code", "sentence"),
    [
        ("2.4.0", "raise ImportError('libcudart.so.12 is missing')", r"has no torch (libcudart.so.12 is missing)"),
        ("1.13.0+cu117", "", "the site's torch is 1.13.0+cu117, setup.cfg wants torch>=2.4"),
    ],
)
def test_wrong_torch(tmp_path: Path, wheelhouse: Path, version, code, sentence):
    package(tmp_path / "layer", "torch", version, code=code)
    words = ("--use-site-torch", "--wheelhouse", wheelhouse, tmp_path / "new")
    assert sentence in install(*words, code=2, PYTHONPATH=str(tmp_path / "layer"))
    assert not (tmp_path / "new").exists()
