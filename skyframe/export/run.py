"""From a run's checkpoint to one folder per module."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from skyframe.config.contract import CONTRACT_FORMAT, Contract
from skyframe.config.skysense import SkySenseRecipe
from skyframe.export.folder import WEIGHTS, Exported, canary_input, canary_output, file_sha256
from skyframe.geography import RegionIndex
from skyframe.spec import InputError, Modality, build
from skyframe.system import SYSTEMS


def export_run(checkpoint: dict[str, Any], recipe: SkySenseRecipe, out: str | Path) -> list[Path]:
    """Write every exported module of a run.

    Args:
        checkpoint: a loaded checkpoint of `skyframe pretrain`.
        recipe: the run's resolved recipe.
        out: new folder; appears only when all of it is written.

    Returns:
        The module folders.

    Raises:
        InputError: `out` exists, or the checkpoint does not fit the recipe.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: exists already, expected a new folder; choose another name or delete it")
    modalities: dict[str, Modality] = build(dict[str, Modality], checkpoint["modalities"], "checkpoint: modalities")
    regions = RegionIndex.from_dict(checkpoint["regions"])
    system = SYSTEMS[recipe.system](recipe, modalities, regions)
    weights = {k.removeprefix("system."): v for k, v in checkpoint["state_dict"].items() if k.startswith("system.")}
    try:
        system.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"checkpoint: does not fit the recipe ({str(error).splitlines()[-1].strip()}); use the run's own "
            "recipe.yaml"
        ) from error
    aside = out.with_name(out.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    untrained = _untrained(weights, modalities) + ([] if recipe.teaches_fusion else ["fusion"])
    try:
        for name, module in system.exports().items():
            contract = contract_of(name, module, recipe, modalities, regions)
            contract = _write(aside / name, module, contract)
            (aside / name / "README.md").write_text(
                _card(name, recipe, contract, int(checkpoint["global_step"]), untrained)
            )
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # of an export that failed
    return [out / name for name in system.exports()]


def _untrained(weights: dict[str, Any], modalities: dict[str, Modality]) -> list[str]:
    """Modalities whose encoder no sample ever fed: their weights never saw data and the card says so."""
    fed = weights.get("fed")
    return [] if fed is None else [n for n, seen in zip(modalities, fed.tolist(), strict=True) if not seen]


def contract_of(
    name: str, module: nn.Module, recipe: SkySenseRecipe, modalities: dict[str, Modality], regions: RegionIndex
) -> Contract:
    """What a module of a run expects, before there are weights to sign."""
    own = {k: m for k, m in modalities.items() if name == f"encoder_{k}"} or modalities
    hr = modalities.get("hr")
    return Contract(
        format=CONTRACT_FORMAT,
        system=recipe.system,
        module=name,
        modalities=dict(own),
        frames={k: v for k, v in recipe.data.frames.items() if k in own},
        crop_px=recipe.views.crop_px,
        ratio=hr.pixels(10.0) if hr is not None else 0,
        num_features=int(getattr(module, "num_features", recipe.model.fusion.embed_dims)),
        regions=regions.to_dict(),
        build={"model": dataclasses.asdict(recipe.model), "num_regions": regions.num_regions},
    )


def _write(folder: Path, module: nn.Module, contract: Contract) -> Contract:
    """Weights, contract and canary of one module; returns the contract as a reader will see it."""
    folder.mkdir(parents=True)
    weights = {k: v.detach().cpu().contiguous().clone() for k, v in module.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    contract = dataclasses.replace(contract, weights_sha256=file_sha256(folder / WEIGHTS))
    contract.save(folder)
    contract = Contract.load(folder)  # the canary is answered by what a reader will see
    inputs = canary_input(contract)
    expected = canary_output(Exported(module, contract), inputs)
    save_file({**inputs, "expected": expected.contiguous()}, folder / contract.canary.file)
    return contract


def _card(name: str, recipe: SkySenseRecipe, contract: Contract, step: int, untrained: list[str]) -> str:
    """The human-readable card."""
    rows = [
        f"| {m.name} | {', '.join(m.band_names)} | {m.gsd_m:g} m | {m.units} (stored x {m.scale:g} + {m.offset:g}) |"
        for m in contract.modalities.values()
    ]
    warning = (
        f"\n**Never fed during pretraining: {', '.join(untrained)}.** Do not use these parts.\n" if untrained else ""
    )
    use = (
        "features = module.encode(batch)  # fused [B, N, D], pooled [B, D]"
        if name == "model" or name.startswith("encoder_")
        else "out = module(...)"
    )
    return f"""# {recipe.name} / {name}

Exported by SkyFrame from step {step} of recipe `{recipe.name}`: system {recipe.system}, preset {recipe.model.preset},
seed {recipe.seed}. Weights are the EMA teacher's; width {contract.num_features};
SHA-256 `{contract.weights_sha256[:16]}...` in contract.json.
{warning}
| modality | bands in order | GSD | units |
|---|---|---|---|
{chr(10).join(rows)}

Dates: {contract.dates}. Missing values: {contract.missing}.

```python
import skyframe
module = skyframe.load_module("{name}")
{use}
```
"""
