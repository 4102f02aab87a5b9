"""What launch/install.sh asks about a site's own torch: where it lies, what pip may not touch, and the proof.

Runs under the site's interpreter (`found`, `layers`) and under that of the new environment (`pins`, `prove`), with
nothing but Python and pip there.
"""

import configparser
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import NoReturn

THEIRS = re.compile(r"(pytorch-)?(torch|triton)(-.*)?|(nvidia|cuda)(-.*)?|.*\bnccl\b.*")
"""Distributions that only the site may bring."""

NO_TORCH = "the site's interpreter {python} has no torch{why}, expected one of its modules; load it, or set PYTHON"


def refuse(sentence: str) -> NoReturn:
    """End with one sentence."""
    print(f"install.sh: {sentence}", file=sys.stderr)
    sys.exit(2)


def found() -> str:
    """File and version of the torch that is imported."""
    try:
        import torch
    except ImportError as error:
        refuse(NO_TORCH.format(python=sys.executable, why=f" ({error})"))
    return f"{torch.__file__} {torch.__version__}"


def layers() -> Iterator[str]:
    """Folders of packages that an environment made from this interpreter would not see: those of an environment."""
    if sys.prefix != sys.base_prefix:
        yield from dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))


def pins(root: Path) -> Iterator[str]:
    """Lines for pip: torch, CUDA and what PYTHONPATH puts before all else as they are, the rest of ours as tested.

    Other packages that torch asks for are named by neither: pip keeps the site's where it serves both, and puts a newer
    one beside it where something of ours needs that.
    """
    theirs = _visible()
    torch = theirs.get("torch")
    if torch is None:
        refuse(NO_TORCH.format(python=sys.executable, why=" that pip knows"))
    wanted = _wanted_torch(root)
    if not wanted.specifier.contains(torch.version, prereleases=True):
        refuse(f"the site's torch is {torch.version}, setup.cfg wants torch{wanted.specifier}; load a newer module")
    needed = set(_needed(theirs, "torch"))
    before = [Path(p).resolve() for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    fixed = {
        name: dist.version
        for name, dist in theirs.items()
        if name == "torch" or THEIRS.fullmatch(name) or Path(str(dist.locate_file(""))).resolve() in before
    }
    fixed.pop("skyframe-eo", None)
    for name in sorted(needed - set(theirs)):
        if THEIRS.fullmatch(name):
            refuse(f"the site's torch asks for {name}, which the site lacks and nobody else may bring; ask the site")
    for line in (root / "constraints.txt").read_text().splitlines():
        if _plain(line.partition("==")[0]) not in needed | set(fixed):
            yield line
    yield from (f"{name}=={version}" for name, version in sorted(fixed.items()))


def prove(theirs: str) -> None:
    """That the environment imports the very torch that the site gives, and holds nothing of that kind itself."""
    for place in dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))):
        names = {_name(d) for d in distributions(path=[place])} | {p.name.lower() for p in Path(place).iterdir()}
        own = sorted(n for n in names if THEIRS.fullmatch(_plain(n)))
        if own:
            refuse(f"{', '.join(own)} came into {place}, expected the site's alone; remove what asks for it")
    if found() != theirs:
        refuse(f"the environment imports torch {found()}, expected the site's {theirs}; unset what stands before it")


def _visible() -> dict[str, Distribution]:
    """Distributions by name; of two the one that is imported."""
    seen: dict[str, Distribution] = {}
    for dist in distributions():
        seen.setdefault(_name(dist), dist)
    return seen


def _needed(theirs: dict[str, Distribution], name: str) -> Iterator[str]:
    """Names of a distribution and all that it depends on here."""
    from pip._vendor.packaging.requirements import Requirement

    asked, seen = [name], set()
    while asked:
        name = asked.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        for text in (theirs[name].requires or []) if name in theirs else []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                asked.append(_plain(requirement.name))


def _wanted_torch(root: Path):  # noqa: ANN202  a Requirement of pip's own copy
    from pip._vendor.packaging.requirements import Requirement

    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    return next(r for r in map(Requirement, filter(None, lines)) if r.name == "torch")


def _name(dist: Distribution) -> str:
    return _plain(dist.metadata["Name"] or "")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    task, *rest = sys.argv[1:]
    if task == "found":
        print(found())
    elif task == "layers":
        print("\n".join(layers()))
    elif task == "pins":
        print("\n".join(pins(Path(rest[0]))))
    elif task == "prove":
        prove(rest[0])
